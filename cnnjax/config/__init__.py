"""Configs: keys and their values, config files, the command line, JSON. No JAX.

A config file is Python with `get_config(preset)`, which starts from `default()` and changes some
values; the command line changes more. `build.validate` checks the whole config once, before
anything is downloaded or compiled.

    keys.py       the base config: the keys of all rooms at their defaults
    values.py     reads values from text, sets and checks them
    files.py      config files, presets, the command line and its help
    saved.py      config.json of a run, and the differences between two
    durations.py  "500 steps", "2.5 epochs"

This room imports registry and runtime (paths, JSON).
"""

from cnnjax.config.files import from_arguments, import_parts, load, pick, set_back, split_argument
from cnnjax.config.keys import default, flatten, may_change
from cnnjax.config.saved import differences, from_json, to_json
from cnnjax.config.values import check_values, override, parse_value, unknown_key

__all__ = [
  "check_values", "default", "differences", "flatten", "from_arguments", "from_json",
  "import_parts", "load", "may_change", "override", "parse_value", "pick", "set_back",
  "split_argument",
  "to_json", "unknown_key",
]  # fmt: skip
