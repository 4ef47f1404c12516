"""Predicts classes of images, or the values or maps that a model was trained for.

python -m cnnjax.predict runs/lenet photo.jpg more_photos/
python -m cnnjax.predict runs/lenet photos/ --checkpoint=best --weights=ema --format=csv

Images may have any size: they are decoded and cropped as the run evaluated them. Images that cannot
be read are named on stderr and left out; the exit code is then 1.
"""

import argparse
import collections
import csv
import dataclasses
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnnjax.config import saved
from cnnjax.errors import (
  ArgumentParser,
  UserError,
  announce,
  listed,
  number,
  run,
  tell,
  unknown,
)
from cnnjax.runtime import strict_json
from cnnjax.runtime.paths import PathLike, to_path

if TYPE_CHECKING:
  from cnnjax.trained import Trained

FORMATS = ("table", "csv", "json")


class Predictions(NamedTuple):
  """The predictions of a model for images.

  `values` are arrays `[images, ...]` by the names of the task: classification has `probabilities`,
  `[images, classes]` float32, regression has `values`, `[images, k]` float32.
  """

  names: tuple[str, ...]  # the path of a file, or "image 0" of an array
  classes: tuple[str, ...]
  values: Mapping[str, np.ndarray]
  several: bool = False  # the model tells several classes of an image

  @property
  def probabilities(self) -> np.ndarray:
    """The probability of each class, `[images, classes]`.

    Raises:
      UserError: the model does not predict classes of images.
    """
    if "probabilities" not in self.values:
      raise UserError(
        f"the model predicts no classes of images: its predictions are {listed([*self.values])}, "
        "in `.values`"
      )
    return self.values["probabilities"]

  @property
  def labels(self) -> list[str] | list[list[str]]:
    """The most probable class of each image; of `several`, the list of those above 0.5."""
    if self.several:
      return [[self.classes[i] for i in np.flatnonzero(row > 0.5)] for row in self.probabilities]
    return [self.classes[i] for i in self.probabilities.argmax(-1)]

  def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
    """Returns the `k` most probable classes of each image and their probabilities, in order."""
    order = np.argsort(-self.probabilities, axis=-1, kind="stable")[:, :k]
    return [
      [(self.classes[i], float(row[i])) for i in places]
      for row, places in zip(self.probabilities, order, strict=True)
    ]


