"""Maps the names and layouts of another framework to the variables of models here.

"Ours" are the names and layouts of this package, "theirs" those of the other framework.
"""

import dataclasses
import fnmatch
import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnnjax import models
from cnnjax.errors import UserError, unknown

# What the last part of a name means in a framework: our collection, and our possible names in it.
TORCH = {
  "weight": ("params", "kernel", "scale"),
  "bias": ("params", "bias"),
  "running_mean": ("batch_stats", "mean"),
  "running_var": ("batch_stats", "var"),
}
KERAS = {
  "kernel": ("params", "kernel"),
  "depthwise_kernel": ("params", "kernel"),
  "pointwise_kernel": ("params", "kernel"),
  "bias": ("params", "bias"),
  "gamma": ("params", "scale"),
  "beta": ("params", "bias"),
  "moving_mean": ("batch_stats", "mean"),
  "moving_variance": ("batch_stats", "var"),
}
SOURCES = {
  "torchvision": TORCH,
  "timm": TORCH,
  "timm_tf": TORCH,  # timm's models tf_*: the same names, but padding as in TensorFlow
  "pytorchcv": TORCH,
  "efficientnet_pytorch": TORCH,  # github.com/lukemelas/EfficientNet-PyTorch
  "pytorch_cifar": TORCH,  # github.com/kuangliu/pytorch-cifar
  "pytorch_resnet_cifar10": TORCH,  # github.com/akamaster/pytorch_resnet_cifar10
  "bvlc_googlenet": TORCH,  # Caffe's network in torch, built of the parts of torchvision's
  "keras": KERAS,
  "pretrainedmodels": TORCH,  # github.com/Cadene/pretrained-models.pytorch; timm's legacy_*
  "facebookresearch": TORCH,  # github.com/facebookresearch/ConvNeXt and ConvNeXt-V2
  "pycls": TORCH,  # github.com/facebookresearch/pycls
  "transformers": TORCH,
  "mmpretrain": TORCH,
  "pytorch_mobilenet_v2": TORCH,  # github.com/tonylins/pytorch-mobilenet-v2
  "convmixer": TORCH,  # the short form of github.com/locuslab/convmixer
  "pytorch_cifar_models": TORCH,  # github.com/chenyaofo/pytorch-cifar-models
  "pytorchcv_tf": TORCH,  # pytorchcv's efficientnet_b0b, b0c and so on: padding as in TensorFlow
}


@dataclasses.dataclass(frozen=True)
class Rules:
  """The rules that turn the weights of one implementation into those of a family here.

  `rename` holds regular expressions and replacements, applied in order to the whole name of each
  tensor; then its parts are separated by "/". In a replacement `<1>` is the first group and `<2+1>`
  the second group plus one; a replacement may also be a function of the match. The last part keeps
  its foreign name, as "weight", "gamma" and "moving_mean" are known.
  """

  source: str  # of SOURCES
  models: str  # our names, shell patterns separated by spaces
  rename: tuple[tuple[str, str | Callable[[re.Match], str]], ...]
  # By a regular expression of our paths: a function that reorders a tensor beyond its layout, such
  # as the rows of a dense kernel after a flattened map; see `flattened`.
  reorder: Mapping[str, Callable[[np.ndarray], np.ndarray]] = dataclasses.field(
    default_factory=dict
  )
  ignore: tuple[str, ...] = ()  # regular expressions of their names that are left out
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # options of our model

  def names(self) -> list[str]:
    """Returns the registered models that these rules are for."""
    return [name for name in models.names() if _matches(name, self)]


def flattened(channels: int, height: int, width: int) -> Callable[[np.ndarray], np.ndarray]:
  """Returns a function that puts the columns of a torch dense weight into our order.

  The weight is `[out, channels * height * width]`.
  """

  def reorder(weight: np.ndarray) -> np.ndarray:
    if weight.shape[1:] != (channels * height * width,):
      return weight  # `convert` then reports its shape
    maps = weight.reshape(-1, channels, height, width)
    return maps.transpose(0, 2, 3, 1).reshape(weight.shape)

  return reorder


def rules_for(name: str, source: str) -> Rules:
  """Returns the rules for weights of `source` in our model `name`, in the layout of today.

  Raises:
    UserError: the source or the model is unknown, or there are no such rules.
  """
  return layouts(name, source)[0]


def layouts(name: str, source: str) -> tuple[Rules, ...]:
  """Returns the rules for each layout of the weights of `source`, that of today first.

  Raises:
    UserError: the source or the model is unknown, or there are no such rules.
  """
  if source not in SOURCES:
    raise unknown("source of weights", source, SOURCES)
  models.lookup(name)
  by_source: dict[str, list[Rules]] = {}
  for rules in all_rules():
    if _matches(name, rules):
      by_source.setdefault(rules.source, []).append(rules)
  if source in by_source:
    return tuple(by_source[source])
  others = f"there are rules for {', '.join(sorted(by_source))}"
  raise UserError(
    f"no rules take weights of {source} to {name}; "
    + (others if by_source else "there are none for another source")
  )


