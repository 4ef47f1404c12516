"""Tools for data: prepare a TFDS data set, scan images, show training batches."""

import argparse

import rich.progress

from cnnjax import build, trained
from cnnjax import config as configs
from cnnjax.errors import ArgumentParser
from cnnjax.runtime.console import Console
from cnnjax.runtime.paths import to_path


def _prepare(args: argparse.Namespace) -> int:
  from cnnjax.data import tfds  # late, as below: only this command needs it, not --help

  print(tfds.prepare(args.name, args.data_dir))
  return 0


def _scan(args: argparse.Namespace) -> int:
  from cnnjax.tools import scan

  console = Console(stderr=True)  # the report can be kept apart
  with rich.progress.Progress(console=console, transient=True, disable=not console.animated) as bar:
    task = bar.add_task("reading images", total=None)
    report = scan.scan(args.path, lambda done, total: bar.update(task, completed=done, total=total))
  print(scan.render(report))
  return 1 if report.harmful else 0


def _show(args: argparse.Namespace, words: list[str]) -> int:
  from cnnjax.tools import show

  config = configs.from_arguments(args.config, words, ["--out", "--step", "--images"])
  config, _ = trained.with_init(config)
  build.validate(config)
  print(show.show(config, args.out, args.step, args.images))
  print(f"written: {args.out}")
  return 0


def main(argv: list[str] | None = None) -> int:
  parser = ArgumentParser(prog="python -m cnnjax.data", description=__doc__, allow_abbrev=False)
  commands = parser.add_subparsers(dest="command", required=True)
  prepare = commands.add_parser("prepare", help="download a TFDS data set and write array_record")
  prepare.add_argument("name", help="such as cifar10")
  prepare.add_argument("--data_dir", help="where data sets lie; default: TFDS's own")
  scan = commands.add_parser("scan", help="look for files that cannot be read, that are twice, ...")
  scan.add_argument("path", type=to_path, help="a folder of images, or a .csv or .jsonl file")
  show = commands.add_parser("show", help="write a picture of what the network will see")
  show.add_argument("--config", metavar="FILE[:PRESET]", help="as in cnnjax.main, with overrides")
  show.add_argument("--out", type=to_path, default="batch.png", help="default: batch.png")
  show.add_argument("--step", type=int, default=0, help="of the run; default 0")
  show.add_argument("--images", type=int, default=32, help="how many; default 32")
  args, words = parser.parse_known_args(argv)
  if args.command == "show":
    return _show(args, words)
  if words:
    parser.error(f"unrecognized arguments: {' '.join(words)}")
  return {"prepare": _prepare, "scan": _scan}[args.command](args)
