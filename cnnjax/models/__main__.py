"""Lists the models, with their parameters, MACs, input sizes and papers."""

from cnnjax import errors, models
from cnnjax.runtime.console import Console


def main() -> int:
  """Prints one row per model, each as soon as it is counted."""
  parser = errors.ArgumentParser(prog="python -m cnnjax.models", description=__doc__)
  parser.add_argument("pattern", nargs="?", default="*", help="a shell pattern of names")
  pattern = parser.parse_args().pattern
  names = models.names(pattern)
  if not names:
    raise errors.unknown("model", pattern, models.names())
  console = Console()
  console.print(
    "Parameters and multiply-accumulates for one image of the usual size, with 1000 classes, or 10"
    "\nfor models of images below 64 pixels.\n"
  )
  width = max(map(len, names))
  console.print(f"{'model':{width}} {'parameters':>13} {'MACs':>9}  {'input':<11}  reference")
  for name in names:
    entry = models.lookup(name)
    classes = 1000 if entry.input_shape[0] >= 64 else 10
    # With scan, equal blocks are traced only once; the counts are the same.
    options = {"scan": True} if "scan" in entry.defaults else {}
    size = models.summarize(models.create(name, classes, **options), entry.input_shape)
    shape = "x".join(map(str, entry.input_shape))
    row = f"{name:{width}} {size.parameters:>13,} {_giga(size.macs):>9}  {shape:<11}"
    console.print(f"{row}  {entry.reference}")
  return 0


def _giga(macs: int) -> str:
  return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"


if __name__ == "__main__":
  raise SystemExit(errors.run(main))
