"""Parts and their keys: what `register` refuses, what configs do with keys from outside."""

import json
import subprocess
import sys
import types

import pytest

from cnnjax import Key, build, errors, main, register, registry, tasks
from cnnjax import config as configs
from cnnjax.checkpoints import workdir
from cnnjax.config import default, from_json, to_json
from cnnjax.errors import UserError
from cnnjax.optim import joined

ABOVE_0 = (lambda v: v > 0, "above 0")


@pytest.fixture(autouse=True)
def forgotten(own_registry):
  """What a test registers is forgotten after it."""


def loss(name="mine", **given):
  return register("loss", name, of="classification", **given)(lambda task, logits, targets: logits)


@pytest.mark.parametrize(
  "kind, name, given, words",
  [
    ("optimizer", "sgd", {}, "'sgd' is already registered, by cnnjax.optim.optimizers; choose"),
    ("model", "resnet20", {}, "'resnet20' is already registered, by cnnjax.models.resnet; choose"),
    ("loss", "focal", {"of": "multi_label"}, "a loss named 'focal' is already registered"),
    ("loss", "mine", {"of": "classification", "focal_gamma": Key(1.0, "gamma")},
     r"the loss 'mine' declares the config key 'task.focal_gamma', which exists already: .*uses="),
    ("optimizer", "mine", {"schedule": Key(1.0, "a group")}, "'optim.schedule', which exists"),
    ("optimizer", "mine", {"uses": ("momentm",)}, "Did you mean 'optim.momentum'"),
    ("optimizer", "mine", {"dcay": ("l2",)}, "unknown option of the optimizer 'mine' 'dcay'"),
    ("optimiser", "mine", {}, "unknown kind of part 'optimiser'. Did you mean 'optimizer'"),
    ("augmentation", "mine", {"most": Key(1, "at most")}, "takes arguments, not keys such as"),
    ("loss", "mine", {}, "the loss 'mine' is registered without 'of': give of='classification'"),
    ("metric", "mine", {"of": "classification"},
     "the metric 'mine' is registered without 'better': give better='min' or better='max'"),
    ("source", "mine", {"most": Key(0, "most", rule=ABOVE_0)}, "'data.most' is 0; it must"),
    ("source", "mine", {"most": Key("a", "most", types=int)}, "'data.most' takes int, not 'a'"),
  ],
)  # fmt: skip
def test_what_cannot_be_registered(kind, name, given, words):
  before = {**registry.keys()}, registry.parts(kind, given.get("of", ""))
  with pytest.raises(UserError, match=words):
    register(kind, name, **given)(lambda num_classes, dtype: None)
  assert ({**registry.keys()}, registry.parts(kind, given.get("of", ""))) == before


@pytest.mark.parametrize(
  "kind, given, words",
  [
    ("metric", {"better": "smaller"}, r"'mine' is better when 'smaller'\. Choose from: max"),
    (
      "metric",
      {"better": "min", "form": "zzz"},
      "'mine' is written by form='zzz', which formats no",
    ),
    ("task", {}, "the task 'mine' must be a subclass of cnnjax.tasks.Task, not None"),
  ],
)
def test_a_part_that_cannot_be_one_is_refused_as_it_is_registered(kind, given, words):
  of = {"of": "classification"} if kind == "metric" else {}
  with pytest.raises(UserError, match=words):
    register(kind, "mine", **given, **of)(None)
  assert "mine" not in registry.parts(kind, of.get("of", ""))


@pytest.mark.parametrize("kind", ["loss", "head", "metric"])
def test_a_part_of_a_task_that_does_not_exist_is_refused(kind):
  given = {"better": "min"} if kind == "metric" else {}
  register(kind, "mine", of="clasification", **given)(None)
  words = f"the {kind} 'mine' is registered with of 'clasification'. Did you mean 'classification'"
  with pytest.raises(UserError, match=words):
    build.validate(default())


def test_a_task_says_which_step_it_needs():
  @register("task", "drawn")
  class Drawn(tasks.Classification):
    STEP = "drawing"

  register("step", "drawing")(lambda context: None)
  config = default()
  config.task.name = "drawn"
  with pytest.raises(UserError, match=r"task\.name=drawn needs step\.name=drawing, not standard"):
    build.validate(config)
  config.step.name = "drawing"
  build.validate(config)


@pytest.mark.parametrize(
  "kind, words",
  [("loss", "the loss of the task 'classification'"), ("metric", "the metric 'mine'")],
)
def test_what_gives_one_value_for_a_batch_is_refused_before_compiling(kind, words):
  given = {"better": "min"} if kind == "metric" else {}
  register(kind, "mine", of="classification", **given)(lambda task, logits, targets: logits.mean())
  config = default()
  config.model.name = "mlp"
  config.task["metrics" if kind == "metric" else "loss"] = ("mine",) if given else "mine"
  words += r" must return a value for each example, of shape \[\d+\], and returned \[\]"
  with pytest.raises(UserError, match=words):
    build.build(config)


