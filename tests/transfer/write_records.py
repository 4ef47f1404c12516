"""Writes cnnjax/transfer/records.json anew from the torchvision and timm that are installed.

python tests/transfer/write_records.py
"""

import json
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import parity

from cnnjax.transfer import preprocessing, recognise

# Our names whose name there is another one; the others are the same.
TORCHVISION = {
  "mobilenetv3_large_100": "mobilenet_v3_large", "mobilenetv3_small_100": "mobilenet_v3_small",
  "efficientnetv2_s": "efficientnet_v2_s", "efficientnetv2_m": "efficientnet_v2_m",
  "efficientnetv2_l": "efficientnet_v2_l", "mobilenetv2_100": "mobilenet_v2",
  "mnasnet_050": "mnasnet0_5", "mnasnet_075": "mnasnet0_75", "mnasnet_100": "mnasnet1_0",
  "mnasnet_130": "mnasnet1_3", "regnetx_004_tv": "regnet_x_400mf", "regnetx_008": "regnet_x_800mf",
  "regnetx_016": "regnet_x_1_6gf", "regnetx_032": "regnet_x_3_2gf", "regnetx_080": "regnet_x_8gf",
  "regnetx_160": "regnet_x_16gf", "regnetx_320": "regnet_x_32gf", "regnety_004": "regnet_y_400mf",
  "regnety_008_tv": "regnet_y_800mf", "regnety_016": "regnet_y_1_6gf",
  "regnety_032": "regnet_y_3_2gf", "regnety_080_tv": "regnet_y_8gf",
  "regnety_160": "regnet_y_16gf", "regnety_320": "regnet_y_32gf",
  "vit_base_patch16_224": "vit_b_16", "vit_base_patch32_224": "vit_b_32",
}  # fmt: skip
KEYS = ("mean", "std", "image_size", "crop", "interpolation")


def torchvision_rows(name: str) -> list[dict]:
  """Returns the record of each file of a model of torchvision, the newest last."""
  from torchvision import models

  name = TORCHVISION.get(name, name)
  if name not in models.list_models(module=models):
    return []
  rows = []
  for weights in models.get_model_weights(name):
    transform = weights.transforms()
    if not hasattr(transform, "crop_size"):
      continue
    size, resized = transform.crop_size[0], transform.resize_size[0]
    rows.append({
      "mean": list(transform.mean), "std": list(transform.std), "image_size": size,
      "crop": round(size / resized, 4), "interpolation": transform.interpolation.value,
      "files": re.findall(r"-([0-9a-f]{8})\.pth", weights.url), "tag": weights.name,
      "licence": str(weights.meta.get("license") or ""),
    })  # fmt: skip
  return rows


def timm_rows(name: str, prefix: str = "") -> list[dict]:
  """Returns the record of each file of a model of timm, its default first."""
  import timm

  entry = prefix + name
  rows = []
  for full in [*timm.list_models(f"{entry}.*", pretrained=True), entry]:
    if full.split(".")[0] != entry or not timm.is_model(entry):
      continue
    cfg = timm.get_pretrained_cfg(full)
    if cfg is None or cfg.num_classes == 0:
      continue
    rows.append({
      "mean": list(cfg.mean), "std": list(cfg.std), "image_size": cfg.input_size[1],
      "crop": cfg.crop_pct, "interpolation": cfg.interpolation,
      "files": re.findall(r"-([0-9a-f]{8})\.", cfg.url or ""), "tag": full.partition(".")[2],
      "licence": str(cfg.license or ""),
    })  # fmt: skip
  usual = [row for row in rows if not row["tag"]]
  return usual + [row for row in rows if row["tag"]]


def compact(rows: list[dict]) -> list[dict]:
  """Returns the rows without empty entries, and without those that repeat the first."""
  defaults = preprocessing.Preprocessing()
  kept = []
  for row in rows:
    if row["interpolation"] not in ("bilinear", "bicubic"):
      row["interpolation"] = "bicubic"
    usual = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(defaults).items()}
    kept.append({k: v for k, v in row.items() if v and v != usual.get(k)})
  return kept


def main() -> None:
  parity.torch()
  held: dict[str, dict] = {}
  for rules, name in recognise.options():
    make = {
      "torchvision": torchvision_rows,
      "timm": timm_rows,
      "timm_tf": lambda name: timm_rows(name, "tf_"),
    }.get(rules.source)
    if make and (rows := compact(make(name))):
      held.setdefault(rules.source, {})[name] = rows
  lines = [
    f"{json.dumps(source)}: {{\n"
    + ",\n".join(f"{json.dumps(n)}: {json.dumps(rows)}" for n, rows in by_name.items())
    + "\n}"
    for source, by_name in held.items()
  ]
  preprocessing.RECORDS.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
  main()
