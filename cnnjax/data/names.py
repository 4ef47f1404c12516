"""Reads the names of splits and classes, and the cells of lists, as people write them."""

import collections
import decimal
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cnnjax.errors import UserError, listed

# Names of splits, in lower case; the last of validation and test are FER2013's.
ALIASES = {
  "train": ("train", "training"),
  "validation": ("validation", "val", "valid", "dev", "publictest"),
  "test": ("test", "testing", "eval", "privatetest"),
}
# The suffixes of names of splits, as in train_images, test set, val2017.
_SUFFIX = r"[ _-]?(set|data|images|imgs|photos|split|20\d\d)?"
# Texts that programs write for a missing label; pandas reads them as none.
MISSING = {
  "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
  "N/A", "NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "null",
}  # fmt: skip
_MOST = 5  # doubts that `doubts` tells


def split_of(name: str) -> str | None:
  """Returns the split that a name means, "train", "validation" or "test"; None for other names."""
  return _parsed(name)[0]


def same_split(name: str) -> str:
  """Returns one name for all spellings of a split: "train" for training and train_images.

  Words such as val and dev, and years, keep splits apart.
  """
  split, word, suffix = _parsed(name)
  if split is None:
    return name
  word = next((stem for stem in ("train", "val", "test") if word.startswith(stem)), word)
  return word + suffix if suffix.isdigit() else word


def _parsed(name: str) -> tuple[str | None, str, str]:
  """Returns (the split that a name means, its alias in the name, the suffix)."""
  for split, aliases in ALIASES.items():
    if match := re.fullmatch(f"({'|'.join(aliases)}){_SUFFIX}", name.strip().lower()):
      return split, match[1], match[2] or ""
  return None, "", ""


def as_text(value: object) -> str:
  """Returns a label as text: numbers and booleans as Python writes them; "" for no label."""
  if not isinstance(value, str | int | float) or value in (math.inf, -math.inf) or value != value:
    return ""
  text = str(value).strip()
  return "" if re.search("[\ud800-\udfff]", text) else text  # halves of characters, as in "\\ud800"


def labels_in(cell: Any, *, csv: bool) -> list[str]:
  """Returns the labels in a cell `as_text`, in CSV separated by ";", in JSONL one or a list."""
  if csv:
    return [as_text(part) for part in cell.split(";")]
  return [as_text(value) for value in (cell if isinstance(cell, list) else [cell])]


def number_in(cell: Any) -> float | None:
  """Returns the finite number in a cell; None for anything else, booleans too."""
  if isinstance(cell, bool) or not isinstance(cell, str | int | float):
    return None
  try:
    number = float(cell)
  except (ValueError, OverflowError):
    return None
  return number if math.isfinite(number) else None


def same(name: str) -> str:
  """Returns one name for all spellings of a class: Unicode's form NFC, 1 for 1.0."""
  if match := re.fullmatch(r"([+-]?)(0|[1-9][0-9]*)(\.0*)?", name):
    sign, whole, _ = match.groups()
    return f"-{whole}" if sign == "-" and whole != "0" else whole
  return unicodedata.normalize("NFC", name)


def classes(names: Iterable[str]) -> dict[str, str]:
  """Returns the class of each name, in order: numbers by value, then the alphabet.

  A class has its name as spelled, in NFC; or that of `same` where there are more spellings.
  """
  groups = collections.defaultdict(list)
  for name in sorted({*names}):
    groups[same(name)].append(name)
  sort_by = lambda common: _order(groups[common][0] if len(groups[common]) == 1 else common)
  return {
    name: unicodedata.normalize("NFC", name) if len(groups[common]) == 1 else common
    for common in sorted(groups, key=sort_by)
    for name in groups[common]
  }


def _order(name: str) -> tuple:
  """Returns the sort key of a class: numbers by value, equal ones and other names by alphabet."""
  if len(name) < 1000 and re.fullmatch(r"[+-]?\d+(\.\d*)?", name):
    return (0, decimal.Decimal(name), name)
  return (1, 0, name)


def doubts(by_name: Mapping[str, str]) -> str:
  """Returns in words the names and classes that may be mistakes; "" if none."""
  spellings, alike = collections.defaultdict(list), collections.defaultdict(list)
  for name, label in by_name.items():
    spellings[label].append(name)
  for label in spellings:
    alike[_at_a_glance(label)].append(label)
  lines = [f"{_quoted(names)} are one class" for names in spellings.values() if len(names) > 1]
  for labels in alike.values():
    if len(labels) > 1:
      form = len({*map(_in_one_form, labels)}) == 1
      by = "case, spaces or form" if form else "leading zeros"
      lines.append(f"{_quoted(labels)} are separate classes, which differ in {by} alone")
  for label in spellings:
    if label in MISSING:
      lines.append(f"{label!r} is a class, not a missing label")
    for sign in "|,/;":
      parts = [part.strip() for part in label.split(sign)]
      if len(parts) > 1 and {*parts} <= spellings.keys():
        lines.append(f"{label!r} is a separate class beside {_quoted(parts)}")
  more = [f"and {len(lines) - _MOST:,} more"] if len(lines) > _MOST else []
  return "; ".join(lines[:_MOST] + more)


def _at_a_glance(name: str) -> str:
  return re.sub(r"^0+(?=\d+$)", "", _in_one_form(name))


def _in_one_form(name: str) -> str:
  text = unicodedata.normalize("NFKC", name).casefold()
  text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")  # no width
  return " ".join(text.split())


def _quoted(names: Iterable[str]) -> str:
  """Returns names in words, with escapes where they look the same."""
  seen = {unicodedata.normalize("NFC", name) for name in names}
  return " and ".join(map(repr if len(seen) == len(names) else ascii, names))


def check_classes(trained: Sequence[str], given: Sequence[str]) -> None:
  """Raises UserError unless `given` data have the classes that a run was `trained` on."""
  before, now = (list(map(same, classes)) for classes in (trained, given))
  if before == now:
    return
  if sorted(before) == sorted(now):
    first, other = next(pair for pair in zip(trained, given, strict=True) if pair[0] != pair[1])
    raise UserError(
      f"the run was trained on the same {len(trained)} classes in another order: where it has "
      f"{first!r} they have {other!r} (numbers with a sign or a point used to be sorted as text): "
      "train it anew in another workdir"
    )
  named = lambda classes, others: listed([repr(c) for c in classes if same(c) not in others])
  differ = {"lack": named(trained, now), "also have": named(given, before)}
  words = " and ".join(f"{verb} {some}" for verb, some in differ.items() if some)
  raise UserError(
    f"the run was trained on other classes ({len(trained)}) than these data have ({len(given)}): "
    f"these data {words}: give the data of the run"
  )
