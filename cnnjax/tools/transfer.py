"""Says what a file of weights holds, converts it, and tries its features on images.

python -m cnnjax.transfer inspect resnet50.pth
python -m cnnjax.transfer convert resnet50.h5 resnet50.safetensors
python -m cnnjax.transfer probe resnet50.pth --path=PHOTOS
python -m cnnjax.transfer features resnet50.pth --path=PHOTOS --out=photos.npz

A converted file is safetensors by our names, with the preprocessing as its metadata; predict and
init.from take either. A probe fits simple classifiers to the features of the network as it is, in
folds: what fine-tuning has to beat. It takes the workdir of a run in place of a file, too.
"""

import argparse
import pathlib

import rich.progress

from cnnjax import errors, models, transfer
from cnnjax.runtime.console import Console
from cnnjax.tools import probe


def main(argv: list[str] | None = None) -> int:
  parser = errors.ArgumentParser(
    prog="python -m cnnjax.transfer",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest="command", required=True)
  inspect = commands.add_parser("inspect", help="say what a file holds")
  convert = commands.add_parser("convert", help="write it in the format of cnnjax")
  for command in (inspect, convert):
    command.add_argument("file", help="of torch, Keras or safetensors; or hf://owner/name")
    command.add_argument("--source", help="the code that wrote it; default: found by its tensors")
    command.add_argument("--model", help="the architecture; default: found by its tensors")
  convert.add_argument("out", type=pathlib.Path, help="the file to write, OUT.safetensors")
  _add_probes(commands)
  args = parser.parse_args(argv)
  if args.command in ("probe", "features"):
    return _probe(args)
  if args.command == "convert" and args.out.exists():
    raise errors.UserError(f"{args.out} exists already: choose another name")
  network = transfer.open_file(args.file, source=args.source, name=args.model)
  for name, text in describe(network).items():
    print(f"{name:13} {text}")
  if args.command == "convert":
    transfer.save(network, args.out)
    print(f"written: {args.out}")
  return 0


def _add_probes(commands: argparse._SubParsersAction) -> None:
  one = commands.add_parser("probe", help="fit simple classifiers to features of images")
  two = commands.add_parser("features", help="write features of images")
  for command in (one, two):
    command.add_argument("file", help="of weights, or the workdir of a run")
    command.add_argument("--path", required=True, help="folder or list of images, as data.path")
    command.add_argument("--group", help="images that are never parted, as data.group")
    command.add_argument("--size", type=int, help="of the images in pixels; default: the weights'")
    command.add_argument("--batch_size", type=int, default=32, help="images at a time")
  one.add_argument("--folds", type=int, default=5, help="parts, each of which is tested once")
  one.add_argument("--seed", type=int, default=0, help="of the folds")
  two.add_argument("--out", type=pathlib.Path, required=True, help="the npz file to write")


def _probe(args: argparse.Namespace) -> int:
  if args.command == "features" and args.out.exists():
    raise errors.UserError(f"{args.out} exists already: choose another name")
  console = Console(stderr=True)
  with rich.progress.Progress(console=console, transient=True, disable=not console.animated) as bar:
    task = bar.add_task("features", total=None)
    found = probe.features(
      args.file, args.path, group=args.group, size=args.size, batch_size=args.batch_size,
      progress=lambda done, total: bar.update(task, completed=done, total=total),
    )  # fmt: skip
  n, width = found.values.shape
  print(f"{errors.number(n, 'image')}, {width} features each")
  if args.command == "features":
    found.save(args.out)
    print(f"written: {args.out}")
    return 0
  for name, folds in probe.probe(found, folds=args.folds, seed=args.seed).items():
    print(
      f"{name:9} {folds.mean():.2%} in {len(folds)} folds, from {folds.min():.2%} to "
      f"{folds.max():.2%}"
    )
  return 0


def describe(network: transfer.Pretrained) -> dict[str, str]:
  """Returns in words what a file holds, and the options of the model that follow from it."""
  record = network.preprocessing
  size = models.summarize(network.model, network.shape)
  options = [f"model.{key}={value}" for key, value in network.options.items()]
  classes = f"{network.num_classes:,} classes"
  named = f": {errors.listed(record.classes)}" if record.classes else ", without names"
  return {
    "model": network.words,
    "parameters": f"{size.parameters:,}, {size.macs:,} multiply-accumulates for an image",
    "classes": classes + named if network.num_classes else "none: it has no last layer",
    "images": record.words,
    "licence": record.licence or "not said",
    "options": ", ".join(options) or "those of the model",
    **{f"note {i}": note for i, note in enumerate(network.notes, 1)},
  }