def test_a_source_must_return_a_split():
  register("source", "mine")(lambda config, split: 5)
  config = default()
  config.data.source = "mine"
  words = "the data source 'mine' must return a cnnjax.data.Split, and returned a int"
  with pytest.raises(UserError, match=words):
    build.build(config)


def test_another_optimizer_of_several_begins_with_its_own_defaults():
  """Nesterov is a key of SGD, which the config sets for its main optimizer."""
  config = default()
  config.optim.nesterov = True
  config.optimizers = (("head", {"params": "^head", "name": "adamw", "learning_rate": 1e-3}),)
  build.validate(config)
  own = joined.settings(config)["head"].config.optim
  assert (own.name, own.nesterov, config.optim.nesterov) == ("adamw", False, True)


def test_a_name_of_the_house_is_taken_before_its_room_is_imported(monkeypatch):
  """A part from outside has the room of its kind imported first, which registers all of it."""
  house = [(key[0], part.module) for key, part in registry._PARTS.items()]
  house = [(kind, module) for kind, module in house if module.startswith("cnnjax.")]
  options = {"of": "classification", "better": "max"}
  any_room = types.SimpleNamespace(check_part=lambda *_: None)
  for kind, row in registry.PART_KINDS.items():
    if row.by:  # a model's, by a function of its room
      continue
    asked, needed = [], {option: options[option] for option, _ in row.required}
    imported = lambda name, asked=asked: asked.append(name) or any_room
    with monkeypatch.context() as patch:
      patch.setattr(registry.importlib, "import_module", imported)
      register(kind, "mine", **needed)(None)
    assert asked[0] == row.room
    assert all(module.startswith(row.room) for other, module in house if other == kind)


MADE = tasks.Metric("made", "max")


@pytest.mark.parametrize(
  "declared, words",
  [
    ({"NEEDS": ("imge", "label")}, "kind of field that task.name=mine needs: 'imge'. Did you mean"),
    ({"NEEDS": "mask"}, r"task.name=mine must say its NEEDS as a tuple of kinds: \('mask',\)"),
    (
      {"METRICS": ("loss",)},
      "METRICS and SPLIT_METRICS of Mine hold 'loss': write Metric\\('loss'",
    ),
    (
      {"SPLIT_METRICS": ("loss",)},
      "METRICS and SPLIT_METRICS of Mine hold 'loss': write Metric\\('loss'",
    ),
    ({"METRICS": ()}, "monitor='validation/accuracy' is no metric of task.name=mine, which decl"),
    ({"METRICS": (MADE,)}, "metric: monitor 'validation/accuracy'.*set monitor=validation/made"),
  ],
)
def test_what_a_task_declares_wrongly(declared, words):
  register("task", "mine")(type("Mine", (tasks.Classification,), declared))
  config = default()
  config.task.name = "mine"
  with pytest.raises(UserError, match=words):
    build.validate(config)


def test_a_metric_that_the_task_has_already():
  register("metric", "accuracy", of="classification", better="max")(None)
  config = default()
  config.task.metrics = ("accuracy",)
  with pytest.raises(UserError, match=r"names 'accuracy', which task.name=classification measures"):
    build.validate(config)


@pytest.mark.parametrize(
  "given, words",
  [
    ((), "the metric 'mine' has no direction: give better='min' or better='max'"),
    (
      ("higher",),
      "unknown direction: metric 'mine' is better when 'higher'. Choose from: max, min",
    ),
  ],
)
def test_a_metric_of_a_task_without_a_direction(given, words):
  with pytest.raises(UserError, match=words):
    tasks.Metric("mine", *given)


@pytest.mark.parametrize(
  "value, words",
  [("x", "takes float, not 'x'"), (-1.0, "is -1.0; it must be above 0")],
)
def test_a_key_from_outside_is_checked_as_any_other(value, words):
  loss(epsilon=Key(1.0, "epsilon", rule=ABOVE_0))
  config = default()
  config.task.update(loss="mine", epsilon=value)
  with pytest.raises(UserError, match=rf"'task\.epsilon' {words}"):
    build.validate(config)


def test_choices_durations_and_needs_of_a_key_from_outside():
  loss(
    form=Key("a", "form", choices=("a", "b")),
    after=Key("3 steps", "after", duration=True),
    more=Key(1, "more", rule=ABOVE_0, needs="task.form=b"),
  )
  config = default()
  config.task.loss = "mine"
  for values, words in (
    ({"form": "c"}, "unknown task.form 'c'"),
    ({"after": 0}, "'task.after' is 0; it must be above 0"),
    ({"more": 2}, "'task.more' is 2 and has no effect without task.form=b"),
  ):
    wrong = config.copy_and_resolve_references()
    wrong.task.update(values)
    with pytest.raises(UserError, match=words):
      build.validate(wrong)
  config.task.update(form="b", more=2, after=2.5)
  build.validate(config)


