"""Lists the commands."""

import ast
import pathlib
import sys

from cnnjax.errors import ArgumentParser, UserError, run, unknown


def commands() -> dict[str, str]:
  """Returns the first docstring line of each command, by name; imports no command."""
  here = pathlib.Path(__file__).parent
  found = {}
  for file in sorted({*here.glob("*.py"), *here.glob("*/__main__.py")} - {pathlib.Path(__file__)}):
    source = file.read_text("utf-8")
    if 'if __name__ == "__main__":' in source:
      name = file.parent.name if file.stem == "__main__" else file.stem
      found[name] = ast.get_docstring(ast.parse(source)).splitlines()[0]
  return dict(sorted(found.items()))


def main(argv: list[str] | None = None) -> int:
  found = commands()
  parser = ArgumentParser(prog="python -m cnnjax", description=__doc__)
  _, words = parser.parse_known_args(argv)
  if words and words[0] in found:
    raise UserError(f"put a dot before the name of a command: python -m cnnjax.{words[0]} ...")
  if words:
    raise unknown("command", words[0], found)
  width = max(map(len, found))
  for name, text in found.items():
    print(f"python -m cnnjax.{name:<{width}}  {text}")
  print("Each of them says more with --help.")
  return 0


if __name__ == "__main__":
  sys.exit(run(main))