def _matches(name: str, rules: Rules) -> bool:
  return any(fnmatch.fnmatchcase(name, pattern) for pattern in rules.models.split())


@functools.cache
def all_rules() -> tuple[Rules, ...]:
  """Returns the rules of every family."""
  package = importlib.import_module("cnnjax.transfer.rules")
  return tuple(
    rules
    for module in pkgutil.iter_modules(package.__path__)
    for rules in importlib.import_module(f"{package.__name__}.{module.name}").RULES
  )


def load(
  name: str,
  weights: Mapping[str, Any],
  *,
  source: str,
  num_classes: int = 1000,
  input_shape: tuple[int, int, int] | None = None,
  **overrides: Any,
) -> tuple[nn.Module, dict[str, Any]]:
  """Returns our model `name` with the weights of `source`.

  Args:
    name: a registered name.
    weights: arrays by name, as that framework saves them; also torch tensors.
    source: one of SOURCES; "timm_tf" for timm's models tf_*.
    num_classes: the number of classes of the weights.
    input_shape: [height, width, channels]; None is the usual one of the model.
    **overrides: options of the model; they replace those that the rules set (paddings, epsilons).

  Returns:
    The module, and its variables as float32 numpy arrays.

  Raises:
    UserError: an option does not fit, or tensors are missing, unexpected or of another shape.
  """
  arrays, fits, refusals = arrays_of(weights), [], []
  for rules in layouts(name, source):
    try:
      model = models.create(name, num_classes, **{**rules.overrides, **overrides})
    except UserError as error:  # an option that does nothing in this layout
      refusals.append(error)
      continue
    fits.append((model, match(arrays, shapes_of(model, name, input_shape), rules)))
  if not fits:
    raise refusals[0]
  model, best = min(fits, key=lambda fit: len(fit[1].problems()))
  return model, values(arrays, best)


def shapes_of(model: nn.Module, name: str, input_shape: tuple[int, ...] | None = None) -> Any:
  """Returns the shapes of the variables of `model`, which is registered as `name`."""
  images = jnp.zeros((1, *(input_shape or models.lookup(name).input_shape)))
  return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


@dataclasses.dataclass(frozen=True)
class Match:
  """Which tensors of a file are which variables of a model, by their names and shapes."""

  rules: Rules
  wanted: Mapping[str, tuple[int, ...]]  # the shape of each variable by our path
  theirs: Mapping[str, str]  # their name by our path
  unexpected: Mapping[str, str]  # our path, which does not exist, by their name
  misshaped: Mapping[str, tuple[int, ...]]  # the shape there by our path
  twice: tuple[str, ...] = ()  # what is twice, in words

  @property
  def missing(self) -> list[str]:
    """Our paths that no tensor is for."""
    return [path for path in self.wanted if path not in self.theirs]

  @property
  def fits(self) -> bool:
    """True if each tensor is a variable, and the reverse."""
    return not (self.unexpected or self.misshaped or self.twice or self.missing)

  def problems(self) -> list[str]:
    """Returns what does not fit, a line each."""
    return [
      *(f"unexpected: {name} (it would be {ours})" for name, ours in self.unexpected.items()),
      *self.twice,
      *(
        f"mis-shaped: {self.theirs[ours]} is {list(shape)}, {ours} takes {list(self.wanted[ours])}"
        for ours, shape in self.misshaped.items()
      ),
      *(f"missing: {path}" for path in self.missing),
    ]


def match(weights: Mapping[str, Any], like: Any, rules: Rules) -> Match:
  """Returns which of `weights` are which variables of a tree like `like`; reads no values."""
  wanted = {
    path: tuple(leaf.shape) for path, leaf in flax.traverse_util.flatten_dict(like, sep="/").items()
  }
  found: dict[str, str] = {}
  unexpected, misshaped, twice = {}, {}, []
  for theirs, value in weights.items():
    if is_ignored(theirs, rules):
      continue
    ours = our_path(theirs, rules, wanted)
    if ours not in wanted:
      unexpected[theirs] = ours
    elif ours in found:
      twice.append(f"twice: {theirs} and {found[ours]} are both {ours}")
    else:
      found[ours] = theirs
      shape = tuple(np.shape(value))
      blank = np.broadcast_to(np.float32(0), shape)
      if _laid_out(blank, ours, wanted[ours], theirs, rules).shape != wanted[ours]:
        misshaped[ours] = shape
  return Match(rules, wanted, found, unexpected, misshaped, tuple(twice))


def is_ignored(theirs: str, rules: Rules) -> bool:
  """Returns whether a tensor is no variable of the network, such as a count of batches."""
  return any(re.search(p, theirs) for p in (*rules.ignore, r"num_batches_tracked$"))


def convert(weights: Mapping[str, Any], like: Any, rules: Rules) -> dict[str, Any]:
  """Returns `weights` as a tree like `like` (variables, or their shapes); uses each tensor once.

  Raises:
    UserError: tensors are missing, unexpected, of another shape, not of floating-point numbers or
      not finite.
  """
  arrays = arrays_of(weights)
  return values(arrays, match(arrays, like, rules))