@dataclasses.dataclass(frozen=True, repr=False)
class Predictor:
  """A trained model with its preprocessing: from images of any size to predictions."""

  trained: "Trained"

  def __repr__(self) -> str:
    return f"Predictor({self.trained!r})"

  @property
  def model(self) -> Any:
    """The linen module."""
    return self.trained.model

  @property
  def variables(self) -> Any:
    """The variables of `model.apply`."""
    return self.trained.variables

  @property
  def classes(self) -> tuple[str, ...]:
    """The names of the classes, in the order of the outputs."""
    return self.trained.classes

  @property
  def size(self) -> int | None:
    """The side in pixels of the images that the model takes; None if they are not square."""
    config, (height, width, _) = self.trained.config.data, self.trained.meta["image_shape"]
    return config.eval_size or config.image_size or (height if height == width else None)

  def preprocess(self, image: PathLike | bytes | np.ndarray) -> np.ndarray:
    """Returns an image decoded and cropped as the run evaluates it.

    Args:
      image: a path, the bytes of a file, or `[height, width, channels]` or `[height, width]` of
        the dtype that the run was trained on, usually uint8.

    Returns:
      `[height, width, channels]` of that dtype.

    Raises:
      UnreadableImage: the file cannot be decoded.
      OSError: there is no such file.
      UserError: the array does not fit the model.
    """
    from cnnjax import data
    from cnnjax.data import images

    shape, dtype = tuple(self.trained.meta["image_shape"]), self.trained.fields["image"].dtype
    if isinstance(image, np.ndarray):
      given = f"{image.dtype} {list(image.shape)}"
      image = image[..., None] if image.ndim == 2 else image
      if image.dtype != dtype or image.ndim != 3 or image.shape[2] != shape[2]:
        raise UserError(f"images are {dtype} [height, width, {shape[2]}], not {given}")
    elif not isinstance(image, bytes):
      image = images.read(to_path(image))
    crops = data.Crops.of(self.trained.config.data, (None, None, shape[2]), dtype)
    found = crops.evaluate(image, self.size)
    if self.size is None and found.shape != shape:
      raise UserError(f"the model takes images of shape {list(shape)}, not {list(found.shape)}")
    return found

  def predict(
    self,
    images: Any,
    *,
    batch_size: int | None = None,
    unreadable: dict[str, str] | None = None,
  ) -> Predictions:
    """Returns the predictions of images.

    Args:
      images: a path, an array as in `preprocess`, or a sequence of them; also
        `[images, height, width, channels]`.
      batch_size: images at a time; None is `eval_batch_size` of the run, or fewer.
      unreadable: a dict to fill with the names of images that cannot be read, and the reasons; the
        images are left out. With None such an image is an error.

    Raises:
      UserError: an image cannot be read, or does not fit the model.
    """
    parts = [*self.batches(images, batch_size=batch_size, unreadable=unreadable)]
    if not parts:
      raise UserError("there is no image that can be read")
    names = tuple(name for part in parts for name in part.names)
    values = {key: np.concatenate([p.values[key] for p in parts]) for key in parts[0].values}
    return Predictions(names, self.classes, values, self.trained.task.SEVERAL_LABELS)

  def batches(
    self,
    images: Any,
    *,
    batch_size: int | None = None,
    unreadable: dict[str, str] | None = None,
  ) -> Iterator[Predictions]:
    """Yields the results of `predict` one batch at a time, so that memory is bounded."""
    for names, pixels in self._read(_listed(images), batch_size, unreadable):
      values = self._run(self.trained.predict_step, pixels)
      kept = {key: value[: len(names)] for key, value in values.items()}
      yield Predictions(names, self.classes, kept, self.trained.task.SEVERAL_LABELS)

  def features(self, images: Any, *, batch_size: int | None = None) -> dict[str, np.ndarray]:
    """Returns the outputs of the model's stages; see `predict` and `models.features`."""
    from cnnjax import models
    from cnnjax.training import passes

    normalize, model = self.trained.normalize, self.trained.model
    step = self.trained.compiler.jit(
      lambda variables, x: models.features(model, variables, normalize(passes.to_float(x))),
      (0, None),
    )
    parts = []
    for names, pixels in self._read(_listed(images), batch_size, None):
      parts.append({key: x[: len(names)] for key, x in self._run(step, pixels).items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

  def evaluate(self, split: str = "test", **overrides: Any) -> dict[str, float]:
    """Returns the metrics of a split of the run's data; see `evaluate.evaluate_checkpoint`."""
    from cnnjax.evaluate import evaluate_trained

    model = self.trained.with_overrides(overrides) if overrides else self.trained
    return evaluate_trained(model, split).metrics

  def _read(
    self, images: Sequence[Any], batch_size: int | None, unreadable: dict[str, str] | None
  ) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Yields names and pixels of the readable images in batches; reads one batch ahead.

    All batches have one size, so that one is compiled: the last has more pixels than names.
    """
    from cnnjax.data.pixels import UnreadableImage
    from cnnjax.runtime import sharding

    if batch_size is not None and batch_size < 1:
      raise UserError(f"batch_size={batch_size}: it must be above 0")
    config, mesh = self.trained.config, self.trained.mesh
    size = sharding.padded(min(batch_size or config.eval_batch_size, len(images)), mesh)
    with ThreadPoolExecutor() as pool:
      started = (
        (start, [pool.submit(self.preprocess, image) for image in images[start : start + size]])
        for start in range(0, len(images), size)
      )
      ahead = collections.deque(itertools.islice(started, 1))
      while ahead:
        ahead.extend(itertools.islice(started, 1))
        start, found = ahead.popleft()
        names, pixels = [], []
        for i, future in enumerate(found, start):
          name = f"image {i}" if isinstance(images[i], bytes | np.ndarray) else str(images[i])
          try:
            pixels.append(future.result())
            names.append(name)
          except (UnreadableImage, OSError) as e:
            reason = getattr(e, "strerror", None) or str(e)
            if unreadable is None:
              raise UserError(f"{name} cannot be read: {reason}") from e
            unreadable[name] = reason
        if names:
          yield tuple(names), np.stack(pixels + pixels[-1:] * (size - len(pixels)))

  def _run(self, step: Any, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the results of a compiled function of (variables, images)."""
    import jax

    from cnnjax.runtime import sharding

    where = sharding.over_batch(self.trained.mesh)
    return jax.device_get(step(self.trained.variables, jax.device_put(pixels, where)))


def load(
  workdir: PathLike,
  checkpoint: str = "last",
  weights: str = "raw",
  *,
  splits: Any = None,
  **overrides: Any,
) -> Predictor:
  """Loads the trained model of a run.

    model = cnnjax.load("runs/flowers", checkpoint="best", weights="ema")
    model.predict(["a.jpg", "b.png"]).labels

  Args:
    workdir: where the run is; or a file of weights, see `transfer.open_file`.
    checkpoint: "last", "best", or a step as digits.
    weights: "raw", or an average that the run kept: "ema", "swa", "schedule_free".
    splits: the data of a run that was given arrays, from `data.from_arrays`; needed for `evaluate`,
      and where batch statistics have to be measured.
    **overrides: config keys that may differ from the run's, such as `eval_views="flip"`.

  Raises:
    UserError: there is no such run or checkpoint, or it holds several runs.
  """
  from cnnjax import trained

  model = trained.open_run(workdir, str(checkpoint), weights, splits, overrides)
  if model.members.several:
    raise UserError(f"{workdir} holds several runs ({', '.join(model.members.names)}): give it one")
  predictor = Predictor(model)
  model.check_sizes((predictor.size,))
  return predictor


def _listed(images: Any) -> Sequence[Any]:
  """Returns the images as a sequence."""
  if isinstance(images, np.ndarray) and images.ndim == 4:
    return images
  if isinstance(images, str | bytes | np.ndarray) or hasattr(images, "__fspath__"):
    return [images]
  if not isinstance(images, Iterable):
    raise UserError(
      f"predict takes paths, the bytes of files, or arrays, and not a {type(images).__name__}"
    )
  images = list(images)
  if not images:
    raise UserError("there are no images to predict")
  return images


def _files(given: Iterable[str]) -> list[str]:
  """Returns the image files among `given`, and those in folders among them, sorted."""
  from cnnjax.data.images import IMAGE_ENDINGS

  found = []
  for name in given:
    path = to_path(name)
    if not path.is_dir():
      found.append(str(path))
      continue
    inside = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
    if not inside:
      raise UserError(f"the folder {name} has no images ({', '.join(IMAGE_ENDINGS)})")
    found += inside
  return found


def _written(parts: Iterable[Predictions], form: str, top: int) -> None:
  """Prints predictions as they come."""
  writer = csv.writer(sys.stdout, lineterminator="\n")
  opened = "[\n"
  for part in parts:
    heading, each = _of_classes(part, top) if "probabilities" in part.values else _of_numbers(part)
    if form == "csv" and opened == "[\n":
      writer.writerow(heading)
    for rows, found, words in each:
      if form == "csv":
        writer.writerows(rows)
      elif form == "json":
        print(opened + strict_json.dumps(found), end="")
      else:
        print(words)
      opened = ",\n"
  if form == "json":
    print("\n]" if opened != "[\n" else "[]")


# Of one image: rows for CSV, an object for JSON, and words.
_Row = tuple[list[tuple], dict[str, Any], str]


def _of_classes(part: Predictions, top: int) -> tuple[tuple[str, ...], Iterator[_Row]]:
  """Returns the CSV heading, and the `top` classes of each image."""

  def rows() -> Iterator[_Row]:
    for name, found in zip(part.names, part.top(top), strict=True):
      lines = [(name, rank, label, f"{p:.6g}") for rank, (label, p) in enumerate(found, 1)]
      classes = [{"class": label, "probability": float(f"{p:.6g}")} for label, p in found]
      words = f"{name}  " + ", ".join(f"{label} {p:.2%}" for label, p in found)
      yield lines, {"image": name, "classes": classes}, words

  return ("image", "rank", "class", "probability"), rows()


def _of_numbers(part: Predictions) -> tuple[tuple[str, ...], Iterator[_Row]]:
  """Returns the CSV heading, and the numbers of each image.

  Raises:
    UserError: the predictions of an image are whole maps.
  """
  columns = {}
  for key, values in part.values.items():
    if values.ndim > 2:
      raise UserError(
        f"the predictions of an image are arrays ({key} {list(values.shape[1:])}): read them in "
        "Python, with cnnjax.load(WORKDIR).predict(IMAGES).values"
      )
    values = values.reshape(len(values), -1)
    several = values.shape[1] > 1
    columns |= {f"{key}_{i}" if several else key: values[:, i] for i in range(values.shape[1])}

  def rows() -> Iterator[_Row]:
    for i, name in enumerate(part.names):
      found = {key: float(f"{column[i]:.7g}") for key, column in columns.items()}
      words = f"{name}  " + ", ".join(f"{key} {value:.6g}" for key, value in found.items())
      yield [(name, *found.values())], {"image": name, **found}, words

  return ("image", *columns), rows()


def main(argv: list[str] | None = None) -> int:
  parser = ArgumentParser(
    prog="python -m cnnjax.predict",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("workdir", metavar="WORKDIR", help="where the run is, or a file of weights")
  parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
  parser.add_argument("--checkpoint", default="last", help="last, best or a step")
  parser.add_argument("--weights", default="raw", help="raw; ema, swa or schedule_free, if kept")
  parser.add_argument("--format", default="table", help="table, csv or json; default: table")
  parser.add_argument("--top", type=int, default=3, help="classes of an image; default 3")
  parser.add_argument("--batch_size", type=int, help="images at a time")
  parser.add_argument("--views", help="predictions are means over views, such as flip")
  parser.add_argument("--size", type=int, help="size of the images, if not the run's")
  args = parser.parse_args(argv)
  if args.format not in FORMATS:
    raise unknown("format", args.format, FORMATS)
  if args.top < 1:
    raise UserError(f"--top={args.top}: it must be above 0")
  if not to_path(args.workdir).is_file():  # a file of weights
    saved.file_of_run(args.workdir)
  if missing := [name for name in args.images if not to_path(name).exists()]:
    raise UserError(f"there is no image {missing[0]}")
  announce(f"predicting with {args.workdir}")
  files = _files(args.images)
  overrides = {"eval_views": args.views, "data.eval_size": args.size}
  overrides = {key: value for key, value in overrides.items() if value is not None}
  model = load(args.workdir, args.checkpoint, args.weights, **overrides)
  unreadable: dict[str, str] = {}
  found = model.batches(files, batch_size=args.batch_size, unreadable=unreadable)
  _written(found, args.format, args.top)
  for name, reason in unreadable.items():
    tell(f"left out, cannot be read: {name}: {reason}")
  if len(unreadable) == len(files):
    raise UserError(f"none of {number(len(files), 'image')} can be read")
  return 1 if unreadable else 0


if __name__ == "__main__":
  sys.exit(run(main))
