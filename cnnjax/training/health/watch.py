"""Warns of trouble in a run, by the lines of its metrics.jsonl. No JAX."""

import collections
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from cnnjax.tasks.metric import of_each

# Figures behind these thresholds are in experiments/baselines/README.md.
#
# A run diverges if its loss is this many times its best, and also above that of the first step: a
# warm restart or a spike undoes a part of the progress, divergence all of it. The first loss counts
# as at least that of guessing, and as at most this many times that.
DIVERGED = 2.0
# The gradient explodes if its norm is this many times the median of the lines before, and above the
# first norm: in a nearly solved run the usual norm is near 0.
EXPLODED = 100.0
NORMS = (5, 100)  # fewest and most lines for that median
# A run stands still without improvement over this share of it: step schedules have phases of a
# quarter and more.
PLATEAU = 1 / 3
EVALUATIONS = 5  # and, in short runs, over this many evaluations
# A training loss improves below this share of its best, so that noise does not count; more is asked
# beside a monitored metric that stands still, as the loss may creep.
BETTER_LOSS = {"alone": 0.99, "beside": 0.9}
# And only while the rate is above this share of its peak; below, a run settles.
HIGH_RATE = 0.5
SOLVED = 0.02  # of the loss of a model that knows nothing; below it a run may stand still
DEAD = (0.5, 0.4)  # shares of dead ReLUs that begin and end an episode
STARVED = (0.5, 0.4)  # shares of the time that waits for batches, likewise
# Of the loss in float16; below it the loss itself would shrink to fit. A run may begin there.
LOWEST_SCALE = 1.0