def arrays_of(weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns weights as numpy arrays by name.

  Raises:
    UserError: they are no mapping from names, or some are no arrays.
  """
  if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
    raise UserError("weights must be a mapping from names to arrays, such as a torch state_dict")
  arrays, problems = {}, []
  for name, value in weights.items():
    try:
      arrays[name] = _array(value)
    except Exception as e:  # rows of several lengths, or a torch type that numpy does not know
      words = str(e).splitlines()[0][:200] or type(e).__name__
      problems.append(f"no array: {name} ({words})")
  if problems:
    raise _unfit(problems)
  return arrays


def values(weights: Mapping[str, np.ndarray], matched: Match) -> dict[str, Any]:
  """Returns the tree of variables that `matched` says, in float32.

  Raises:
    UserError: it does not fit, or values are not floating-point numbers or not finite.
  """
  found, problems = {}, matched.problems()
  for ours, theirs in matched.theirs.items():
    if ours in matched.misshaped:
      continue
    found[ours], wrong = _in_float32(weights[theirs], ours, theirs)
    problems += [wrong] if wrong else []
    shape = matched.wanted[ours]
    found[ours] = _laid_out(found[ours], ours, shape, theirs, matched.rules)
  if problems:
    raise _unfit(problems)
  return flax.traverse_util.unflatten_dict({path: found[path] for path in matched.wanted}, sep="/")


def _unfit(problems: Sequence[str]) -> UserError:
  return UserError(f"the weights do not fit, {len(problems)} problems: {shortened(problems)}")


def shortened(problems: Sequence[str], of_a_kind: int = 4) -> str:
  """Returns the first problems of each kind, a line each if there is more than one."""
  kinds: dict[str, list[str]] = {}
  for problem in problems:
    kinds.setdefault(problem.partition(":")[0], []).append(problem)
  lines = []
  for kind, found in kinds.items():
    lines += found[:of_a_kind]
    if len(found) > of_a_kind:
      lines.append(f"{kind}: {len(found) - of_a_kind} more")
  return lines[0] if len(lines) == 1 else "\n  " + "\n  ".join(lines)


def _in_float32(array: np.ndarray, ours: str, theirs: str) -> tuple[np.ndarray, str]:
  """Returns `array` in float32, and a description of its fault or ""."""
  if not jnp.issubdtype(array.dtype, jnp.floating):
    return array, f"no floating-point numbers: {theirs} is {array.dtype}"
  with np.errstate(over="ignore"):
    array = np.asarray(array, np.float32)
  if not np.isfinite(array).all():
    return array, f"NaN or infinite in float32: {theirs}"
  if ours.startswith("batch_stats/") and ours.endswith("/var") and (array < 0).any():
    return array, f"negative: {theirs} is a variance"
  return array, ""


def _array(value: Any) -> np.ndarray:
  """Returns `value` as a numpy array, also a torch parameter, bfloat16 or a tensor on a GPU."""
  if hasattr(value, "detach"):
    value = value.detach().cpu()
    return np.asarray(value.float() if value.is_floating_point() else value)
  return np.asarray(value)


def our_path(theirs: str, rules: Rules, wanted: Mapping[str, Any]) -> str:
  """Returns the path of a tensor in our model, which may lack it, such as "params/head/kernel"."""
  name = theirs
  for pattern, replacement in rules.rename:
    name = re.sub(pattern, _replace(replacement), name)
  *module, leaf = re.split(r"[./]", name)
  collection, *choices = SOURCES[rules.source].get(leaf, ("params", leaf))
  paths = ["/".join([collection, *module, choice]) for choice in choices]
  return next((path for path in paths if path in wanted), paths[0])


def _replace(replacement: str | Callable[[re.Match], str]) -> Callable[[re.Match], str]:
  if callable(replacement):
    return replacement

  def replace(match: re.Match) -> str:
    number = lambda m: str(int(match[int(m[1])]) + int(m[2])) if m[2] else match[int(m[1])]
    return re.sub(r"<(\d)([+-]\d+)?>", number, replacement)

  return replace


def _laid_out(
  array: np.ndarray, ours: str, shape: tuple[int, ...], theirs: str, rules: Rules
) -> np.ndarray:
  """Returns `array` in our layout: kernels [height, width, in / groups, out] and [in, out]."""
  for pattern, reorder in rules.reorder.items():
    if re.search(pattern, ours):
      array = reorder(array)
  if ours.endswith("/kernel") and array.ndim > 1:
    if SOURCES[rules.source] is TORCH:
      array = array.transpose((*range(2, array.ndim), 1, 0))
    elif theirs.endswith("depthwise_kernel") or (
      array.ndim == len(shape) == 4 and array.shape[2:] == (shape[3], 1)
    ):
      array = array.transpose(0, 1, 3, 2)  # [height, width, channels, 1]
    if array.shape[-2:] == shape[-2:] and {*array.shape[:-2], *shape[:-2]} <= {1}:
      array = array.reshape(shape)  # a dense layer for a 1x1 convolution, or the reverse
  return array
