"""Computes the features of a frozen network, and fits simple classifiers to them as a baseline."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cnnjax import data, models, trained, transfer
from cnnjax.data import folder
from cnnjax.errors import UserError, number
from cnnjax.runtime import sharding
from cnnjax.runtime.paths import PathLike, to_path
from cnnjax.training import passes

NEIGHBOURS = 10


@dataclasses.dataclass(frozen=True)
class Features:
  """The features of labelled images.

  `values` is `[n, width]` float32, `labels` `[n]`, `groups` `[n]`: images of one group, such as
  copies, are never parted.
  """

  values: np.ndarray
  labels: np.ndarray
  groups: np.ndarray
  names: tuple[str, ...]
  classes: tuple[str, ...]

  def save(self, path: PathLike) -> None:
    """Writes an npz file: `features`, `labels`, `groups`, `names`, `classes`.

    Raises:
      UserError: it cannot be written.
    """
    arrays = {"features": self.values, "labels": self.labels, "groups": self.groups}
    texts = {"names": np.array(self.names), "classes": np.array(self.classes)}
    try:
      with open(to_path(path), "xb") as file:
        np.savez(file, **arrays, **texts)
    except OSError as e:
      raise UserError(f"cannot write {path}: {e.strerror}") from e


def features(
  weights: PathLike,
  path: str,
  *,
  group: str | None = None,
  size: int | None = None,
  batch_size: int = 32,
  progress: Callable[[int, int], Any] = lambda done, total: None,
) -> Features:
  """Returns the pooled features of all images of a folder or list.

  Args:
    weights: a file of weights, or the workdir of a run.
    path: as `data.path`; splits are read together.
    group: as `data.group`.
    size: of the images in pixels; None: that of the weights.
    batch_size: images at a time.
    progress: is told how many images are done, and of how many.

  Raises:
    UserError: the weights or the images cannot be read, or have no labels.
  """
  network = _without_head(_opened(weights))
  config = trained.config_of(network)
  c = config.data
  c.path, c.group, c.image_size = path, group, size or c.image_size
  data.check(c)
  classes, skipped = folder.whole(c).classes, data.Skipped(c.max_unreadable)
  split = data.whole(c, classes, skipped, several=False, needs=("image", "label"), who="a probe")
  values, labels, kept = _computed(network, config, split, skipped, batch_size, progress)
  by_content = split.ids(data.identity.CONTENT)
  groups = by_content if split.groups is None else np.where(split.groups, split.groups, by_content)
  names = tuple(split.name(i) for i in kept)
  return Features(values, labels, groups[kept], names, tuple(classes))


def _opened(weights: PathLike) -> transfer.Pretrained:
  where = to_path(weights)
  if where.is_file():
    return transfer.open_file(where)
  return trained.as_pretrained(trained.open_run(where))


def _without_head(network: transfer.Pretrained) -> transfer.Pretrained:
  """Returns a network that ends with its pooled features."""
  bare = {
    name: {key: value for key, value in tree.items() if key != transfer.HEAD}
    for name, tree in network.variables.items()
  }
  record = dataclasses.replace(network.preprocessing, classes=())
  return dataclasses.replace(network, num_classes=0, variables=bare, preprocessing=record)


def _computed(
  network: transfer.Pretrained,
  config: ConfigDict,
  split: data.Split,
  skipped: data.Skipped,
  batch_size: int,
  progress: Callable[[int, int], Any],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns features, labels, and the places of the images that could be read."""
  model, record = network.model, network.preprocessing
  normalize = passes.normalizer(record.mean, record.std)

  @jax.jit
  def step(variables: Any, images: jax.Array) -> jax.Array:
    return models.forward(model, variables, normalize(passes.to_float(images)))

  mesh = sharding.make_mesh(1)
  pipeline = data.pipeline(split, config.data, mesh, skipped)
  parts, labels, kept, done = [], [], [], 0
  for batch, mask in pipeline.once(batch_size):
    shown = np.asarray(mask)
    parts.append(np.asarray(step(network.variables, batch["image"]))[shown])
    labels.append(np.asarray(batch["label"])[shown])
    kept.append(done + np.flatnonzero(shown))
    done += len(shown)
    progress(min(done, len(split)), len(split))
  pipeline.close()
  return np.concatenate(parts), np.concatenate(labels), np.concatenate(kept)


def probe(given: Features, *, folds: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
  """Returns the accuracy of simple classifiers in each fold, by name: `[folds]` each.

  "logistic" is logistic regression on standardised features, "knn" the vote of the nearest images
  by the cosine of their features, "lda" linear discriminant analysis with a shrunk covariance
  (Ledoit and Wolf). Folds have equal shares of the classes as far as groups allow.

  Raises:
    UserError: a class has fewer images than folds.
  """
  from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
  from sklearn.linear_model import LogisticRegression
  from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
  from sklearn.neighbors import KNeighborsClassifier
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  counts = np.bincount(given.labels, minlength=len(given.classes))
  if folds < 2 or counts.min() < folds:
    few = given.classes[counts.argmin()]
    raise UserError(
      f"--folds={folds}: each fold needs an image of each class, and {few} has "
      f"{number(int(counts.min()), 'image')}; folds are at least 2"
    )
  by_name = {
    "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    "knn": KNeighborsClassifier(min(NEIGHBOURS, counts.min()), metric="cosine"),
    "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
  }
  parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
  splits = [*parts.split(given.values, given.labels, given.groups)]
  return {
    name: cross_val_score(one, given.values, given.labels, cv=splits)
    for name, one in by_name.items()
  }
