"""Parts and their keys: what `register` refuses, what configs do with keys from outside."""

import json
import subprocess
import sys

import pytest

from cnnjax import Key, build, errors, main, register, registry, tasks
from cnnjax import config as configs
from cnnjax.checkpoints import workdir
from cnnjax.config import default, from_json, to_json
from cnnjax.errors import UserError

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


def test_a_metric_says_min_or_max():
  register("metric", "mine", of="classification", better="smaller")(None)
  config = default()
  config.task.metrics = ("mine",)
  with pytest.raises(
    UserError, match=r"metric 'mine' is better when 'smaller'\. Choose from: max, min"
  ):
    build.validate(config)


def test_a_name_of_the_house_is_taken_before_its_room_is_imported(monkeypatch):
  """A part from outside has the room of its kind imported first, which registers all of it."""
  house = [(key[0], part.module) for key, part in registry._PARTS.items()]
  house = [(kind, module) for kind, module in house if module.startswith("cnnjax.")]
  options = {"of": "classification", "better": "max"}
  for kind, row in registry.PART_KINDS.items():
    if row.by:  # a model's, by a function of its room
      continue
    asked, needed = [], {option: options[option] for option, _ in row.required}
    with monkeypatch.context() as patch:
      patch.setattr(registry.importlib, "import_module", asked.append)
      register(kind, "mine", **needed)(None)
    assert asked == [row.room]
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