class Watch:
  """Reads each line once, in order, and returns warnings.

  A warning comes when its condition begins, and again only after the condition has ended. All state
  follows from the lines: a run that resumes passes the old ones first.

  Args:
    total_steps: of the whole run.
    monitor: the metric that the run follows, such as "validation/accuracy". If lines lack it, only
      the training loss shows whether a run stands still.
    better: "max" if large values of `monitor` are better, else "min".
    guessing: the training loss of a model that knows nothing, such as log(num_classes) for softmax
      cross-entropy; None if unknown.
  """

  def __init__(
    self,
    total_steps: int,
    monitor: str,
    better: Literal["max", "min"],
    guessing: float | None = None,
  ):
    self._total, self._monitor, self._sign = total_steps, monitor, 1 if better == "max" else -1
    self._guessing = guessing
    self._episodes: set[str] = set()
    self._first = self._best = math.inf  # training loss
    self._first_norm = self._first_scale = math.inf
    self._norms: collections.deque[float] = collections.deque(maxlen=NORMS[1])
    self._rate = self._peak = 0.0
    self._monitored = False
    self._restart(0)

  def see(self, line: Mapping[str, float]) -> list[str]:
    """Returns the warnings that begin with this line, which has "step" and metrics by name.

    It reads "train/loss", "learning_rate", "grad_norm", "dead_relu", "loss_scale", "data_wait" and
    the monitored metric, as far as the line has them.
    """
    found = []
    if "train/loss" in line:
      found.append(self._divergence(line["train/loss"]))
    if "grad_norm" in line:
      found.append(self._explosion(line["grad_norm"]))
    if "dead_relu" in line:
      found.append(self._dead(line["dead_relu"]))
    if "loss_scale" in line:
      found.append(self._scale(line["loss_scale"]))
    if "data_wait" in line and line["step"] > 1:  # the first batch is always waited for
      found.append(self._starved(line["data_wait"]))
    found.append(self._plateau(line))
    return [text for text in found if text]

  def _episode(self, name: str, begins: bool, ends: bool, text: str) -> str | None:
    """Returns `text` if an episode begins, and nothing while it lasts."""
    if begins and name not in self._episodes:
      self._episodes.add(name)
      return text
    if ends:
      self._episodes.discard(name)
    return None

  def _divergence(self, loss: float) -> str | None:
    loss = math.inf if math.isnan(loss) else loss
    if self._first == math.inf:
      self._first = loss
    self._best = min(self._best, loss)
    limit = max(DIVERGED * self._best, self._ignorant)
    known = "" if self._guessing is None else f", guessing gives {self._guessing:.4g}"
    return self._episode(
      "divergence", loss > limit or loss == math.inf, loss < 0.75 * limit,
      f"the training loss is {loss:.4g} (best {self._best:.4g}{known}): the run diverges. Try a "
      "lower optim.learning_rate, a longer optim.schedule.warmup, or optim.clip_norm=1",
    )  # fmt: skip

  @property
  def _ignorant(self) -> float:
    """The loss of a model that knows nothing: the first one, bounded by that of guessing."""
    if self._guessing is None:
      return self._first
    return min(max(self._first, self._guessing), DIVERGED * self._guessing)

  def _explosion(self, norm: float) -> str | None:
    if not math.isfinite(norm):  # of a step that loss scaling leaves out, or the end of the run
      return None
    known = len(self._norms) >= NORMS[0]
    usual = statistics.median(self._norms) if known else math.inf
    if not self._norms:
      self._first_norm = norm
    self._norms.append(norm)
    limit = max(EXPLODED * usual, self._first_norm)
    return self._episode(
      "explosion", norm > limit, known and norm < limit / 2,
      f"the gradient explodes: its norm is {norm:.3g}, usual was {usual:.3g}. Try "
      "optim.clip_norm, or a lower optim.learning_rate",
    )  # fmt: skip

  def _dead(self, share: float) -> str | None:
    return self._episode(
      "dead", share > DEAD[0], share < DEAD[1],
      f"{share:.0%} of the ReLUs are dead: 0 for every example of a batch. Try a lower "
      "optim.learning_rate, a longer optim.schedule.warmup, or another activation",
    )  # fmt: skip

  def _scale(self, scale: float) -> str | None:
    if self._first_scale == math.inf:
      self._first_scale = scale
    low = scale <= LOWEST_SCALE and scale < self._first_scale
    return self._episode(
      "scale", low, not low,
      f"the loss scale is down at {scale:g}: gradients do not fit float16 at any scale. Try "
      "dtype=bfloat16, optim.clip_norm or a lower optim.learning_rate",
    )  # fmt: skip

  def _starved(self, share: float) -> str | None:
    return self._episode(
      "starved", share > STARVED[0], share < STARVED[1],
      f"{share:.0%} of the time is spent waiting for batches: the device starves. Raise "
      "data.threads up to the cores, or data.workers; or read smaller images, from a faster disk",
    )  # fmt: skip

  def _restart(self, step: int) -> None:
    """Measures from `step` on how long the run stands still."""
    self._still_since, self._lines = step, 0
    self._lowest = self._highest = math.inf

  def _plateau(self, line: Mapping[str, float]) -> str | None:
    step = int(line["step"])
    rate = line.get("learning_rate", self._rate)
    if rate > self._rate:  # a warm-up or a warm restart: at first things get worse
      self._restart(step)
    self._rate, self._peak = rate, max(rate, self._peak)
    better = False
    if self._monitor in line:
      self._monitored = True
      loss = -self._sign * line[self._monitor]
      better = loss < self._highest
      self._highest = min(self._highest, loss)
    enough = BETTER_LOSS["beside" if self._monitored else "alone"]
    loss = line.get("train/loss", math.inf) if step > 1 else math.inf  # a batch alone may be easy
    if loss < enough * self._lowest:
      self._lowest, better = loss, True
    # Counts evaluations of the metric, or lines of training where there are none.
    self._lines += (self._monitor if self._monitored else "train/loss") in line
    if better:
      self._still_since, self._lines = step, 0
    settles = rate < HIGH_RATE * self._peak or self._best < SOLVED * self._ignorant
    still = step - self._still_since
    names = f"{self._monitor} and the training loss" if self._monitored else "the training loss"
    return self._episode(
      "plateau",
      still >= PLATEAU * self._total and self._lines >= EVALUATIONS and not settles,
      better,
      f"{names} got no better for {still:,} steps: the run stands still. Try another "
      "optim.learning_rate, or optim.plateau to lower it by itself",
    )  # fmt: skip


class Watches:
  """A `Watch` for each of several runs, whose names follow those of their metrics.

  Args:
    names: of the runs, as in "train/loss/rate=0.1".
    make: returns a `Watch`.
  """

  def __init__(self, names: Sequence[str], make: Callable[[], Watch]):
    self._watches = {name: make() for name in names}

  def see(self, line: Mapping[str, float]) -> list[str]:
    """Returns the warnings that begin with this line, each with its run."""
    found, each = [], of_each(line)
    for name, watch in self._watches.items():
      own = {"step": line["step"], **each.get(name, {})}
      found += [f"{text} ({name})" for text in watch.see(own)]
    return found
