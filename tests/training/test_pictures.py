"""Pictures that a task returns: refused where they cannot be shown, and made of a split."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import build, register, tasks, train
from cnnjax.errors import UserError
from cnnjax.training import pictures
from cnnjax.training import program as programs


@pytest.fixture(autouse=True)
def forgotten(own_registry):
  """What a test registers is forgotten after it."""


def shown(pictures):
  """A task of the name `shown` that shows what `pictures` returns of (fitted, batch, key)."""
  method = lambda self, fitted, batch, key: pictures(fitted, batch, key)
  register("task", "shown")(type("Shown", (tasks.Classification,), {"pictures": method}))
  return {"task.name": "shown"}


FLOATS = jnp.zeros((2, 4, 4, 1))


@pytest.mark.parametrize(
  "found, words",
  [
    ([FLOATS], "the pictures of task.name=shown are a list, and must be a dict of names"),
    ({"": FLOATS}, "have the name '': make it of letters"),
    ({"a/b": FLOATS}, "have the name 'a/b': make it of letters, digits, _, - and ., such as"),
    ({"a": FLOATS[0]}, r"'a' of task.name=shown is \[4, 4, 1\], and must be \[n, height, width"),
    ({"a": FLOATS[:0]}, r"'a' of task.name=shown is \[0, 4, 4, 1\], and must be"),
    ({"a": jnp.zeros((2, 4, 4, 4))}, r"is \[2, 4, 4, 4\], and must be \[n, height, width, 1 or 3"),
    ({"a": FLOATS.astype(jnp.uint8)}, "'a' .* uint8, and must be float in .*: divide uint8 by 255"),
    ({"loss": FLOATS}, "the picture 'loss' of task.name=shown has the name of a metric"),
    ({"ema_loss": FLOATS}, "the picture 'ema_loss' .* has the name of a metric"),
    ({"a": FLOATS, "ema_a": FLOATS}, "the picture 'ema_a' .* or of another picture: choose"),
  ],
)
def test_what_cannot_be_shown_is_refused(tiny, found, words):
  with pytest.raises(UserError, match=words):
    build.build(tiny(**shown(lambda *_: found), **{"average.ema": 0.9}))


@pytest.mark.parametrize(
  "made, words",
  [
    (lambda fitted, images: fitted.normalize(images), r"has values from -\d.* to \d.*, outside"),
    (
      lambda fitted, images: 255 * images,
      r"to 2\d\d, outside .0, 1.: let task.name=shown divide by",
    ),
    (lambda fitted, images: images / 0, "has values that are no finite numbers"),
  ],
)
def test_values_outside_0_to_1_are_refused_before_training(
  tiny, tmp_path, monkeypatch, made, words
):
  def too_late(*_):
    raise AssertionError("it trains")

  monkeypatch.setattr(programs.Program, "train_step", too_late)
  own = shown(lambda fitted, batch, key: {"a": made(fitted, batch["image"])})
  with pytest.raises(UserError, match=words):
    train.train(tiny(**own), tmp_path)


@pytest.mark.parametrize("examples", [5, 37])
def test_they_are_of_the_first_examples_and_of_each_run(tiny, examples):
  """On eight devices, which a number of examples need not divide."""

  def pictures(fitted, batch, key):
    same = fitted.to_pixels(fitted.normalize(batch["image"]))
    value = fitted.variables["params"]["head"]["bias"][0] + jax.random.uniform(key)
    return {"same": same, "value": jnp.full((1, 1, 1, 1), value)}

  settings = {"mesh.data": 8, "seeds": 2, "data.synthetic.test_examples": examples}
  program = build.build(tiny(**shown(pictures), **settings))
  variables = {"params": {"head": {"bias": jnp.array([[0.0], [10.0]])}}}
  found = program.pictures.taken(variables, jnp.array([0, 1], jnp.uint32), "test")
  assert {*found} == {f"{name}/seed={seed}" for name in ("same", "value") for seed in (0, 1)}
  images = program.inputs.evaluations["test"].split.records.images[:16]
  for seed in (0, 1):
    np.testing.assert_allclose(found[f"same/seed={seed}"], images / 255, atol=1e-6)
  first, second = (float(found[f"value/seed={seed}"].squeeze()) for seed in (0, 1))
  assert 0 <= first <= 1 and 0 <= second - 10 <= 1 and abs(second - 10 - first) > 1e-3


def test_a_task_without_pictures_computes_none(tiny):
  program = build.build(tiny())
  now = types.SimpleNamespace(evaluated=None, seed=None)  # it would fail on these
  program.pictures.check_values(now)
  assert program.pictures.taken(None, None, "test") == {}


@pytest.mark.parametrize(
  "values, words",
  [
    ([0.0, 1.0], None),
    ([-0.0009, 1.0009], None),  # of rounding
    ([-0.0011, 1.0], "has values from -0.0011 to 1, outside [0, 1]"),
    ([0.0, 1.0011], "has values from 0 to 1, outside [0, 1]"),
    ([0.5, np.nan], "has values that are no finite numbers"),
  ],
)
def test_values_that_are_outside(values, words):
  found = pictures.outside("a", np.array(values, np.float32))
  assert found == (words and f"the picture 'a' {words}")


@pytest.mark.parametrize("name", ["a b", "a/b", "", "-a", 3, "ä b"])
def test_names_that_are_none(name):
  with pytest.raises(UserError, match="make it of letters, digits, _, - and"):
    pictures.check("me", {name: np.zeros((1, 2, 2, 1), np.float32)}, (), ("raw",))


def test_what_can_be_shown():
  for shape in ((1, 1, 1, 1), (9, 2, 3, 3)):
    found = {"a.b-c_9": np.zeros(shape, np.float16), "9": np.zeros(shape, np.float32)}
    pictures.check("me", found, ("loss",), ("raw", "ema"))
  for shape in ((1, 2, 2, 2), (1, 0, 2, 1), (2, 2, 1), (1, 1, 1, 2, 1)):
    with pytest.raises(UserError, match=r"'a' of me is \["):
      pictures.check("me", {"a": np.zeros(shape, np.float32)}, (), ("raw",))


def test_the_numbers_of_a_picture_are_those_of_no_step():
  """And stay: a run that goes on shows the same noise."""
  assert pictures._OF_PICTURES == 2**31 - 2 and pictures.EXAMPLES == 16
