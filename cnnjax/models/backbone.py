"""The base of the families: a trunk that returns the feature maps of its stages, and a head.

    class TwoScales(nn.Module):
      def setup(self):
        self.net = models.create("resnet18", num_classes=0)

      def __call__(self, x, *, train):
        maps = self.net.feature_maps(x, train=train)  # {"stem": Feature(x, stride), "stage1": ...}

`models.features` reads the same maps from the outside, in evaluation.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.models.layers import Feature

Mark = Callable[..., jax.Array]  # mark(name, x, stride=...) returns x, the output of that stage


class Backbone(nn.Module):
  """A network whose feature maps other modules can use, in initialisation, training and gradients.

  A family defines two methods, which share one scope: their submodules need different names.
  """

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the input of `classify`; passes the output of each stage through `mark`.

    x is images, float [batch, height, width, channels].
    """
    raise NotImplementedError

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns float32 logits [batch, classes] from the output of the trunk.

    With 0 classes it returns the pooled features.
    """
    raise NotImplementedError

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns float32 logits [batch, classes] of float [batch, height, width, channels]."""
    return self._run(x, train=train)[0]

  def feature_maps(self, x: jax.Array, *, train: bool) -> dict[str, Feature]:
    """Returns the output of each stage by name, from the stem up.

    Runs only the trunk, in the way of `__call__`: batch statistics are updated once, and dropout
    draws the same numbers. A network initialised by this method has no parameters after its trunk.

    Raises:
      UserError: the network has no maps, as a multilayer perceptron.
    """
    maps = self._run(x, train=train, head=False)[1]
    if not maps:
      raise UserError(f"{type(self).__name__} has no feature maps: choose a model with some")
    return maps

  def logits_and_maps(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, Feature]]:
    """Returns what `__call__` and `feature_maps` return, from one forward pass."""
    return self._run(x, train=train)

  @nn.compact
  def _run(
    self, x: jax.Array, *, train: bool, head: bool = True
  ) -> tuple[jax.Array, dict[str, Feature]]:
    maps = {}

    def mark(name: str, x: jax.Array, *, stride: int) -> jax.Array:
      x = layers.feature(self, name, x, stride=stride)
      maps[name] = Feature(x, stride)
      return x

    x = self.trunk(x, mark, train=train)
    return (self.classify(x, train=train) if head else x), maps


def run_stages(
  block: Callable[..., nn.Module],
  strides: Sequence[Sequence[int]],
  x: jax.Array,
  mark: Mark,
  *,
  stride: int,
  train: bool,
  remat: bool,
  drop_path: Sequence[float | None] = (),
) -> tuple[jax.Array, int]:
  """Runs the blocks of each stage and marks its output, as "stage1" and so on.

  Args:
    block: makes block `number` of `stage`, both from 0, for an input of `width` channels, as
      `block(stage, number, width, strides=..., name=...)`.
    strides: the stride of each block by stage, such as `[[1, 1], [2, 1, 1]]`.
    x: the input of the first block, [batch, height, width, channels].
    mark: as in `Backbone.trunk`.
    stride: the distance of two pixels of x, in pixels of the image.
    train: as in `Backbone.__call__`.
    remat: see `layers.run_block`.
    drop_path: the rate of each block, None for a block without; empty if no block has one.

  Returns:
    The last map and its stride.
  """
  rates = iter(drop_path)
  for stage, stage_strides in enumerate(strides):
    for number, block_stride in enumerate(stage_strides):
      name = f"stage{stage + 1}_block{number + 1}"
      module = block(stage, number, x.shape[-1], strides=block_stride, name=name)
      rate = next(rates, None)
      options = {} if rate is None else {"drop_path": rate}
      x = layers.run_block(module, x, train=train, remat=remat, **options)
      stride *= block_stride
    x = mark(f"stage{stage + 1}", x, stride=stride)
  return x, stride


def first_strided(strides: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
  """Returns the strides of all blocks by stage; the first block has the stride of its stage.

  `sizes` are the numbers of blocks: first_strided([1, 2], [2, 3]) is [[1, 1], [2, 1, 1]].
  """
  return [[first, *[1] * (size - 1)] for first, size in zip(strides, sizes, strict=True)]
