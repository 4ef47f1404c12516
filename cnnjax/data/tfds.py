"""Reads TFDS data sets of images without TensorFlow; no other file imports TFDS.

TFDS needs TensorFlow to *prepare* most of its data sets, once: `pip install -e '.[prepare]'` and
`python -m cnnjax.data prepare NAME`. A run that finds nothing prepared starts that command, so that
TensorFlow stays out of the process that trains.
"""

import contextlib
import functools
import importlib.util
import io
import logging
import pathlib
import re
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from cnnjax.data import fields, identity
from cnnjax.data.fields import Field
from cnnjax.data.images import UnreadableImage
from cnnjax.data.split import Example, Split
from cnnjax.errors import UserError, unknown
from cnnjax.runtime.paths import quoted, to_path

CHUNK = 4096  # records read at a time


def check(config: ConfigDict) -> None:
  """Raises UserError for a data set that is unknown, not on disk, or without those splits."""
  if not config.name:
    raise UserError("data.source=tfds needs data.name, such as cifar10")
  builder = _builder(config.name, config.data_dir)
  _, declared = _features(builder)
  if config.max_boxes and "boxes" not in declared:
    raise UserError(
      f"data.max_boxes={config.max_boxes} has no effect: {config.name} has no boxes; leave it at "
      "None"
    )
  height, width, channels = declared["image"].shape
  if config.image_size is None and None in (height, width):
    raise UserError(f"the images of {config.name} differ in size; set data.image_size, such as 224")
  if (config.channels or channels) not in (1, 3):
    raise UserError(
      f"the images of {config.name} have {channels} channels; set data.channels, to 3 or 1"
    )
  if not builder.is_prepared():
    if not _has_tensorflow():
      raise _not_prepared(builder, config)
    return  # `load` prepares it, and the splits are known then
  _check_format(builder)
  for key in ("train", "validation", "test"):
    if isinstance(config[key], str):
      _split_info(builder, config[key], f"data.{key}")
  _check_overlap(builder, config)


def load(config: ConfigDict, split: str) -> Split:
  """Returns the split of an expression; prepares the data set if it is missing."""
  builder = _builder(config.name, config.data_dir)
  if not builder.is_prepared():
    folder = ["--data_dir", config.data_dir] if config.data_dir else []
    if subprocess.run(
      [sys.executable, "-m", "cnnjax.data", "prepare", config.name, *folder], check=False
    ).returncode:
      raise UserError(
        f"{config.name} could not be prepared, see above; if it lies elsewhere, say where with "
        "--config.data.data_dir=DIR"
      )
    check(config)
    builder = _builder(config.name, config.data_dir)
  _check_format(builder)
  keys, declared = _features(builder)
  _split_info(builder, split, "split")
  records = Records(builder, split, keys, declared)
  loaded = Split.of_fields(records, declared)
  return loaded.with_room("boxes", config.max_boxes) if config.max_boxes else loaded


def described(config: ConfigDict) -> dict[str, Field] | None:
  """Returns the fields of a data set that is not prepared, as TFDS knows them; else None."""
  builder = _builder(config.name, config.data_dir) if config.name else None
  if builder is None or builder.is_prepared():
    return None
  declared = _features(builder)[1]
  if "boxes" in declared:
    declared["boxes"] = fields.boxes(config.max_boxes, declared["boxes"].classes)
  return declared


