"""Trains what a config file says.

python -m cnnjax.main --config=configs/resnet.py
python -m cnnjax.main --config=configs/resnet.py:cifar10 --config.seed=1 --workdir=runs/r20

Exit codes: 0 done; 2 something is wrong, which one line on stderr names; 128 + number stopped by a
signal (130 SIGINT, 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1, 140 SIGUSR2) and saved: the same command
goes on; 75 a device, another process or the disk failed, or another run has the workdir: the
same command may go on. When nobody reads the output any more, as after `| head`, a run goes on;
other commands end in silence, with 141.
"""

import argparse
import signal
import sys

from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax import errors
from cnnjax.config.files import keys_help
from cnnjax.errors import ArgumentParser, UserError, run, tell
from cnnjax.runtime import ranks, signals
from cnnjax.runtime.paths import to_path


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, ConfigDict]:
  """Returns the flags, and the config with the overrides among the words."""
  words = sys.argv[1:] if argv is None else argv
  parser = ArgumentParser(
    prog="python -m cnnjax.main",
    description=__doc__,
    epilog="config keys:\n\n" + keys_help(words) if {"--help", "-h"} & {*words} else None,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    "--config",
    metavar="FILE[:PRESET]",
    help="a config file (Python, and it is run) and one of its presets",
  )
  parser.add_argument(
    "--workdir",
    type=to_path,
    help="where the run is kept; one that was stopped there goes on. Default: a "
    "fresh folder under runs/",
  )
  many = parser.add_argument_group(
    "many processes",
    "found without flags under SLURM, Open MPI and on TPU pods; python -m cnnjax.launch starts "
    "several on one machine",
  )
  many.add_argument("--coordinator", metavar="HOST:PORT", help="where the first process listens")
  many.add_argument("--processes", type=int, metavar="N", help="how many there are")
  many.add_argument("--process", type=int, metavar="I", help="which this is, from 0")
  args, rest = parser.parse_known_args(argv)
  if args.workdir is not None and not args.workdir.name:
    raise UserError(f"--workdir={args.workdir} names no folder for the run")
  flags = ["--workdir", "--coordinator", "--processes", "--process"]
  return args, configs.from_arguments(args.config, rest, flags)


def announce(args: argparse.Namespace) -> None:
  """Says at once what begins, in the first process of several."""
  many = args.coordinator, args.processes, args.process
  if ranks.may_be_first(*many):
    folder = "a new folder under runs/" if args.workdir is None else args.workdir
    errors.announce(f"training {args.config} in {folder}", say=errors.say)


def main(argv: list[str] | None = None) -> int:
  args, config = parse(argv)
  try:
    announce(args)
    from cnnjax import train  # late: --help and a wrong flag need not import JAX
    from cnnjax.runtime import processes

    processes.start(args.coordinator, args.processes, args.process)
    with processes.one_for_all():
      _, _, stopped_by = train.train(config, args.workdir)
  except KeyboardInterrupt:
    tell("stopped at once; the last checkpoint, if there is one, is whole")
    return 128 + signal.SIGINT
  return 128 + stopped_by if stopped_by else 0


if __name__ == "__main__":
  with signals.leave_by_exception():
    sys.exit(run(main))
