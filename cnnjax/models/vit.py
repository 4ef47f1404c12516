"""Vision transformer, arXiv:2010.11929 section 3, as a reference to compare CNNs with.

Parameters at 1000 classes, as in timm: `vit_tiny_patch16_224` 5,717,416, `vit_small_patch16_224`
22,050,664, `vit_base_patch16_224` 86,567,656 (torchvision's vit_b_16 as well),
`vit_base_patch32_224` 88,224,232. Tiny and small are those of DeiT, arXiv:2012.12877 table 1. MACs
count the products of attention.

The position embedding is learned for the image size that the parameters are initialised with; other
sizes are refused. In pre-training the paper has a layer between the class token and the head; here
there is none, as in its fine-tuning, in timm and in torchvision.

Initialisation as in timm: kernels, head and position embedding normal with standard deviation 0.02,
class token 1e-6, biases zero; patch embedding uniform in +-1 / sqrt(fan_in).
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.errors import UserError
from cnnjax.models import layers
from cnnjax.models.backbone import Backbone, Mark
from cnnjax.models.registry import ABOVE_0, Rate, Scale, Size, register

kernel_init = nn.initializers.normal(0.02)


class Block(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x)), on tokens [batch, tokens, features]."""

  heads: int
  mlp_ratio: float
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, drop_path: layers.Drop) -> jax.Array:
    features = x.shape[-1]
    norm = functools.partial(layers.norm, "layer", epsilon=1e-6, dtype=self.dtype, train=train)
    dense = functools.partial(layers.dense, dtype=self.dtype, kernel_init=kernel_init)
    dropout = functools.partial(layers.dropout, rate=self.dropout, train=train)

    y = dense(3 * features, name="qkv")(norm(name="norm1")(x))
    y = y.reshape(*x.shape[:2], 3, self.heads, features // self.heads)
    if y.dtype == jnp.float16 and jax.default_backend() == "cpu":
      y = y.astype(jnp.float32)  # on CPU JAX refuses float16 products that are summed in float32
    y = jax.nn.dot_product_attention(y[:, :, 0], y[:, :, 1], y[:, :, 2])  # softmax in float32
    y = dropout(dense(features, name="project")(y.reshape(x.shape)))
    x = x + layers.drop_path(y, drop_path, train=train)

    y = dense(int(self.mlp_ratio * features), name="mlp1")(norm(name="norm2")(x))
    y = dropout(dense(features, name="mlp2")(dropout(layers.ACTIVATIONS["gelu"](y))))
    return x + layers.drop_path(y, drop_path, train=train)


class ViT(Backbone):
  """Patches and a class token with positions, blocks, norm, class token or mean, head.

  A stage is a quarter of the depth, and its map holds the patches; in the last stage after the last
  norm. With a class token the logits do not depend on the last map: gradients with respect to a
  stage (Grad-CAM) need an earlier one.
  """

  num_classes: int
  features: Size = 768  # of a token
  depth: Size = 12  # blocks
  heads: Size = 12
  patch_size: Size = 16  # pixels on each side
  # For 32x32: a quarter of the patch size, rounded up. 16 becomes 4, as is usual on CIFAR-10
  # (github.com/kentaroy47/vision-transformers-cifar10).
  small_images: bool = False
  mlp_ratio: Scale = 4.0  # hidden features of the perceptrons, as a multiple of `features`
  pool: Literal["token", "avg"] = "token"  # avg: the mean of the patches, without a class token
  # On the tokens and after each dense layer of the blocks except qkv, as in appendix B.1; not
  # before the last layer.
  dropout: Rate = 0.0
  drop_path: Rate = 0.0  # of the last block
  drop_path_mode: layers.DropPathMode = (
    "linear"  # grows from 0 in the first block, or is the same in all
  )
  remat: bool = False  # recompute blocks in the backward pass: less memory, more time
  dtype: Any = jnp.float32
  NEEDS = (("drop_path_mode", "drop_path", ABOVE_0),)

  def __post_init__(self):
    if self.features % self.heads:
      raise UserError(f"features {self.features} must be a multiple of heads {self.heads}")
    super().__post_init__()

  def trunk(self, x: jax.Array, mark: Mark, *, train: bool) -> jax.Array:
    """Returns the tokens [batch, tokens, features] of float [batch, height, width, channels].

    Images have at least one patch. Pixels at the edges that fill no whole patch are ignored.
    """
    patch = -(-self.patch_size // 4) if self.small_images else self.patch_size
    layers.check_images(x, smallest=patch)
    x = layers.conv(
      self.features, patch, strides=patch, padding=0, use_bias=True, dtype=self.dtype, train=train,
      kernel_init=layers.torch_linear, name="patch_embed",
    )(x)  # fmt: skip
    x = mark("stem", x, stride=patch)
    shape = batch, height, width, features = x.shape
    x = x.reshape(batch, height * width, features)
    tokens = int(self.pool == "token")  # tokens beside the patches
    if tokens:
      token = self.param("token", nn.initializers.normal(1e-6), (1, 1, features), jnp.float32)
      x = jnp.concatenate([jnp.tile(token, (batch, 1, 1)).astype(x.dtype), x], axis=1)
    x = x + self._positions(x.shape[1]).astype(x.dtype)
    x = layers.dropout(x, self.dropout, train=train)
    stages = layers.stages_of(self.depth)
    rates = layers.drop_path_rates(self.drop_path, self.depth, self.drop_path_mode, first=0)
    for i in range(1, self.depth + 1):
      block = Block(self.heads, self.mlp_ratio, self.dropout, self.dtype, name=f"block{i}")
      x = layers.run_block(block, x, train=train, remat=self.remat, drop_path=rates[i - 1])
      if i == self.depth:
        norm = layers.norm("layer", epsilon=1e-6, dtype=self.dtype, train=train, name="final_norm")
        x = norm(x)
      if i in stages:
        x = self._marked(mark, stages[i], x, shape, stride=patch)
    return x

  def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
    pooled = x[:, 0] if self.pool == "token" else jnp.mean(x, axis=1, dtype=jnp.float32)
    return layers.head(self.num_classes, kernel_init=kernel_init)(pooled)

  def _marked(
    self, mark: Mark, name: str, x: jax.Array, shape: tuple[int, ...], *, stride: int
  ) -> jax.Array:
    """Marks the patches among the tokens x as a map of `shape`; returns x."""
    tokens = x.shape[1] - shape[1] * shape[2]
    maps = mark(name, x[:, tokens:].reshape(shape), stride=stride)
    patches = maps.reshape(shape[0], -1, shape[3])
    return jnp.concatenate([x[:, :tokens], patches], axis=1)  # XLA removes this copy

  def _positions(self, count: int) -> jax.Array:
    """Returns the position embedding [1, tokens, features].

    Raises:
      UserError: the parameters are for another number of tokens.
    """
    if self.has_variable("params", "position_embedding"):
      made_for = self.get_variable("params", "position_embedding").shape[1]
      if made_for != count:
        raise UserError(
          f"the position embedding was made for {made_for} tokens, these images give {count}: a "
          "ViT takes images of the size that its parameters were made with"
        )
    shape = (1, count, self.features)
    return self.param("position_embedding", kernel_init, shape, jnp.float32)


PAPER = dict(input_shape=(224, 224, 3), reference="arXiv:2010.11929 table 1")
DEIT = dict(input_shape=(224, 224, 3), reference="arXiv:2012.12877 table 1")
VARIANTS = {
  "vit_tiny_patch16_224": DEIT | dict(features=192, heads=3),
  "vit_small_patch16_224": DEIT | dict(features=384, heads=6),
  "vit_base_patch16_224": PAPER,
  "vit_base_patch32_224": PAPER | dict(patch_size=32),
}
for _name, _row in VARIANTS.items():
  register(_name, **_row)(ViT)