class Records:
  """The records of a TFDS split; images stay encoded until they are read."""

  groups = None

  def __init__(self, builder, split: str, keys: dict[str, str], declared: dict[str, Field]):
    """Opens a split; `keys` are the features by the names of the `declared` fields."""
    self._keys, self._fields = keys, declared
    self._name, self._split = builder.name, split
    boxes = builder.info.features[keys["boxes"]] if "boxes" in keys else None
    self._parts_of_boxes = _parts_of_boxes(boxes)
    self._parts = builder.info.splits[split].file_instructions
    self.large = builder.info.dataset_size > identity.LARGE
    # Images and masks as the bytes of their file.
    files = [keys[name] for name in fields.of_kind(declared, "image", "mask")]
    decoders = {key: tfds.decode.SkipDecoding() for key in files}
    self._source = builder.as_data_source(split=split, decoders=decoders)
    self[0]  # labels that are not public are refused now, not when a run ends in its evaluation

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, i: int) -> Example:
    return self.__getitems__([i])[0]

  def __getitems__(self, places: Sequence[int]) -> list[Example]:
    return [self._example(record) for record in self._read(places)]

  def _example(self, record: dict) -> Example:
    example = {name: record[key] for name, key in self._keys.items()}
    if "boxes" in example:
      example |= self._boxes(example["boxes"])
    return example | ({"label": self._label(example["label"])} if "label" in example else {})

  def _boxes(self, record: dict) -> dict[str, np.ndarray]:
    """Returns the boxes of a record that have an area, with their classes, or an error for none."""
    box, label = self._parts_of_boxes
    boxes = np.asarray(record[box], np.float32).reshape(-1, 4)
    labels = np.asarray(record[label] if label else np.zeros(len(boxes)), np.int32)
    wrong = ~((boxes >= 0) & (boxes <= 1)).all(axis=1)
    if wrong.any():  # skipped, counted and named, if a task needs boxes
      reason = f"its box {boxes[wrong][0].tolist()} is not ymin, xmin, ymax, xmax from 0 to 1"
      return {"boxes": UnreadableImage(reason)}
    if (labels < 0).any():
      return {"boxes": UnreadableImage("the classes of its boxes are not public (they are -1)")}
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return {"boxes": boxes[has_area], fields.label_of("boxes"): labels[has_area]}

  def _read(self, places: Sequence[int]) -> list[dict]:
    try:
      return self._source.__getitems__(places)
    except Exception as e:  # array_record checks all that it reads, by hashes
      reason = (str(e).strip() or type(e).__name__).splitlines()[0]
      raise UserError(
        f"the split {self._split!r} of {self._name} cannot be read: {reason[:400]}; its files are "
        "damaged: delete the folder of the data set and prepare it again"
      ) from e

  def _label(self, label: np.ndarray) -> np.ndarray | int:
    if np.any(np.less(label, 0)):
      raise UserError(
        f"labels of the split {self._split!r} of {self._name} are not public (they are -1); "
        "choose another split"
      )
    field = self._fields["label"]
    if field.kind == "multi_label":
      return np.isin(np.arange(len(field.classes)), label).astype(np.uint8)
    return label

  @functools.cached_property
  def labels(self) -> np.ndarray | None:
    """The labels of the whole split, which is read once."""
    if "label" not in self._keys:
      return None
    chunks = range(0, len(self), CHUNK)
    read = lambda start: [
      self._label(record[self._keys["label"]])
      for record in self._read(range(start, min(start + CHUNK, len(self))))
    ]
    labels = np.stack([label for start in chunks for label in read(start)])
    return labels.astype(self._fields["label"].dtype)

  @functools.cached_property
  def contents(self) -> np.ndarray:
    """Fingerprints of the encoded images."""
    image = self._keys["image"]
    return identity.fingerprints(lambda at: [r[image] for r in self._read(at)], len(self))

  @functools.cached_property
  def places(self) -> np.ndarray:
    """Fingerprints of the file of each record and its place there."""
    where = ((part.basename(), part.skip + i) for part in self._parts for i in range(part.take))
    ids = (identity.fingerprint(file.encode(), str(i).encode()) for file, i in where)
    return np.fromiter(ids, np.uint64, len(self))

  def name(self, i: int) -> str:
    return f"{self._name}, {self._split}, record {i}"


def prepare(name: str, data_dir: str | None) -> pathlib.Path:
  """Downloads and prepares a data set as array_record; returns its folder.

  Raises:
    UserError: the data set is unknown, its host cannot be reached, or TensorFlow is missing.
  """
  builder = _builder(name, data_dir)
  if not builder.is_prepared():
    if not _has_tensorflow():
      raise UserError(
        "TFDS needs TensorFlow to prepare data sets (training does not): "
        "pip install -e '.[prepare]'"
      )
    # TFDS itself would retry for minutes; behind a proxy, names need not resolve here.
    for url in () if urllib.request.getproxies() else builder.url_infos:
      host = urllib.parse.urlparse(url).hostname
      try:
        socket.getaddrinfo(host, 443)
      except OSError as e:
        raise UserError(f"cannot reach {host}, where {name} is downloaded from: {e}") from e
    options = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
      builder.download_and_prepare(file_format="array_record", download_config=options)
    except Exception as e:  # the network, a manual download, a checksum, the disk
      raise UserError(f"TFDS could not prepare {name}: {str(e).strip()[:600]}") from e
  _check_format(builder)
  return pathlib.Path(builder.data_path)


