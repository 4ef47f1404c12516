"""Opens a file of weights as a network of cnnjax, and fits it to another task."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cnnjax import models
from cnnjax.errors import UserError, listed, number
from cnnjax.runtime import strict_json
from cnnjax.transfer import files, keras_names, mapping, preprocessing, recognise
from cnnjax.transfer.preprocessing import Preprocessing

Path = tuple[str, ...]
HUB = "hf://"
HEAD = "head"  # the last layer of every model here
OURS = "cnnjax"  # the key of the metadata of our own files
OURS_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A network with its weights and the preprocessing that belongs to them."""

  name: str  # registered
  options: Mapping[str, Any]  # of the model, that differ from its defaults
  num_classes: int  # 0: it has no last layer
  variables: Mapping[str, Any]  # of `model.apply`, float32; they take images in the order RGB
  preprocessing: Preprocessing
  text: str  # where it is from, in words
  notes: tuple[str, ...] = ()

  @property
  def model(self) -> nn.Module:
    """The linen module."""
    return models.create(self.name, self.num_classes, **self.options)

  @property
  def shape(self) -> tuple[int, int, int]:
    """`[height, width, channels]` of its images."""
    size = self.preprocessing.image_size
    return (size, size, len(self.preprocessing.mean))

  @property
  def words(self) -> str:
    options = ", ".join(f"{key}={value}" for key, value in self.options.items())
    return f"{self.name}" + (f" ({options})" if options else "") + f", {self.text}"


def open_file(
  where: str | pathlib.Path, *, source: str | None = None, name: str | None = None
) -> Pretrained:
  """Returns the network that a file of weights holds.

  Args:
    where: a file that cnnjax.transfer.files reads, or hf://owner/name.
    source: the implementation, of `mapping.SOURCES`; None finds it.
    name: the architecture, a registered model; None finds it.

  Raises:
    UserError: the file cannot be read, or fits no model, or `source` or `name` contradicts it.
  """
  path, hub = _fetched(str(where)) if str(where).startswith(HUB) else (pathlib.Path(where), "")
  held = files.read(path)
  if OURS in held.metadata:
    return _of_ours(held, path)
  beside = _config_beside(path)
  architecture = beside.get("architecture", "")
  if name is None and architecture in models.names():
    name = architecture
  weights = keras_names.counted_from_zero(held.weights) if held.kind == "keras" else held.weights
  found = recognise.recognise(
    weights, source=source, name=name, hint=architecture or hub or path.name
  )
  rules = found.rules
  record = preprocessing.known(
    rules.source, found.name, num_classes=found.num_classes, hint=hub or path.name,
    input_size=models.lookup(found.name).input_shape[0],
  )  # fmt: skip
  record = dataclasses.replace(record, **preprocessing.of_hub(beside))
  if len(record.classes) != found.num_classes:
    record = dataclasses.replace(record, classes=())
  variables = mapping.values(weights, found.matched)
  if record.channel_order == "BGR":
    variables = _turned(variables, first_kernel(found.model, models.lookup(found.name).input_shape))
  return Pretrained(
    found.name, rules.overrides, found.num_classes, variables, record,
    f"weights of {rules.source} in {hub or path.name}", held.notes,
  )  # fmt: skip


def _of_ours(held: files.WeightFile, path: pathlib.Path) -> Pretrained:
  """Returns the network in a file that `save` wrote."""
  try:
    said = json.loads(held.metadata[OURS])
    record = Preprocessing.from_json(said["preprocessing"])
    name, options, classes = said["model"], said["options"], said["num_classes"]
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(f"the record in {path} cannot be read: {e}") from e
  model = models.create(name, classes, **options)
  size = (record.image_size, record.image_size, len(record.mean))
  like = flatten_dict(mapping.shapes_of(model, name, size), sep="/")
  if {k: v.shape for k, v in like.items()} != {k: v.shape for k, v in held.weights.items()}:
    raise UserError(f"the tensors in {path} are not those of {name}, of which its record speaks")
  variables = unflatten_dict(held.weights, sep="/")
  return Pretrained(name, options, classes, variables, record, f"weights in {path.name}")


