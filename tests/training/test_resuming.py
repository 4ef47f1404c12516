"""What is said where a run goes on with another length."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import checkpoints, optim
from cnnjax.config import default, durations
from cnnjax.training import resuming


class Sizes:
  """An order whose images grow from 16 to 32 pixels in the middle of the run."""

  def __init__(self, total):
    self.total = total

  def for_run(self, total):
    return Sizes(total)

  def size(self, step):
    return 16 if step < self.total / 2 else 32


def program(total, per_epoch=10, *, finished=False, **schedule):
  """What `going_on` asks of one."""
  config = default()
  config.optim.schedule.update({"warmup": 0, **schedule})
  to_steps = lambda duration, key: durations.in_steps(duration, key, per_epoch, config.batch_size)
  length = types.SimpleNamespace(total=total, steps_per_epoch=per_epoch, to_steps=to_steps)
  peak = optim.schedules.scaled_rate(config.optim, config.batch_size)
  return types.SimpleNamespace(
    config=config,
    schedule=optim.schedules.create(config.optim.schedule, peak, total, to_steps),
    inputs=types.SimpleNamespace(length=length, train=types.SimpleNamespace(order=Sizes(total))),
    finished=lambda now: finished,
  )


def said(of, step, before, per_epoch=10, *, scale=1.0):
  now = types.SimpleNamespace(steps_done=step, rate_scale=jnp.asarray(scale, jnp.float32))
  meta = {"total_steps": before, "steps_per_epoch": per_epoch}
  return resuming.going_on(of, now, meta, None, {})


FOLLOWS = (
  "cosine follows the length of the run, which was 1,000 steps and is 2,000 now; constant, step, "
  "multi_step and exponential do not, nor does trapezoid before its cool-down"
)


def test_the_rate_and_the_size_of_the_images_jump():
  cosine = lambda step, total: 0.05 * (1 + np.cos(np.pi * step / total))
  rates = cosine(599, 1000), cosine(600, 2000)
  last, following = (f"{rate:.3g}" for rate in rates)
  assert said(program(2000), 600, 1000) == {
    "going on": f"the learning rate rises from {last} to {following}: {FOLLOWS}; images change "
    "from 32 to 16 pixels (data.progressive)"
  }
  last, following = (" | ".join(f"{rate * s:.3g}" for s in (1, 0.5)) for rate in rates)
  text = said(program(2000), 600, 1000, scale=[1.0, 0.5, 1.0])["going on"]
  assert text.startswith(f"the learning rate rises from {last} to {following}: cosine")
  text = said(program(1000), 600, 2000)["going on"]
  assert text.startswith("the learning rate falls from") and text.endswith(
    "from 16 to 32 pixels (data.progressive)"
  )


def test_the_images_change_alone_where_the_rate_is_constant():
  assert said(program(2000, name="constant"), 600, 1000) == {
    "going on": "images change from 32 to 16 pixels (data.progressive)"
  }
  # They would have changed at this step in the earlier run as well; or they stay as they were.
  assert said(program(900, name="constant"), 500, 1000) == {}
  assert said(program(2000, name="constant"), 500, 1000) == {}


@pytest.mark.parametrize(
  "of, before, per_epoch", [(program(1000), 1000, 10), (program(2000, finished=True), 1000, 10)]
)
def test_nothing_jumps(of, before, per_epoch):
  assert said(of, 600, before, per_epoch) == {}


def test_an_epoch_of_more_steps_is_said():
  text = (
    said(program(1000, 10), 600, 1000, 5)["going on"]
    if said(program(1000, 10), 600, 1000, 5)
    else ""
  )
  assert text == ""  # neither the rate nor the images follow it here
  text = said(program(2000, 20), 600, 1000, 10)["going on"]
  assert ": an epoch was 10 steps and is 20 now, the run was 1,000 and is 2,000" in text


@pytest.mark.parametrize(
  "meta, epochs, line, length",
  [
    ({"total_steps": 7, "steps_per_epoch": 3}, None, {}, (7, 3)),
    ({"classes": ()}, 2, {"step": 5, "epoch": 0.5}, (20, 10)),
    ({"classes": ()}, 2, {"step": 5, "epoch": 0.500002}, None),
    ({"classes": ()}, 2, {"step": 5, "epoch": 0.5000005}, (20, 10)),
    ({"classes": ()}, "0 steps", {"step": 5, "epoch": 0.5}, (1, 10)),
    ({"classes": ()}, 2, {"step": 5}, None),
    ({"classes": ()}, 2, {"epoch": 0.0}, (20, 10)),
    ({}, 2, {"step": 5, "epoch": 0.5}, None),
  ],
)
def test_the_length_of_before(meta, epochs, line, length):
  assert resuming._length_before(program(1000), meta, epochs, line) == length


def test_what_is_kept_goes_by_the_epochs_of_the_run(tmp_path):
  of = program(1000)
  of.config.keep.update(last=3, best=4, every=2)
  saved = resuming.open_checkpoints(of, tmp_path)
  assert saved._keep == checkpoints.Keep(3, 4, 20)
  saved.close()
  assert (tmp_path / "checkpoints").is_dir()  # for writing
