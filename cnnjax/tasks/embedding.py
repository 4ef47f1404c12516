"""Measures embeddings: their spread, and the share of neighbours of one class."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics


def normalized(x: jax.Array) -> jax.Array:
  """Scales vectors `[..., width]` to length 1."""
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


@flax.struct.dataclass
class Spread(metrics.Metric):
  """The standard deviation of normalized embeddings in a direction, times sqrt(width).

  It is 0 if all embeddings are one, about 1 if they fill the sphere: arXiv:2011.10566, figure 2.
  """

  count: jax.Array  # [] float32
  total: jax.Array  # [width] float32
  squares: jax.Array  # [width] float32

  @classmethod
  def from_model_output(cls, embedding: jax.Array, mask: jax.Array, **_: Any) -> "Spread":
    """Sums `embedding`, `[batch, width]` or `[batch, views, width]`, where `mask` is true."""
    z = normalized(embedding.reshape(len(mask), -1, embedding.shape[-1]))
    total = lambda x: jnp.sum(x, axis=(0, 1), where=mask[:, None, None])
    return cls(mask.sum() * jnp.float32(z.shape[1]), total(z), total(z**2))

  def merge(self, other: "Spread") -> "Spread":
    return jax.tree.map(jnp.add, self, other)

  def compute(self) -> jax.Array:
    variance = self.squares / self.count - (self.total / self.count) ** 2
    return jnp.sqrt(jnp.maximum(variance, 0) * len(variance)).mean()


def neighbours_accuracy(collected: Mapping[str, np.ndarray], neighbours: int = 5) -> float:
  """Returns the share of images that have the class of most of their nearest others.

  Args:
    collected: `features` [images, width] and `label` [images].
    neighbours: the number of others of the split that vote, the nearest by cosine.
  """
  from sklearn.neighbors import NearestNeighbors  # late: a second of its own

  features, labels = collected["features"], collected["label"]
  neighbours = min(neighbours, len(labels) - 1)
  nearest = NearestNeighbors(n_neighbors=neighbours, metric="cosine").fit(features)
  votes = labels[nearest.kneighbors(return_distance=False)]  # of others: not of the image itself
  return float(np.mean([np.bincount(own).argmax() for own in votes] == labels))
