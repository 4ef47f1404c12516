"""Mutated configs, from the command line, from Python and from the folder of a run; cut metrics."""

import io
import json
import math
import pathlib
import tempfile
from contextlib import redirect_stderr

from fuzzing import corrupted, fuzz, one_clear_line
from hypothesis import strategies as st

from cnnjax import build, errors, writers
from cnnjax import config as configs
from cnnjax.checkpoints import workdir
from cnnjax.config import default
from cnnjax.errors import UserError

FLAT = configs.flatten(default())
KEYS = st.sampled_from(
  [*sorted(FLAT), "model.drop_path", "model.stage_sizes", "model.norm_epsilon", "model.dropout"]
)
NUMBERS = (
  st.sampled_from([0, -1, 2**31, 2**32, 2**63, -(2**63), 10**30, 10**400, True])
  | st.integers()
  | st.floats()
  | st.sampled_from([math.nan, math.inf, -math.inf, 5e-324, 1e308, -0.0])
)
TEXTS = st.text(max_size=20) | st.sampled_from(
  # In the place of HUGE stands a number of more digits than Python, and so Hypothesis, writes.
  ["HUGE", "", "500 steps", "1e400 steps", "nan epochs", "-1 examples", "9" * 400 + " steps",
   "flip | ", "choice(" * 60, "flip(" + "-" * 3000, "pad_crop(1e308)", "mixup(nan)", "(" * 400,
   "x" * 1000, "a\nb", "\0", "../../etc", "/dev/zero", "train[:", "{}", "%s%n", "é" * 300, "["]
)  # fmt: skip
VALUES = st.recursive(
  st.none() | NUMBERS | TEXTS | st.binary(max_size=4),
  lambda inner: (
    st.lists(inner, max_size=4)
    | st.lists(inner, max_size=4).map(tuple)
    | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    | st.tuples(TEXTS, inner)
  ),
  max_leaves=5,
)


def near(key):
  """Values of the type that a key takes, mostly."""
  standard = FLAT.get(key)
  fitting = {
    bool: st.booleans(),
    int: st.integers(-1, 300),
    float: st.floats(0, 1) | st.floats(0, 1e9),
    str: st.sampled_from(["1 step", "2.5 epochs", "1e6 examples", "train", "0 steps"]),
  }.get(type(standard), st.integers(1, 64) | st.floats(0, 1) | st.none())
  return st.tuples(st.just(key), fitting | fitting | VALUES)


LITERALS = st.text(max_size=30) | st.sampled_from(
  ["0x" + "f" * 5000, "9" * 5000, "-" * 3000 + "1", "(" * 3000, "[" * 90 + "]" * 90, "1e999",
   "{1: 2}", "{[]: 1}", "1_0", "0b1", "1j", "...", "__import__('os')", "'\\x00'", "b'1'", "nan",
   "f'{1}'", "lambda: 1", "1 if 1 else 2", "NONE", "TRUE", "set()", "{1}", "\ud800", "-0.0", "2"]
)  # fmt: skip


def settled(config):
  """`config` is refused by a clear line, or it is whole: it can be saved and read as it is."""
  build.validate(config)
  text = configs.to_json(config)
  assert not configs.differences(config, configs.from_json(text))
  json.loads(text, parse_constant=lambda name: 1 / 0)  # no NaN has come through


def from_python(changes):
  """Values that a config file may set, of all types."""
  config = default()
  changes = {key: 10**5000 if value == "HUGE" else value for key, value in changes.items()}
  try:
    for key, value in changes.items():
      configs.override(config, key, value)
    settled(config)
  except UserError as e:
    one_clear_line(as_printed(e), longest=20_000)  # it quotes the value
    return "refused"
  return "valid"


def as_printed(error):
  """What the command line makes of an error."""

  def main():
    raise error

  with redirect_stderr(io.StringIO()) as written:
    assert errors.run(main) == 2
  (line,) = written.getvalue().splitlines()
  return line.encode("utf-8", "replace").decode()