def save(pretrained: Pretrained, path: pathlib.Path) -> None:
  """Writes a network as safetensors with its record as metadata; `open_file` reads it.

  Raises:
    UserError: the file exists already, or cannot be written.
  """
  from safetensors import numpy as safe  # late: of the extra `weights`

  said = {
    "format": OURS_FORMAT,
    "model": pretrained.name,
    "options": dict(pretrained.options),
    "num_classes": pretrained.num_classes,
    "preprocessing": pretrained.preprocessing.as_json(),
    "text": pretrained.text,
  }
  flat = {
    "/".join(key): np.ascontiguousarray(value)
    for key, value in flatten_dict(dict(pretrained.variables)).items()
  }
  if path.exists():
    raise UserError(f"{path} exists already: choose another name")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    safe.save_file(flat, new, {OURS: strict_json.dumps(said), "format": "np"})
    new.replace(path)
  except OSError as e:
    raise UserError(f"cannot write {path}: {e.strerror or e}") from e


def _fetched(where: str) -> tuple[pathlib.Path, str]:
  """Returns the file of weights of a repository on the Hugging Face hub, and its name there."""
  try:
    import huggingface_hub  # late: an extra
  except ImportError as e:
    raise UserError(f"{where} needs huggingface_hub: pip install 'cnnjax[hub]'") from e
  repo = where.removeprefix(HUB).strip("/")
  errors = []
  for file in ("model.safetensors", "pytorch_model.bin"):
    try:
      path = huggingface_hub.hf_hub_download(repo, file)
      break
    except Exception as e:  # of the network, of the hub, of the name: of many types
      errors.append(str(e).splitlines()[0][:200] if str(e) else type(e).__name__)
  else:
    raise UserError(f"cannot fetch the weights of {where}: {errors[0]}")
  with contextlib.suppress(Exception):  # without it the record is that of the architecture
    huggingface_hub.hf_hub_download(repo, "config.json")  # it lies beside the weights then
  return pathlib.Path(path), repo.rpartition("/")[2]


def _config_beside(path: pathlib.Path) -> dict[str, Any]:
  """Returns the config.json of timm beside a file, or {}."""
  try:
    held = json.loads((path.parent / "config.json").read_text())
  except (OSError, ValueError):
    return {}
  return held if isinstance(held, dict) and "architecture" in held else {}


def first_kernel(model: nn.Module, image_shape: Sequence[int]) -> Path:
  """Returns the path of the kernel that sees the image: `[height, width, channels, features]`.

  Raises:
    UserError: no convolution does.
  """
  called: list[Path] = []

  def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    called.append(context.module.path)
    return call(*args, **kwargs)

  images = jnp.zeros((1, *image_shape))
  with nn.intercept_methods(note):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
  params = flatten_dict(shapes["params"])
  for path in called:
    kernel = params.get((*path, "kernel"))
    if kernel is not None:
      if kernel.ndim == 4:
        return (*path, "kernel")
      break
  raise UserError(f"{type(model).__name__} has no convolution that sees the image")


def _turned(variables: Mapping[str, Any], path: Path) -> dict[str, Any]:
  """Returns the variables with the input channels of a kernel in the reverse order."""
  params = flatten_dict(variables["params"])
  params[path] = params[path][:, :, ::-1]
  return {**variables, "params": unflatten_dict(params)}


class Start(NamedTuple):
  """Values that a network begins with."""

  variables: dict[str, Any]  # {collection: tree}, without what is drawn anew
  summary: dict[str, str]  # in words


def adapt(
  pretrained: Pretrained,
  shapes: Mapping[str, Any],
  image_shape: Sequence[int],
  network: nn.Module,
  classes: Sequence[str],
  head: str = "auto",
) -> Start:
  """Returns the values with which `network` begins, from a trained one.

  Args:
    pretrained: the trained network; it is the network itself, or the model inside it.
    shapes: of the variables of the network, by collection.
    image_shape: `[height, width, channels]` of its images.
    network: the module.
    classes: of the data.
    head: "keep" the last layer, make a "new" one, or "auto": keep it if the classes are the same.
      A new one begins at 0, so that the first loss is that of guessing.

  Raises:
    UserError: the weights are of another network, or their classes do not fit.
  """
  place = backbone(network, image_shape)
  wanted = flatten_dict({k: dict(v) for k, v in shapes.items()})
  given = {
    (key[0], *place, *key[1:]): value
    for key, value in flatten_dict({k: dict(v) for k, v in pretrained.variables.items()}).items()
  }
  first = ("params", *_first_in(network, image_shape))
  is_head = lambda key: key[1 : 2 + len(place)] == (*place, HEAD)
  kept = _keeps_head(pretrained, classes, head) and any(map(is_head, wanted))
  values: dict[Path, np.ndarray] = {}
  new, adapted, wrong = [], [], []
  for key, leaf in wanted.items():
    value, shape = given.get(key), tuple(leaf.shape)
    if is_head(key) and not kept:
      values[key] = np.zeros(shape, np.float32)
      new.append(key)
    elif value is not None and value.shape == shape:
      values[key] = value
    elif value is not None and key == first and value.shape[:2] == shape[:2]:
      values[key], how = _with_channels(value, shape[2])
      adapted.append(how)
    elif key[1 : 1 + len(place)] == place and not is_head(key):
      found = "missing" if value is None else f"{list(value.shape)}"
      wrong.append(f"{'/'.join(key)} takes {list(shape)}, and is {found} in the weights")
    else:
      new.append(key)  # of the task: drawn as always
  if wrong:
    raise UserError(
      f"the {pretrained.text} do not fit the model: {number(len(wrong), 'tensor')} of "
      f"{len(wanted)} differ: {mapping.shortened(wrong)}"
    )
  unused = [key for key in given if key not in values or (is_head(key) and not kept)]
  words = _words(pretrained, values, new, adapted, unused, kept, len(classes))
  return Start(unflatten_dict(values), words)


