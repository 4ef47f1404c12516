"""Our networks beside torchvision, timm, pytorchcv and Keras, on the same random weights.

The arrangement that works with the wheels of PyPI (extra `parity`): torchvision and timm import
with a CPU build of torch as well once the operators of torchvision's compiled part are declared,
which models never call; Keras runs on its JAX backend.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import transfer

os.environ["KERAS_BACKEND"] = "jax"


@functools.cache
def torch() -> Any:
  """The torch module, ready for torchvision."""
  import torch

  torch.set_num_threads(2)
  try:
    import torchvision  # noqa: F401
  except RuntimeError:  # its compiled operators do not load with this torch: declare the names
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
      library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch._cnnjax_library = library  # the declarations live as long as it
  return torch


def torchvision_model(name: str, **options: Any) -> Any:
  torch()
  import torchvision

  return getattr(torchvision.models, name)(**options)


def timm_model(name: str, **options: Any) -> Any:
  torch()
  import timm

  return timm.create_model(name, **options)


def pytorchcv_model(name: str, **options: Any) -> Any:
  t = torch()
  from pytorchcv.model_provider import get_model

  model = get_model(name, **options)
  if isinstance(getattr(model.features, "final_pool", None), t.nn.AvgPool2d):
    model.features.final_pool = t.nn.AdaptiveAvgPool2d(1)  # any size of image
  return model


def keras_model(name: str, **options: Any) -> Any:
  """A network of keras.applications without preprocessing or softmax; its weights are random."""
  import keras

  keras.utils.clear_session()  # or the names of layers go on from the last model
  options = {"weights": None, "classifier_activation": None, **options}
  return getattr(keras.applications, name)(**options)


def images(size: int, channels: int = 3, batch: int = 2) -> np.ndarray:
  rng = np.random.default_rng(1)
  return rng.normal(size=(batch, size, size, channels)).astype(np.float32)


def randomize(model: Any) -> Any:
  """Draws every parameter and every moving average of a torch module anew, away from 0 and 1."""
  t = torch()
  generator = t.Generator().manual_seed(0)
  uniform = lambda x, low, high: x.uniform_(low, high, generator=generator)
  with t.no_grad():
    for name, x in model.state_dict().items():
      if name.endswith("running_var") or (name.endswith("weight") and x.ndim == 1):
        uniform(x, 0.5, 1.5)
      elif x.ndim >= 2:
        fan_in = x[0].numel()
        x.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
      elif x.is_floating_point():
        uniform(x, -0.5, 0.5)
  return model


def settle(model: Any, x: Any) -> None:
  """Brings the moving averages of a torch module near what x gives, up to a fifth off.

  With those of `randomize` activations grow from block to block, and gates and attention far out on
  their sigmoids amplify rounding: an SE-ResNet-50 in torch was then 3e-3 off itself in float64.
  """
  t = torch()
  generator = t.Generator().manual_seed(1)
  norms = [m for m in model.eval().modules() if isinstance(m, t.nn.modules.batchnorm._BatchNorm)]
  momenta = [norm.momentum for norm in norms]
  with t.no_grad():
    for norm in norms:
      norm.momentum = 1.0
      norm.train()
    model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
      norm.momentum = momentum
      var = norm.running_var.clamp_(min=1e-2)
      norm.running_mean += t.empty_like(var).uniform_(-0.2, 0.2, generator=generator) * var.sqrt()
      var *= t.empty_like(var).uniform_(0.8, 1.2, generator=generator)
  model.eval()


def randomize_keras(model: Any) -> Any:
  """The same for a Keras model."""
  rng = np.random.default_rng(0)
  for weight in model.weights:
    leaf = weight.path.rsplit("/", 1)[-1]
    if leaf in ("gamma", "moving_variance"):
      value = rng.uniform(0.5, 1.5, weight.shape)
    elif len(weight.shape) >= 2:
      *area, last = weight.shape
      depthwise = last == 1 and np.prod(area[:2]) > 1  # [height, width, channels, 1]
      fan_in = np.prod(area[:2]) if depthwise else np.prod(area)
      value = rng.normal(0, (2 / fan_in) ** 0.5, weight.shape)
    elif leaf in ("mean", "variance", "count"):  # of preprocessing: nothing is done
      continue
    else:
      value = rng.uniform(-0.5, 0.5, weight.shape)
    weight.assign(value)
  return model


def assert_close(ours: Any, theirs: Any, tolerance: float, what: str, least: float = 0) -> None:
  """The largest difference is below `tolerance` of the largest value, or of `least`."""
  ours, theirs = np.asarray(ours), np.asarray(theirs)
  assert ours.shape == theirs.shape, what
  error = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), least)
  assert error < tolerance, f"{what}: relative error {error:.2e}"


def same_logits(
  name: str,
  source: str,
  reference: Any,
  *,
  size: int,
  channels: int = 3,
  num_classes: int = 1000,
  train: bool = False,
  tolerance: float = 1e-4,
  **overrides: Any,
) -> None:
  """Our model `name` and a torch module give the same logits in evaluation on random weights.

  With `train`, also the same logits, batch statistics and gradients in training (no dropout).
  """
  t = torch()
  reference = randomize(reference)
  x = images(size, channels, batch=8 if train else 2)
  theirs_x = t.tensor(x.transpose(0, 3, 1, 2).copy())
  settle(reference, theirs_x)
  model, variables = transfer.load(
    name, reference.state_dict(), source=source, num_classes=num_classes,
    input_shape=(size, size, channels), **overrides,
  )  # fmt: skip
  with t.no_grad():
    theirs = reference.eval()(theirs_x).numpy()
  ours = jax.jit(functools.partial(model.apply, train=False))(variables, x)
  assert np.std(theirs, axis=0).max() > 1e-3 * np.abs(theirs).max(), "the images make no difference"
  assert_close(ours, theirs, tolerance, "logits")
  if train:
    _same_training(model, variables, reference, x, name, source)


def same_logits_keras(
  name: str,
  make_keras_model: Callable[[], Any],
  *,
  size: int,
  channels: int = 3,
  num_classes: int = 1000,
  tolerance: float = 1e-4,
  **overrides: Any,
) -> None:
  """Our model `name` and a Keras model give the same logits in evaluation on random weights."""
  reference = randomize_keras(make_keras_model())
  x = images(size, channels)
  weights = {w.path: np.asarray(w.value) for w in reference.weights}
  assert len(weights) == len(reference.weights), "two weights of the Keras model share a path"
  model, variables = transfer.load(
    name, weights, source="keras", num_classes=num_classes, input_shape=(size, size, channels),
    **overrides,
  )  # fmt: skip
  if not reference.built:
    reference.build(x.shape)
  # In one program: alone, each operation compiles for every shape.
  theirs_of = jax.jit(functools.partial(reference.stateless_call, training=False))
  groups = reference.trainable_variables, reference.non_trainable_variables
  theirs, _ = theirs_of(*([v.value for v in group] for group in groups), x)
  ours = jax.jit(functools.partial(model.apply, train=False))(variables, x)
  assert np.std(theirs, axis=0).max() > 1e-3 * np.abs(theirs).max(), "the images make no difference"
  assert_close(ours, theirs, tolerance, "logits")


def _same_training(
  model: Any, variables: Any, reference: Any, x: np.ndarray, name: str, source: str
) -> None:
  """In float64: in float32 a relu that falls on the other side of 0 is a large relative error."""
  t = torch()
  theirs = reference.double().train()(t.tensor(x.transpose(0, 3, 1, 2).astype(np.float64)))
  weights = np.random.default_rng(2).normal(size=theirs.shape)
  (theirs * t.tensor(weights)).sum().backward()
  # Their moving averages, and for parameters their gradients, where our variables are.
  found = {**reference.state_dict(), **{k: p.grad for k, p in reference.named_parameters()}}
  expected = transfer.convert(
    {k: v.detach() for k, v in found.items()}, variables, transfer.rules_for(name, source)
  )

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def ours(params: Any) -> Any:
    logits, updated = model.clone(dtype=jnp.float64).apply(
      {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
    )
    return jnp.sum(logits * weights), (logits, updated)

  with jax.enable_x64(True):
    variables, x = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), (variables, x))
    gradients, (logits, updated) = ours(variables["params"])
  assert_close(logits, theirs.detach(), 1e-4, "logits in training")
  # A gradient that is 0 on paper, of a shift in front of a batch norm, is rounding on both sides.
  least = 1e-9 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
  for collection, tree in {"params": gradients, **updated}.items():
    other = dict(jax.tree_util.tree_leaves_with_path(expected[collection]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      # Torch's moving variance is the unbiased one, n / (n - 1) times ours: see layers.batch_norm.
      tolerance = 1 / x.shape[0] if path[-1].key == "var" else 1e-4
      what = f"{collection}{jax.tree_util.keystr(path)}"
      assert_close(leaf, other[path], tolerance, what, least)


def fits(name: str, source: str, state_dict: Callable[[], Any], **options: Any) -> None:
  """Every tensor of a reference has its place in ours, by shapes alone; none of theirs is drawn."""
  t = torch()
  with t.device("meta"):
    shapes = {k: v.shape for k, v in state_dict().items()}
  zeros = {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}
  transfer.load(name, zeros, source=source, **options)
