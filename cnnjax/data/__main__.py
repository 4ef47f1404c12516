"""python -m cnnjax.data prepare NAME [--data_dir=DIR]: makes a TFDS data set ready, once."""

import sys

from cnnjax.errors import ArgumentParser, run


def main(argv: list[str] | None = None) -> int:
  parser = ArgumentParser(prog="python -m cnnjax.data", description=__doc__)
  commands = parser.add_subparsers(dest="command", required=True)
  prepare = commands.add_parser("prepare", help="download a TFDS data set and write array_record")
  prepare.add_argument("name", help="such as cifar10")
  prepare.add_argument("--data_dir", help="where data sets lie; default: TFDS's own")
  args = parser.parse_args(argv)
  from cnnjax.data import tfds  # late: the help need not import TFDS

  print(tfds.prepare(args.name, args.data_dir))
  return 0


if __name__ == "__main__":
  sys.exit(run(main))