def _words(
  pretrained: Pretrained,
  values: Mapping[Path, np.ndarray],
  new: Sequence[Path],
  adapted: Sequence[str],
  unused: Sequence[Path],
  kept: bool,
  classes: int,
) -> dict[str, str]:
  loaded = [key for key in values if key not in set(new)]
  size = sum(values[key].size for key in loaded)
  text = f"{len(loaded)} tensors, {size:,} values"
  text += f"; adapted: {'; '.join(adapted)}" if adapted else ""
  zero = [key for key in new if key in values]
  if zero:
    text += f"; new: the head for {classes} classes, which begins at 0"
  elif kept:
    text += "; the head is kept"
  drawn = ["/".join(key) for key in new if key not in values]
  text += f"; new, drawn by seed: {listed(drawn)}" if drawn else ""
  names = ["/".join(key) for key in unused]
  text += f"; unused: {listed(names)}" if names else ""
  return {
    "weights": pretrained.words + "".join(f"; {note}" for note in pretrained.notes),
    "loaded": text,
  }


def _keeps_head(pretrained: Pretrained, classes: Sequence[str], head: str) -> bool:
  """Returns whether the last layer is kept; see `adapt`."""
  same = tuple(classes) == pretrained.preprocessing.classes
  if head == "keep":
    if len(classes) != pretrained.num_classes:
      raise UserError(
        f"init.head=keep: the weights have {pretrained.num_classes} classes, and the data "
        f"{len(classes)}; set init.head=new"
      )
    if pretrained.preprocessing.classes and not same:
      pairs = zip(pretrained.preprocessing.classes, classes, strict=True)
      theirs, ours = next(pair for pair in pairs if pair[0] != pair[1])
      raise UserError(
        f"init.head=keep: the classes of the weights are not those of the data ({theirs!r} there "
        f"is {ours!r} here); set init.head=new"
      )
    return True
  return head == "auto" and same and pretrained.num_classes == len(classes)


def _with_channels(kernel: np.ndarray, channels: int) -> tuple[np.ndarray, str]:
  """Returns a first kernel for images of other channels, and how it was made.

  One channel takes the sum over the old ones, so that a grey image gives what its copies in all
  channels gave. More channels keep the old kernels, and further ones have their mean; all are
  scaled so that the sums stay as large.
  """
  old = kernel.shape[2]
  if channels == 1:
    return kernel.sum(2, keepdims=True), f"the first kernel, summed over {old} channels"
  more = [kernel[:, :, :channels]]
  more += [kernel.mean(2, keepdims=True)] * max(0, channels - old)
  made = np.concatenate(more, 2) * np.float32(old / channels)
  return made, f"the first kernel, for {channels} channels in place of {old}"


def backbone(network: nn.Module, image_shape: Sequence[int]) -> Path:
  """Returns the path of the registered model inside a network; () if it is the network.

  Raises:
    UserError: there is none.
  """
  if models.is_registered(network):
    return ()
  found: list[Path] = []

  def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if models.is_registered(context.module):
      found.append(context.module.path)
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(
      lambda: network.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False)
    )
  places = sorted(set(found), key=len)
  if not places:
    raise UserError(
      f"init.from: {type(network).__name__} holds no registered model that weights could be for"
    )
  return places[0]


def _first_in(network: nn.Module, image_shape: Sequence[int]) -> Path:
  try:
    return first_kernel(network, image_shape)
  except UserError:  # a multilayer perceptron has none
    return ()