def _has_tensorflow() -> bool:
  return importlib.util.find_spec("tensorflow") is not None


def _builder(name: str, data_dir: str | None):
  logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS warns of each missing folder
  data_dir = data_dir and str(to_path(data_dir))
  if ":" in name and not re.fullmatch(r"[\w/.-]+:[\d.*]+", name):
    raise UserError(
      f"data.name={name!r}: TFDS would download and run code from the place before ':'; give a "
      "data set of TFDS itself, or one that is prepared"
    )
  _check_features(name, data_dir)
  try:
    with contextlib.redirect_stdout(io.StringIO()):  # a banner where TensorFlow is missing
      builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    for split in builder.info.splits.values():
      split.file_instructions  # noqa: B018  which only here are read from those files
    return builder
  except tfds.core.DatasetNotFoundError:
    known = tfds.list_builders(with_community_datasets=False)
    folder = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR)
    known += {p.relative_to(folder).parts[0] for p in folder.glob("*/*/**/dataset_info.json")}
    base = name.split(":")[0].split("/")[0]
    if base in known:
      raise UserError(f"TFDS has {base}, but not the version or config of {name!r}") from None
    raise unknown("TFDS data set", name, known) from None
  except Exception as e:  # each damaged file that describes it raises its own
    reason = " ".join(str(e).split()) or type(e).__name__
    raise UserError(f"TFDS cannot use data.name={name!r}: {reason[:400]}") from e


def _check_features(name: str, data_dir: str | None) -> None:
  """Raises UserError for a data set whose files name foreign modules, which TFDS would import."""
  root = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR) / re.split("[:/]", name)[0]
  for file in root.rglob("features.json"):
    with contextlib.suppress(OSError):
      named = re.findall(rb'ythonClassName"\s*:\s*"([^"]*)', file.read_bytes())
      if odd := [n for n in named if not re.fullmatch(rb"tensorflow_datasets\.[\w.]+", n)]:
        raise UserError(
          f"{file} names {odd[0].decode(errors='replace')!r}, which is no feature of TFDS: reading "
          "it would run code that came with the data"
        )


def _not_prepared(builder, config: ConfigDict) -> UserError:
  folder = pathlib.Path(builder.data_path)
  others = [p.name for p in folder.parent.glob("*") if re.fullmatch(r"[0-9.]+", p.name)]
  versions = f" (versions there: {', '.join(sorted(others))})" if others else ""
  where = f" --data_dir={quoted(config.data_dir)}" if config.data_dir else ""
  return UserError(
    f"the data set {config.name} is not in {folder}{versions}. Prepare it once with "
    f"`pip install -e '.[prepare]' && python -m cnnjax.data prepare {config.name}{where}`, or "
    "say where it lies with --config.data.data_dir=DIR"
  )


def _check_format(builder) -> None:
  formats = tfds.core.file_adapters.FileFormat
  if not builder.info.available_file_formats() & formats.with_random_access():
    raise UserError(
      f"the data set in {builder.data_path} was prepared as {builder.info.file_format.value}, "
      "which only TensorFlow reads; prepare it as array_record in another folder, with "
      f"`python -m cnnjax.data prepare {builder.name} --data_dir=DIR`, and set data.data_dir"
    )


