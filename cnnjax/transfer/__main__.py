"""Says what a file of weights holds, and writes it in the format of cnnjax.

python -m cnnjax.transfer inspect resnet50.pth
python -m cnnjax.transfer convert resnet50.h5 resnet50.safetensors

A converted file is safetensors by our names, with the preprocessing as its metadata; predict and
init.from take either.
"""

import argparse
import pathlib

from cnnjax import errors, models, transfer


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
  args = parser.parse_args(argv)
  if args.command == "convert" and args.out.exists():
    raise errors.UserError(f"{args.out} exists already: choose another name")
  network = transfer.open_file(args.file, source=args.source, name=args.model)
  for name, text in describe(network).items():
    print(f"{name:13} {text}")
  if args.command == "convert":
    transfer.save(network, args.out)
    print(f"written: {args.out}")
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


if __name__ == "__main__":
  raise SystemExit(errors.run(main))
