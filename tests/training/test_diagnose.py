"""What is watched of a run, and what is said of one that diverged."""

import contextlib
import math
import types

import numpy as np
import pytest

from cnnjax.config import default
from cnnjax.errors import UserError
from cnnjax.training import diagnose, health, members, state


def program(*, loss="cross_entropy", teacher=None, total=1000, **settings):
  """What `diagnose` asks of one."""
  config = default()
  config.update(settings)
  return types.SimpleNamespace(
    config=config,
    inputs=types.SimpleNamespace(length=types.SimpleNamespace(total=total)),
    task=types.SimpleNamespace(loss_name=loss, num_classes=8),
    teacher=teacher,
    members=members.create(config),
  )


def test_a_run_is_watched_by_its_length_its_metric_and_what_guessing_gives():
  found = diagnose.watch(program(monitor="validation/loss"))
  assert (found._total, found._monitor, found._sign) == (1000, "validation/loss", -1)
  assert found._guessing == pytest.approx(math.log(8))
  assert diagnose.watch(program())._sign == 1
  plain = default().task
  plain.class_weights = "auto"
  for other in ({"loss": "focal"}, {"teacher": object()}, {"task": plain}):
    assert diagnose.watch(program(**other))._guessing is None
  assert diagnose.watch(program(health={"warnings": False})) is None


def test_each_of_several_runs_is_watched():
  found = diagnose.watch(program(seeds=2))
  assert isinstance(found, health.Watches) and {*found._watches} == {"seed=0", "seed=1"}
  line = {"step": 5, "dead_relu/seed=0": 0.1, "dead_relu/seed=1": 0.9}
  (text,) = found.see(line)
  assert text.startswith("90% of the ReLUs are dead") and text.endswith(" (seed=1)")


NEVER = int(state.NEVER)


@pytest.mark.parametrize(
  "steps, rates, last, words",
  [
    (NEVER, (), 3, None),
    (1234, (), 1000, "infinite in step 1,235; checkpoint: the last good one is of step 1,000. Try"),
    (0, (), None, "infinite in step 1; checkpoint: there is none yet. Try a lower"),
    ([NEVER, 4], (), 0, "infinite in step 5; checkpoint: the last good one is of step 0. "),
    ([NEVER, 4], (0.1, 1), 3, None),
    ([7, 4], (0.1, 1), 3, "infinite in step 5;"),
    ([NEVER, NEVER], (0.1, 1), 3, None),
  ],
)
def test_divergence_is_said_with_its_first_step_and_the_last_checkpoint(steps, rates, last, words):
  now = types.SimpleNamespace(bad_step=np.asarray(steps))
  saved = types.SimpleNamespace(step=lambda: last)
  of = program(rates=rates)
  if words is None:
    diagnose.check_finite(of, now, saved)
    return
  with pytest.raises(UserError) as error:
    diagnose.check_finite(of, now, saved)
  assert words in str(error.value)
  assert str(error.value).endswith("health.trace=True names the layer where it begins")


@pytest.mark.parametrize("scale", [None, 8.0])
@pytest.mark.parametrize("saved_at", [None, 2])
def test_the_step_that_went_wrong_is_computed_again(monkeypatch, scale, saved_at):
  """From the last checkpoint or the begin, step by step, with the scale of its loss."""
  log, asked = [], {}
  now = lambda step: types.SimpleNamespace(
    steps_done=step, step=step, variables="variables", opt_state="opt_state", rate_scale="rate",
    loss_scale=scale and types.SimpleNamespace(scale=scale),
  )  # fmt: skip
  of = program()
  of.model = "model"
  of.new_state = lambda abstract=False: "shapes" if abstract else now(0)
  of.train_step = lambda state, feed, n: log.append((state.step, feed, n)) or now(state.step + n)
  of.inputs.train = types.SimpleNamespace(
    feed=lambda step: f"feed {step}", take=lambda feed, step: f"batch of {feed}"
  )
  of.compiler = types.SimpleNamespace(jit=lambda function: function)
  of.constants = "constants"
  examples = types.SimpleNamespace(
    images="images", key="key", replace=lambda **to: types.SimpleNamespace(**to)
  )
  take = lambda state, batch, constants: log.append((state.step, batch, constants)) or examples
  of.context = types.SimpleNamespace(examples=take)
  of.losses = lambda outputs, examples, updated: outputs
  of.batch_norm_mode = contextlib.nullcontext
  of.optimizer = types.SimpleNamespace(
    update=lambda grads, *given, **more: ((grads, given, more), "state after")
  )
  saved = types.SimpleNamespace(
    any=lambda: saved_at is not None, restore=lambda shapes: log.append(shapes) or now(saved_at)
  )
  trace = lambda *given, **more: asked.update(given=given, more=more) or "words"
  monkeypatch.setattr(health, "trace", trace)
  assert diagnose.trace(of, saved, 4) == "words"
  begin = saved_at or 0
  steps = [(step, f"feed {step}", 1) for step in range(begin, 4)]
  assert log == [*["shapes"] * (saved_at is not None), *steps, (4, "batch of feed 4", "constants")]
  model, loss, variables, images, targets, key, updates, opt_state = asked["given"]
  assert (model, variables, images, key, opt_state) == (
    "model", "variables", "images", "key", "opt_state"
  )  # fmt: skip
  assert targets.key is None and asked["more"] == {"jit": of.compiler.jit}
  factor = scale or 1.0
  assert loss(3.0, targets, {}) == 3.0 * factor
  grads, given, more = updates(np.float32(24), "opt_state", "params")
  assert grads == 24 / factor and given == ("opt_state", "params")
  assert more.pop("grad_fn")() == grads and more == {"rate_scale": "rate", "step": 4}
