"""What people call their splits and classes, and which spellings mean the same."""

import re

# Names of splits, in lower case; the last of validation and test are FER2013's.
ALIASES = {
  "train": ("train", "training"),
  "validation": ("validation", "val", "valid", "dev", "publictest"),
  "test": ("test", "testing", "eval", "privatetest"),
}
# What stands behind them, as in train_images, test set, val2017.
_SUFFIX = r"[ _-]?(set|data|images|imgs|photos|split|20\d\d)?"


def split_of(name: str) -> str | None:
  """The split that a name stands for, "train", "validation" or "test"; None of other names."""
  for split, aliases in ALIASES.items():
    if re.fullmatch(f"({'|'.join(aliases)}){_SUFFIX}", name.strip().lower()):
      return split
  return None
