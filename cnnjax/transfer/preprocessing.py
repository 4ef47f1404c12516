"""Knows what is done to images before weights see them, for each source and variant.

Files of torch and Keras do not say it. records.json has it for each published file of torchvision
and timm, found by the digits in its name; the other sources stand below. A config.json of the
Hugging Face hub beside a file goes first.
"""

import dataclasses
import fnmatch
import functools
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from cnnjax.errors import UserError

RECORDS = pathlib.Path(__file__).with_name("records.json")  # written by tests/transfer
CLASSES = pathlib.Path(__file__).with_name("imagenet_classes.txt")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
# Means of Caffe's networks: they take values up to 255 in the order blue, green, red.
CAFFE = {
  "mean": (123.68 / 255, 116.779 / 255, 103.939 / 255),
  "std": (1 / 255, 1 / 255, 1 / 255),
  "channel_order": "BGR",
}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """How images become the input of a network, and what its outputs are called.

  It is that of the evaluation: the shorter side becomes `image_size / crop` pixels, of which the
  square in the centre is taken.
  """

  mean: tuple[float, ...] = IMAGENET["mean"]  # of images in [0, 1], red, green, blue
  std: tuple[float, ...] = IMAGENET["std"]
  image_size: int = 224  # pixels
  crop: float = 224 / 256
  interpolation: str = "bilinear"
  channel_order: str = "RGB"  # that the file was trained with; loaded weights take RGB
  classes: tuple[str, ...] = ()  # names of the outputs; empty: unknown
  source: str = ""  # who made the weights
  licence: str = ""  # if it is said

  @property
  def words(self) -> str:
    numbers = lambda values: "(" + ", ".join(f"{x:.4g}" for x in values) + ")"
    order = "" if self.channel_order == "RGB" else f", trained on {self.channel_order}"
    return (
      f"{self.image_size} pixels, crop {self.crop:.4g}, {self.interpolation}, mean "
      f"{numbers(self.mean)}, deviation {numbers(self.std)}{order}"
    )

  @property
  def keys(self) -> dict[str, Any]:
    """The values of the keys of the config's `data` that say the same."""
    return {
      "mean": self.mean,
      "std": self.std,
      "image_size": self.image_size,
      "eval_crop": self.crop,
      "interpolation": self.interpolation,
    }

  def as_json(self) -> dict[str, Any]:
    """Returns it as a dict of JSON's types."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, held: Mapping[str, Any]) -> "Preprocessing":
    """Returns the record that `as_json` wrote.

    Raises:
      UserError: it is none.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if not isinstance(held, Mapping) or not held.keys() <= fields.keys():
      raise UserError(f"no record of preprocessing: {held!r}")
    as_tuple = lambda x: tuple(x) if isinstance(x, list) else x
    record = cls(**{key: as_tuple(value) for key, value in held.items()})
    if len(record.mean) != len(record.std) or not all(x > 0 for x in (*record.std, record.crop)):
      raise UserError(f"no record of preprocessing: {held!r}")
    return record


# By source: patterns of our names and what differs from the defaults above, the first that matches.
_KNOWN: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
  "keras": (
    ("resnet*_v1 vgg*", CAFFE),
    ("densenet*", {**IMAGENET}),
    ("resnetv2* preact*", {**HALF}),
    ("inception* xception", {**HALF, "image_size": 299}),
    ("mobilenet*", {**HALF}),
    ("efficientnetv2_s", {"mean": (0.5,) * 3, "std": (0.5,) * 3, "image_size": 384, "crop": 1.0}),
    ("efficientnetv2_[ml]", {**HALF, "image_size": 480, "crop": 1.0}),
    ("efficientnet_b*", {"interpolation": "bicubic"}),
    ("*", {}),
  ),
  "efficientnet_pytorch": (
    (
      "efficientnet_lite*",
      {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "interpolation": "bicubic"},
    ),
    ("*", {"interpolation": "bicubic"}),
  ),
  "pytorchcv": (("inception* xception", {"image_size": 299}), ("*", {})),
  "pytorch_cifar": (
    ("*", {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010), "crop": 1.0}),
  ),
  "pytorch_resnet_cifar10": (("*", {"crop": 1.0}),),
  "bvlc_googlenet": (("*", {**CAFFE, "crop": 224 / 256}),),
}  # fmt: skip
_CIFAR = ("pytorch_cifar", "pytorch_resnet_cifar10")
# Sizes of the variants of EfficientNet, arXiv:1905.11946 and its code.
_SIZES = {
  "b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600, "b8": 672,
  "lite0": 224, "lite1": 240, "lite2": 260, "lite3": 280, "lite4": 300,
}  # fmt: skip


@functools.cache
def records() -> dict[str, dict[str, list[dict[str, Any]]]]:
  """Returns the records of files of torchvision and timm, by source and by our name."""
  return json.loads(RECORDS.read_text())


def known(
  source: str, name: str, *, num_classes: int = 1000, hint: str = "", input_size: int | None = None
) -> Preprocessing:
  """Returns the record of the weights of an architecture.

  Args:
    source: of `mapping.SOURCES`.
    name: a registered model.
    num_classes: of the weights; 1000 are taken for those of ImageNet.
    hint: the name of the file; its digits tell the versions of a network apart.
    input_size: the usual one of the model, where no record says it.
  """
  held = dict(_of_file(source, name, hint) or _of_source(source, name))
  if input_size and "image_size" not in held:
    held["image_size"] = 32 if source in _CIFAR else input_size
  if source in ("efficientnet_pytorch", "keras") and (
    match := re.fullmatch(r"efficientnet_(\w+)", name)
  ):
    held["image_size"] = _SIZES.get(match[1], 224)
  classes = imagenet_classes() if num_classes == 1000 else ()
  return Preprocessing.from_json({**held, "classes": classes, "source": source})


def _of_file(source: str, name: str, hint: str) -> dict[str, Any] | None:
  """Returns the record of a published file: that with its digits, or the usual one."""
  rows = records().get(source, {}).get(name, [])
  digits = set(re.findall(r"[0-9a-f]{8}", hint))
  for row in rows:
    if digits & {*row.get("files", ())} or (row.get("tag") and row["tag"] in hint):
      return {k: v for k, v in row.items() if k not in ("files", "tag")}
  return {k: v for k, v in rows[0].items() if k not in ("files", "tag")} if rows else None


def _of_source(source: str, name: str) -> dict[str, Any]:
  for patterns, held in _KNOWN.get(source, ()):
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns.split()):
      return held
  return {}


def of_hub(said: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the part of a record that a config.json of timm on the Hugging Face hub holds."""
  cfg = said.get("pretrained_cfg", {})
  held = {key: tuple(cfg[key]) for key in ("mean", "std") if key in cfg}
  if isinstance(cfg.get("input_size"), list) and len(cfg["input_size"]) == 3:
    held["image_size"] = cfg["input_size"][1]
  if "crop_pct" in cfg:
    held["crop"] = cfg["crop_pct"]
  if cfg.get("interpolation") in ("bilinear", "bicubic"):
    held["interpolation"] = cfg["interpolation"]
  if isinstance(said.get("label_names"), list):
    held["classes"] = tuple(map(str, said["label_names"]))
  return held | ({"licence": cfg["license"]} if cfg.get("license") else {})


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
  """Returns the names of the 1000 classes of ImageNet in the order of the outputs."""
  return tuple(CLASSES.read_text().splitlines())
