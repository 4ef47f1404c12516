"""A task that learns from the run's own moving average: BYOL, without labels and without negatives.

python -m cnnjax.main --config=experiments/extending/byol_config.py
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax

from cnnjax import register
from cnnjax.tasks.embedding import normalized
from experiments.extending.simclr import Projected, SimCLR, TwoLayers


class Predicting(nn.Module):
  """`Projected`, and what two layers predict of the embedding of the other view."""

  backbone: nn.Module
  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    outputs = Projected(self.backbone, self.width, name="projected")(x, train=train)
    prediction = TwoLayers(self.width, name="predictor")(outputs["embedding"], train=train)
    return {**outputs, "prediction": prediction}


@register("task", "byol")
@dataclasses.dataclass(frozen=True)
class Byol(SimCLR):
  """The network predicts what its average makes of the other view: arXiv:2006.07733, section 3."""

  NEEDS_TEACHER: ClassVar = True
  LOSS_OVER_BATCH: ClassVar = False
  name: str = "byol"

  def network(self, backbone: Callable[[int], nn.Module]) -> nn.Module:
    return Predicting(backbone(0), self.num_outputs)

  def distill_loss(self, outputs: Any, teacher_outputs: Any, temperature: float) -> jax.Array:
    """2 - 2 cos between prediction and the teacher's embedding, the mean over both views."""
    predicted, other = (
      normalized(outputs["prediction"]),
      normalized(teacher_outputs["embedding"][:, ::-1]),
    )
    return 2 - 2 * (predicted * other).sum(-1).mean(-1)
