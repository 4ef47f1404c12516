"""A task without labels: SimCLR, which tells two views of an image from all others of a batch.

python -m cnnjax.main --config=experiments/extending/simclr_config.py
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics

from cnnjax import Key, register, tasks
from cnnjax.models import layers
from cnnjax.tasks.embedding import Spread, neighbours_accuracy, normalized


class TwoLayers(nn.Module):
  """Dense layers to 2 * width and to width, with batch norm between: without it BYOL collapses."""

  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = nn.Dense(2 * self.width, use_bias=False, name="hidden")(x)
    x = nn.relu(layers.batch_norm(dtype=x.dtype, train=train, name="norm")(x))
    return nn.Dense(self.width, name="out")(x)


class Projected(nn.Module):
  """A backbone, and what two layers make of its features (arXiv:2002.05709, section 2.1)."""

  backbone: nn.Module
  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    features = self.backbone(x, train=train)
    embedding = TwoLayers(self.width, name="projector")(features, train=train)
    return {"features": features, "embedding": embedding}


OfOneView = metrics.Collection.create(spread=Spread)
OfTwoViews = metrics.Collection.create(loss=metrics.Average.from_output("loss"), spread=Spread)


@register(
  "task",
  "simclr",
  embedding=Key(64, "simclr: numbers of an embedding"),
  temperature=Key(0.5, "simclr: of the softmax over a batch", rule=(lambda t: t > 0, "above 0")),
)
@dataclasses.dataclass(frozen=True)
class SimCLR(tasks.Task):
  """Two views of each image, NT-Xent; features are judged by the classes of their neighbours."""

  VIEWS: ClassVar = 2
  LOSS_OVER_BATCH: ClassVar = True
  METRICS: ClassVar = (
    tasks.Metric("loss", better="min", form=".4f", headline=True),
    tasks.Metric("spread", better="max", form=".3f", headline=True),
  )
  SPLIT_METRICS: ClassVar = (tasks.Metric("knn", better="max", form=".2%", headline=True),)
  name: str = "simclr"

  @classmethod
  def count_outputs(cls, data: Any, config: Any) -> int:
    return config.embedding

  def network(self, backbone: Callable[[int], nn.Module]) -> nn.Module:
    return Projected(backbone(0), self.num_outputs)

  def loss(self, outputs: dict[str, jax.Array], targets: None) -> jax.Array:
    """NT-Xent, arXiv:2002.05709, equation 1: the mean of both views of an image."""
    z = normalized(outputs["embedding"])
    z = z.reshape(-1, z.shape[-1])  # both views of an image side by side
    own = jnp.arange(len(z))
    similar = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, z @ z.T / self.config.temperature)
    losses = optax.softmax_cross_entropy_with_integer_labels(similar, own ^ 1)
    return losses.reshape(-1, 2).mean(-1)

  def metric_inputs(self, outputs: dict[str, jax.Array], targets: None) -> dict[str, jax.Array]:
    return {"embedding": outputs["embedding"]}

  @property
  def eval_collection(self) -> type[metrics.Collection]:
    return OfOneView

  def eval_metrics(self, outputs: Any, targets: None, mask: jax.Array) -> metrics.Collection:
    return OfOneView.single_from_model_output(embedding=outputs["embedding"], mask=mask)

  def split_arrays(self, outputs: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {"features": outputs["features"], "label": batch["label"]} if "label" in batch else {}

  def has_split_arrays(self) -> bool:
    return self.data is None or "label" in self.data

  def split_metrics(self, collected: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {"knn": neighbours_accuracy(collected)} if collected else {}

  @property
  def example_shapes(self) -> tuple[Any, None]:
    shape = jax.ShapeDtypeStruct((1, self.VIEWS, self.num_outputs), jnp.float32)
    return {"embedding": shape}, None

  def predictions(self, outputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {"features": outputs["features"]}

  @property
  def collection(self) -> type[metrics.Collection]:
    return OfTwoViews
