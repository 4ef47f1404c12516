"""A head on feature maps of two scales, around any registered backbone.

python -m cnnjax.main --config=experiments/extending/multiscale_config.py
python -m cnnjax.main --config=experiments/extending/multiscale_config.py:frozen
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import models, register
from cnnjax.errors import UserError
from cnnjax.models import layers


@register(
  "model", "two_scales", input_shape=(8, 8, 1), reference="after arXiv:1612.03144 section 3"
)
class TwoScales(nn.Module):
  """Brings the last two scales of a backbone to one width and size, adds them, and classifies."""

  num_classes: int
  backbone: str = "resnet20"
  width: models.Size = 64  # channels of both scales in the head
  dtype: Any = jnp.float32

  def __post_init__(self):
    models.lookup(self.backbone)  # refuses an unknown name before anything is built
    super().__post_init__()

  def setup(self):
    self.net = models.create(self.backbone, num_classes=0, dtype=self.dtype)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Float [batch, height, width, channels] to float32 logits [batch, classes]."""
    fine, coarse = self.last_scales(self.net.feature_maps(x, train=train))
    options = dict(padding=0, dtype=self.dtype, train=train)
    fine = layers.conv(self.width, 1, name="fine", **options)(fine)
    coarse = layers.conv(self.width, 1, name="coarse", **options)(coarse)
    x = fine + jax.image.resize(coarse, fine.shape, "nearest")
    x = nn.relu(layers.batch_norm(dtype=self.dtype, train=train, name="norm")(x))
    return layers.head(self.num_classes)(layers.global_pool(x))

  def last_scales(self, maps: dict[str, layers.Feature]) -> list[jax.Array]:
    """Returns the last map of each of the two largest strides, the finer one first."""
    by_stride = {feature.stride: feature.x for feature in maps.values()}
    if len(by_stride) < 2:
      raise UserError(
        f"model.backbone={self.backbone!r} gives feature maps of {len(by_stride)} scales, and "
        "two_scales needs two; choose one whose stages differ in size, such as resnet20"
      )
    return [by_stride[stride] for stride in sorted(by_stride)[-2:]]
