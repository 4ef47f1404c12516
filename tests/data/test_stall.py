"""What waits for a batch is named while it waits, and only then."""

import types

import pytest

from cnnjax import errors
from cnnjax.data import stall


@pytest.fixture
def looks(monkeypatch):
  """A watch, a function that lets it look on for some seconds, and what it said by then."""
  now, said, left = [0.0], [], [0.0]

  def ended(seconds):
    if left[0] < seconds:
      return True
    now[0], left[0] = now[0] + seconds, left[0] - seconds
    return False

  def look(seconds):
    left[0] = seconds
    watch._look()
    return [*said]

  monkeypatch.setattr(stall, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
  monkeypatch.setattr(errors, "warn", said.append)
  watch = stall.StallWatch(lambda: "photo 3 is being read")
  watch._ended = types.SimpleNamespace(wait=ended)
  return watch, look


def test_what_waits_is_named_ever_more_rarely(looks):
  watch, look = looks
  words = "step 12 has waited {} s for its batch: photo 3 is being read"
  with watch.waiting("step 12"):
    assert look(59) == []
    assert look(400) == [words.format(n) for n in (60, 120, 240)]


def test_what_is_over_is_not_named(looks):
  watch, look = looks
  with pytest.raises(KeyError), watch.waiting("step 12"):
    raise KeyError
  assert look(500) == []
  with watch.waiting("step 13"):
    assert look(59) == []
    assert len(look(1)) == 1
  assert len(look(500)) == 1