def from_words(words):
  """Words of a command line, after the config file."""
  with tempfile.TemporaryDirectory() as place:
    file = pathlib.Path(place, "mine.py")
    file.write_text("from cnnjax.config import default\n\ndef get_config():\n  return default()\n")
    try:
      settled(configs.from_arguments(str(file), words, ["--workdir"]))
    except UserError as e:
      one_clear_line(as_printed(e), longest=20_000)  # it quotes the value
      return "refused"
  return "valid"


SAVED = configs.to_json(workdir.resolve(default()))
UNIT = SAVED.encode()
TOKENS = [token.encode() for token in (
  "NaN", "-Infinity", "1e999", "null", "true", '"x"', "[]", "{}", "9" * 5000, "[" * 2000, "-1", "0",
  "\ud800", '["os"]', '{"a": {"b": 1}}', "\0"
) if token != "\ud800"]  # fmt: skip


@st.composite
def of_a_run(draw):
  """A config.json: damaged, or with another value or key."""
  kind = draw(st.sampled_from(["bytes", "value", "key", "type"]))
  if kind == "bytes":
    return draw(corrupted(UNIT))
  lines = UNIT.splitlines()
  at = draw(st.integers(1, len(lines) - 2))
  name, _, value = lines[at].partition(b": ")
  token = draw(st.sampled_from(TOKENS))
  if kind == "key":
    lines.insert(at, b'  "' + draw(st.sampled_from([b"odd", b"optim", b"model", b""])) + b'": 1,')
  elif kind == "value" and value not in (b"{", b"["):
    lines[at] = name + b": " + token + b"," * value.endswith(b",")
  else:
    lines[at] = token
  return b"\n".join(lines)


def from_a_run(text):
  """A config.json that is damaged is refused, or has the types and values of a config."""
  with tempfile.TemporaryDirectory() as place:
    pathlib.Path(place, "config.json").write_bytes(text)
    try:
      config = workdir.load_config(pathlib.Path(place))
    except UserError as e:
      one_clear_line(as_printed(e), longest=20_000)  # it quotes the value
      return "refused"
  try:
    settled(config)
  except UserError as e:  # evaluate and main validate it as well
    one_clear_line(as_printed(e), longest=20_000)  # it quotes the value
    return "refused"
  return "same" if configs.to_json(config) == SAVED else "valid"


LINES = [{"step": i, "epoch": i / 4, "train/loss": 1 / (i + 1), "nan": math.nan} for i in range(6)]
METRICS = "".join(json.dumps(line) + "\n" for line in LINES).encode()


def metrics(text):
  """Lines that are not whole are left out, and what is read are whole lines of it in order."""
  with tempfile.TemporaryDirectory() as place:
    file = pathlib.Path(place, writers.METRICS)
    file.write_bytes(text)
    found = writers.read_metrics(pathlib.Path(place))
  for line in found:
    assert isinstance(line["step"], int), line
  if METRICS.startswith(text):
    assert repr(found) == repr(LINES[: len(found)])
    assert len(found) >= text.count(b"\n")
  return "whole" if len(found) == 6 else "part"


test_values_of_python = fuzz(
  from_python,
  st.lists(KEYS.flatmap(near), min_size=1, max_size=3).map(dict),
  few=30, many=300, ends=["refused", "valid"],
  always=[{"seed": "HUGE"}, {"model.drop_path": "HUGE"}, {"data.name": "HUGE"}],
)  # fmt: skip
WORDS = st.tuples(KEYS | st.text(max_size=8), LITERALS) | KEYS.flatmap(near)
WORDS = WORDS.map(lambda pair: f"--config.{pair[0]}={pair[1]}")
test_words_of_a_command_line = fuzz(
  from_words, st.lists(WORDS | WORDS | st.text(max_size=12), min_size=1, max_size=3),
  few=20, many=200, ends=["refused", "valid"],
  always=[["--config.seed=0x" + "f" * 5000], ["--config.seed=3"]],
)  # fmt: skip
test_the_config_of_a_run = fuzz(from_a_run, of_a_run(), few=20, many=200, ends=["refused"])
CUT = st.integers(0, len(METRICS)).map(lambda end: METRICS[:end])
test_metrics_that_were_cut = fuzz(
  metrics, CUT | corrupted(METRICS), few=10, many=100, ends=["part"]
)