def test_a_key_of_a_part_that_is_not_chosen():
  loss(epsilon=Key(1.0, "epsilon", rule=ABOVE_0))
  config = default()
  config.task.epsilon = 2.0
  with pytest.raises(UserError, match=r"'task\.epsilon' is 2\.0 and has no effect with"):
    build.validate(config)


def test_a_config_made_before_a_part_gets_its_keys():
  config = default()
  loss(epsilon=Key(1.0, "epsilon", rule=ABOVE_0))
  build.validate(config)
  assert config.task.epsilon == 1.0 and config == default()
  with pytest.raises((AttributeError, KeyError)):
    config.task.nonesuch = 1


def test_a_saved_config_has_the_keys_of_what_is_chosen_alone():
  plain = to_json(default())
  loss(epsilon=Key(1.0, "epsilon", rule=ABOVE_0))
  loss("other", uses=("epsilon",))
  config = default()
  assert to_json(config) == plain
  for name in ("mine", "other"):
    config.task.loss = name
    saved = to_json(config)
    assert json.loads(saved)["task"]["epsilon"] == 1.0
    assert from_json(saved) == config


MODULE = """
import optax
from cnnjax import Key, register

@register("loss", "from_afar", of="classification", epsilon=Key(1.0, "a share of it"))
def from_afar(task, logits, targets):
  return task.config.epsilon * optax.softmax_cross_entropy(logits, targets)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
  """The name of a module that registers a loss; it is imported anew in each test."""
  (tmp_path / "parts_from_afar.py").write_text(MODULE)
  monkeypatch.syspath_prepend(tmp_path)
  yield "parts_from_afar"
  sys.modules.pop("parts_from_afar", None)


CHOSEN = ["--config.imports=parts_from_afar", "--config.task.loss=from_afar"]


def test_imports_come_before_overrides(module):
  words = ["--config.task.epsilon=0.5", *CHOSEN]
  config = configs.from_arguments("configs/mlp.py", words, [])
  assert config.task.epsilon == 0.5
  build.validate(config)


def test_a_run_is_read_in_a_process_that_has_not_imported_its_parts(module, tmp_path):
  config = configs.from_arguments("configs/mlp.py", [*CHOSEN, "--config.task.epsilon=0.5"], [])
  workdir.claim(tmp_path / "run", config)
  code = (
    "from cnnjax.checkpoints import workdir; "
    f"print(workdir.load_config({str(tmp_path / 'run')!r}).task.epsilon)"
  )
  done = subprocess.run(
    [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.stdout == "0.5\n", done.stderr


def test_what_a_module_registered_before_it_failed_is_forgotten(module, tmp_path):
  file = tmp_path / "parts_from_afar.py"
  file.write_text(MODULE + "\n1 / 0\n")
  with pytest.raises(UserError, match=r"cannot import 'parts_from_afar'.*ZeroDivisionError"):
    registry.import_modules([module])
  assert "task.epsilon" not in {**registry.keys()}
  file.write_text(MODULE + "\n")
  registry.import_modules([module])
  assert "from_afar" in registry.parts("loss", "classification")


@pytest.mark.parametrize(
  "text, words",
  [
    (MODULE, "the config chooses nothing that it registers (loss from_afar): set task.loss=from"),
    ("", "'imports' names 'parts_from_afar', which registers nothing: leave it out"),
  ],
)
def test_imports_that_bring_nothing(module, tmp_path, capsys, text, words):
  (tmp_path / "parts_from_afar.py").write_text(text)
  assert errors.run(lambda: main.main(["--config=configs/mlp.py", CHOSEN[0]])) == 2
  assert words in capsys.readouterr().err


def test_a_module_that_imports_the_parts_of_others(module, tmp_path, monkeypatch):
  (tmp_path / "all_parts_from_afar.py").write_text("import parts_from_afar\n")
  words = ["--config.imports=all_parts_from_afar", CHOSEN[1]]
  for _ in range(2):
    assert configs.from_arguments("configs/mlp.py", words, []).task.loss == "from_afar"
  with pytest.raises(UserError, match="'all_parts_from_afar', and the config chooses nothing"):
    configs.from_arguments("configs/mlp.py", words[:1], [])


def test_another_choice_sets_back_the_keys_of_a_part(module, tmp_path):
  (tmp_path / "mine.py").write_text(
    "import parts_from_afar\nfrom cnnjax.config import default\n\ndef get_config():\n"
    "  c = default()\n  c.imports = ('parts_from_afar',)\n"
    "  c.task.loss, c.task.epsilon = 'from_afar', 3.0\n  return c\n"
  )
  assert configs.from_arguments(f"{tmp_path}/mine.py", [], []).task.epsilon == 3
  words = ["--config.task.loss=focal", "--config.imports=()"]
  assert configs.from_arguments(f"{tmp_path}/mine.py", words, []).task.epsilon == 1
