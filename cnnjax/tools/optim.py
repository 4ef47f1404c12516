"""Draws the learning rate over a run, for one or more configs.

python -m cnnjax.optim plot --config=configs/resnet.py
python -m cnnjax.optim plot --config=A.py:PRESET --config=B.py --examples=50000 --out=rates.png
"""

import argparse
import pathlib

from cnnjax import config as configs
from cnnjax.errors import ArgumentParser
from cnnjax.runtime.paths import to_path


def _plot(args: argparse.Namespace, words: list[str]) -> int:
  flags = ["--out", "--examples", "--log"]
  loaded = [configs.from_arguments(argument, words, flags) for argument in args.config or [None]]
  from cnnjax.tools import plot  # late: a wrong flag need not import JAX

  curves = []
  for argument, config in zip(args.config, loaded, strict=True):
    file, preset = configs.split_argument(argument)
    name = pathlib.Path(file).stem + (f":{preset}" if preset else "")
    curves += plot.curves(config, name, args.examples)
  for curve in curves:
    print(f"{curve.name}: {curve.text}\n{curve.table()}\n")
  plot.draw(curves, args.out, log=args.log)
  print(f"written: {args.out}")
  return 0


def main(argv: list[str] | None = None) -> int:
  parser = ArgumentParser(
    prog="python -m cnnjax.optim",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  commands = parser.add_subparsers(dest="command", required=True)
  plot = commands.add_parser("plot", help="the learning rate over the run", allow_abbrev=False)
  plot.add_argument(
    "--config",
    metavar="FILE[:PRESET]",
    action="append",
    help="as in cnnjax.main, with overrides; more are drawn together, the overrides in each",
  )
  plot.add_argument(
    "--out", type=to_path, default="learning_rate.png", help="default: learning_rate.png"
  )
  plot.add_argument(
    "--examples", type=int, help="of an epoch; default: those of the data, if they are here"
  )
  plot.add_argument("--log", action="store_true", help="a logarithmic axis of rates")
  args, words = parser.parse_known_args(argv)
  return _plot(args, words)
