"""What reaches the loss of a task: fields of every kind, augmented as their images are."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu import metrics

from cnnjax import augment, data, registry, tasks, train
from cnnjax.config import default, override
from cnnjax.data import fields
from cnnjax.training import passes

SIZE, N = 12, 32


@pytest.fixture(scope="module", autouse=True)
def registered(registry_of_file):
  yield


Losses = metrics.Collection.create(loss=metrics.Average.from_output("loss"))


@dataclasses.dataclass(frozen=True)
class Corners(tasks.Task):
  """The corners of the first box that an image has."""

  NEEDS: ClassVar = ("image", "boxes")
  TARGET: ClassVar = "boxes"
  METRICS: ClassVar = (tasks.Metric("loss", better="min", form=".4f", headline=True),)
  name: str = "corners"

  @classmethod
  def count_outputs(cls, data, config):
    return 4

  def loss(self, outputs, targets):
    first = jnp.argmax(targets["boxes_valid"], axis=1)
    corners = jnp.take_along_axis(targets["boxes"], first[:, None, None], axis=1)[:, 0]
    return jnp.abs(outputs - corners).mean(-1)

  def predictions(self, outputs):
    return {"corners": outputs}

  @property
  def collection(self):
    return Losses

  @property
  def example_shapes(self):
    shape = jax.ShapeDtypeStruct
    boxes = {"boxes": shape((1, 3, 4), jnp.float32), "boxes_label": shape((1, 3), jnp.int32)}
    return shape((1, 4), jnp.float32), {**boxes, "boxes_valid": shape((1, 3), bool)}


def scene(n=N):
  """One bright rectangle an image, its mask, and its box at the second place of three."""
  rng = np.random.default_rng(0)
  low, high = rng.integers(1, 5, (n, 2)), rng.integers(7, 11, (n, 2))
  rows = np.arange(SIZE)
  inside = lambda axis: (rows >= low[:, axis, None]) & (rows < high[:, axis, None])
  mask = (inside(0)[:, :, None] & inside(1)[:, None]).astype(np.uint8)
  boxes = np.zeros((n, 3, 4), np.float32)
  boxes[:, 1] = np.concatenate([low, high], axis=1) / SIZE
  valid = np.zeros((n, 3), bool)
  valid[:, 1] = True
  labels = np.full((n, 3), 1, np.int32)
  images = np.broadcast_to(mask[..., None] * 255, (n, SIZE, SIZE, 3)).astype(np.uint8)
  return {
    "image": images, "mask": mask,
    "box": boxes, "box_label": labels, "box_valid": valid,
  }  # fmt: skip


DATA = {
  "image": fields.image(SIZE, SIZE, 3), "mask": fields.mask(SIZE, SIZE, ("out", "in")),
  "box": fields.boxes(3, ("cat", "dog")),
}  # fmt: skip


def augmented(task, spec, step=0):
  batch = {name: jnp.asarray(x) for name, x in scene().items()}
  return jax.device_get(passes.augmented(task, augment.create(spec), 0, step, batch)[:2])


def extent(bright):
  """The box around what is bright in an image, as shares of its height and width."""
  rows, columns = bright.any(1).nonzero()[0], bright.any(0).nonzero()[0]
  return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) / SIZE


def test_boxes_reach_the_loss_as_they_lie_in_the_augmented_image():
  task = Corners(4, data=DATA)
  images, targets = augmented(task, "flip")
  assert {*targets} == {"boxes", "boxes_label", "boxes_valid"}
  moved = 0
  for image, boxes, valid, before in zip(
    images, targets["boxes"], targets["boxes_valid"], scene()["box"], strict=True
  ):
    assert valid.sum() == 1
    np.testing.assert_allclose(boxes[valid][0], extent(image[..., 0] > 0.5), atol=1e-6)
    moved += abs(boxes[valid][0] - before[1]).max() > 0.01
  assert 4 < moved < N  # mirrored ones
  np.testing.assert_array_equal(targets["boxes_label"], 1)
  corners = [extent(image[..., 0] > 0.5) for image in images]
  np.testing.assert_allclose(task.loss(jnp.asarray(corners), targets), 0, atol=1e-6)


def test_a_task_of_several_kinds_has_them_all():
  task = type("Both", (Corners,), {"TARGET": ("mask", "boxes")})(4, data=DATA)
  images, targets = augmented(task, "flip")
  assert {*targets} == {"mask", "boxes", "boxes_label", "boxes_valid"}
  np.testing.assert_array_equal(targets["mask"] == 1, images[..., 0] > 0.5)


def test_the_targets_of_each_view_are_those_of_its_image():
  """Each view is mirrored by its own draw, and so are its mask and its boxes."""
  task = type("TwoViews", (Corners,), {"TARGET": ("mask", "boxes"), "VIEWS": 2})(4, data=DATA)
  images, targets = augmented(task, "flip")
  assert images.shape == (N, 2, SIZE, SIZE, 3) and targets["boxes"].shape == (N, 2, 3, 4)
  np.testing.assert_array_equal(targets["mask"] == 1, images[..., 0] > 0.5)
  for view in range(2):
    found = targets["boxes"][:, view][targets["boxes_valid"][:, view]]
    expected = [extent(image[..., 0] > 0.5) for image in images[:, view]]
    np.testing.assert_allclose(found, expected, atol=1e-6)
  assert (images[:, 0] != images[:, 1]).any((1, 2, 3)).sum() > N / 4


def test_mixed_targets_of_each_view_are_those_of_its_mix():
  """Classes are levels of grey, so that the target of a mixed image can be read from it."""
  task = type("TwoViews", (tasks.Classification,), {"VIEWS": 2})(5)
  labels = np.arange(N) % 5
  images = np.broadcast_to((labels * 50)[:, None, None, None], (N, 4, 4, 3)).astype(np.uint8)
  batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
  operations = augment.create("mixup(1.0)")
  images, targets, _ = jax.device_get(passes.augmented(task, operations, 0, 3, batch))
  assert targets.shape == (N, 2, 5)
  np.testing.assert_allclose(targets @ (np.arange(5) * 50 / 255), images.mean((2, 3, 4)), atol=1e-5)
  assert abs(targets[:, 0] - targets[:, 1]).max() > 0.01


@pytest.mark.parametrize("size", [SIZE, 6])
def test_images_as_targets_are_those_that_are_augmented(size):
  """An autoencoder's: in [0, 1], in training and in evaluation."""
  same = {"TARGET": None, "targets_of": lambda self, encoded: encoded["image"]}
  task = type("Autoencoder", (Corners,), same)(4)
  images, targets = augmented(task, "flip")
  np.testing.assert_array_equal(images, targets)
  seen = []
  task = type("Seeing", (type(task),), {"eval_metrics": lambda self, o, t, m: seen.append(t)})(4)
  batch = {"image": jnp.asarray(scene()["image"][:, :size])}
  passes.eval_step(task, lambda variables, images: images)({}, batch, jnp.ones(N, bool))
  np.testing.assert_allclose(seen[0], batch["image"] / 255.0, atol=1e-7)


@pytest.mark.slow
def test_a_task_trains_on_boxes(tmp_path):
  registry.register("task", "corners")(Corners)
  config = default()
  for key, value in {
    "task.name": "corners", "monitor": "validation/loss", "data.source": "arrays",
    "augment": "flip", "batch_size": 8, "epochs": 30, "optim.name": "adam", "mesh.data": 1,
    "optim.learning_rate": 0.005, "data.validation": None, "eval_every": 30,
  }.items():  # fmt: skip
    override(config, key, value)
  config.model = {"name": "simple_cnn_keras", "conv_features": (8,), "dropout": 0.0}
  names = {"image", "box", "box_label", "box_valid"}
  part = {name: x for name, x in scene().items() if name in names}
  declared = {name: DATA[name] for name in ("image", "box")}
  split = data.Split.of_fields(data.Arrays(part), declared)
  _, results, _ = train.train(config, tmp_path / "run", {"train": split, "test": split})
  middle = np.abs(scene()["box"][:, 1] - scene()["box"][:, 1].mean(0)).mean()
  assert results["test/loss"] < middle / 2