def _features(builder) -> tuple[dict[str, str], dict[str, Field]]:
  """Returns (the features to read by the names of their fields, these fields).

  One of each kind, the supervised one or the first: an image; one or more labels; a mask, which
  is a LabeledImage; boxes, which are a Sequence with a BBoxFeature and perhaps a ClassLabel; a
  value, which is a float or a vector of floats.
  """
  features = builder.info.features
  supervised = builder.info.supervised_keys or ()

  def first(fits) -> str | None:
    fitting = [key for key, feature in features.items() if fits(feature)]
    return next((key for key in supervised if key in fitting), next(iter(fitting), None))

  a = tfds.features
  is_image = lambda f: type(f) is a.Image
  is_label = lambda f: type(f) is a.ClassLabel
  is_labels = lambda f: type(f) is a.Sequence and type(f.feature) is a.ClassLabel
  is_value = lambda f: (
    type(f) in (a.Scalar, a.Tensor)
    and np.issubdtype(f.np_dtype, np.floating)
    and len(f.shape) < 2
    and None not in f.shape
  )
  keys = {
    "image": first(is_image),
    "label": first(is_label) or first(is_labels),
    "mask": first(lambda f: type(f) is a.LabeledImage and f.num_classes),
    "boxes": first(lambda f: _parts_of_boxes(f)[0]),
    "value": first(is_value),
  }
  keys = {name: key for name, key in keys.items() if key is not None}
  if "image" not in keys:
    raise UserError(f"{builder.name} has no images: it has {', '.join(features)}")
  declared = {"image": _image(builder.name, features[keys["image"]])}
  if "label" in keys:
    feature = features[keys["label"]]
    multi_label = type(feature) is a.Sequence
    names = _names(builder, keys["label"], feature.feature if multi_label else feature)
    declared["label"] = (fields.multi_label if multi_label else fields.label)(names)
  if "mask" in keys:
    mask = features[keys["mask"]]
    height, width, _ = mask.shape
    names = mask.names or range(mask.num_classes)
    dtype = "uint8" if mask.num_classes <= 255 else "uint16"
    declared["mask"] = fields.mask(height, width, map(str, names), dtype)
  if "boxes" in keys:
    feature = features[key := keys["boxes"]]
    _, label = _parts_of_boxes(feature)
    names = _names(builder, f"{key}/{label}", feature.feature[label]) if label else ("0",)
    declared["boxes"] = fields.boxes(None, names)
  if "value" in keys:
    declared["value"] = fields.value(*features[keys["value"]].shape)
  return keys, declared


def _parts_of_boxes(feature) -> tuple[str | None, str | None]:
  """Returns the parts of a feature that are a box and its class; None for one that it lacks.

  Data sets without a format are older than the choice: their boxes are ymin, xmin, ymax, xmax.
  """
  a = tfds.features
  if type(feature) is not a.Sequence or not isinstance(feature.feature, a.FeaturesDict):
    return None, None
  formats = (None, a.bounding_boxes_utils.BBoxFormat.REL_YXYX)
  is_box = lambda f: type(f) is a.BBoxFeature and f.bbox_format in formats
  parts = feature.feature.items()
  labels = [name for name, f in parts if type(f) is a.ClassLabel]
  box = next((name for name, f in parts if is_box(f)), None)
  return box, "label" if "label" in labels else next(iter(labels), None)


def _image(name: str, feature) -> Field:
  """Returns the field of an image feature."""
  dtype = np.dtype(feature.np_dtype)
  if dtype not in (np.uint8, np.uint16):
    raise UserError(
      f"the images of {name} are {dtype}; choose a data set with images of 8 or 16 bits"
    )
  height, width, channels = feature.shape
  return fields.image(height, width, channels or 3, str(dtype))


def _names(builder, key: str, feature) -> tuple[str, ...]:
  """Returns the classes of a label feature."""
  if len(feature.names) != feature.num_classes:
    raise UserError(
      f"{builder.data_path} names {len(feature.names)} classes of {key}, and has "
      f"{feature.num_classes}: its files are damaged; delete the folder and prepare it again"
    )
  return tuple(feature.names)


def _split_info(builder, expression: str, key: str):
  splits = builder.info.splits
  try:
    info = splits[expression]
  except (ValueError, KeyError, AssertionError) as e:
    name = re.split(r"[\[+]", expression)[0].strip()
    if name not in splits:
      raise unknown(f"split in {key}: {builder.name} has no", name, splits) from None
    raise UserError(f"{key}: TFDS cannot read the split {expression!r}: {e}") from e
  if not info.num_examples:
    raise UserError(f"{key}: the split {expression!r} of {builder.name} is empty")
  return info


def _check_overlap(builder, config: ConfigDict) -> None:
  """Raises UserError if an example is in two splits, such as training and test."""

  def pieces(expression):
    return [
      (f.filename, f.skip, f.skip + f.examples_in_shard if f.take == -1 else f.skip + f.take)
      for f in builder.info.splits[expression].file_instructions
    ]

  for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
    if isinstance(config[first], str) and isinstance(config[second], str):
      for name, start, stop in pieces(config[first]):
        if any(name == n and start < b and a < stop for n, a, b in pieces(config[second])):
          raise UserError(
            f"data.{second} {config[second]!r} shares examples with data.{first} {config[first]!r}"
          )
