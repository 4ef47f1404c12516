"""Plots the learning rate over a run, and prints it as a short table."""

import dataclasses
import functools
import itertools
import textwrap
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnnjax import build, data, trained
from cnnjax.config import durations
from cnnjax.errors import UserError
from cnnjax.optim import plateau, schedules
from cnnjax.runtime.paths import PathLike, to_path

POINTS = 4000  # of a curve at most, twice the pixels of the picture
ROWS = 10  # of a table, about


@dataclasses.dataclass(frozen=True)
class Curve:
  """The learning rates of a run."""

  name: str
  text: str  # the schedule in words
  steps: np.ndarray  # [n] int, where the rates are taken; the first and the last among them
  rates: np.ndarray  # [n] float32
  per_epoch: int  # steps of an epoch

  def table(self) -> str:
    """Returns epoch, step and rate at the beginning of every few epochs, and at the last step."""
    rows = _rows(int(self.steps[-1]), self.per_epoch)
    rates = self.rates[np.searchsorted(self.steps, rows)]
    lines = [
      f"{step / self.per_epoch:>8.2f} {step:>10,}  {rate:.4g}"
      for step, rate in zip(rows, rates, strict=True)
    ]
    return "\n".join([f"{'epoch':>8} {'step':>10}  learning rate", *lines])


def _rows(last: int, per_epoch: int) -> list[int]:
  """Returns the steps of a table: every 1, 2, 5, 10, ... epochs, or evenly in a short run."""
  if last + 1 < 5 * per_epoch:
    return sorted({*np.linspace(0, last, ROWS).astype(int).tolist()})
  candidates = (n * 10**power for power in itertools.count() for n in (1, 2, 5))
  every = next(n for n in candidates if n * per_epoch * ROWS * 1.5 > last)
  return [*range(0, last, every * per_epoch), last]


def curves(config: ConfigDict, name: str, examples: int | None = None) -> list[Curve]:
  """Returns the learning rates of a run: a curve for each of `config.rates`, or one.

  Args:
    config: the whole config.
    name: of the curve, for people.
    examples: of an epoch; None counts those of the training split, without downloading or decoding.

  Raises:
    UserError: the config is wrong, or the data are missing and `examples` is None.
  """
  config, _ = trained.with_init(config)
  build.validate(data.without_source(config))
  order = _order(config, examples)
  per_epoch, c = order.steps_per_epoch, config.optim
  to_steps = functools.partial(
    durations.in_steps, steps_per_epoch=per_epoch, batch_size=config.batch_size
  )
  total = max(1, to_steps(config.epochs, "epochs"))
  evenly = np.linspace(0, total - 1, min(total, POINTS)).round().astype(int)
  steps = np.union1d(evenly, _rows(total - 1, per_epoch))
  scaling = "" if config.rates else schedules.describe_scaling(c, config.batch_size)
  fallen = plateau.describe(c.plateau, config.monitor)
  by_rate = []
  for peak in config.rates or (schedules.scaled_rate(c, config.batch_size),):
    rate = jax.vmap(schedules.create(c.schedule, peak, total, to_steps))
    by_rate.append(
      Curve(
        f"{name}, rate {peak:g}" if config.rates else name,
        schedules.describe(c.schedule, [peak], scaling) + (fallen and f"; not drawn: {fallen}"),
        steps,
        np.asarray(rate(jnp.asarray(steps, jnp.int32))),
        per_epoch,
      )
    )
  return by_rate


def _order(config: ConfigDict, examples: int | None) -> data.Order:
  """Returns the order of the training split, which has the steps of an epoch."""
  c = config.data
  if examples is not None:
    if examples < config.batch_size:
      raise UserError(f"--examples={examples} is less than batch_size={config.batch_size}")
    pad = c.remainder == "pad"
    return data.Order(examples, config.batch_size, config.seed, "uniform", 1, pad, (None,))
  try:
    build.validate(config)
    if c.source == "tfds":
      from cnnjax.data import tfds  # late: a second of its own

      if tfds.described(c) is not None:  # `load` would download it
        raise UserError(f"the data set {c.name} is not prepared")
    streamed = c.copy_and_resolve_references()
    streamed.pipeline = "streaming"  # so that no image is decoded
    train = data.load(streamed, ("train",), needs=("image",))["train"]
    return data.Order.of(train, c, config.batch_size, config.seed)
  except UserError as e:
    raise UserError(
      f"{e}; to plot without the data, say how many examples an epoch has: --examples=50000"
    ) from e


def draw(curves: Sequence[Curve], out: PathLike, *, log: bool = False) -> None:
  """Writes a picture of the curves to `out`.

  Raises:
    UserError: matplotlib is not installed, or `out` cannot be written.
  """
  try:
    from matplotlib.figure import Figure  # late: of an extra
  except ImportError as e:
    raise UserError("pictures need matplotlib: pip install -e '.[plots]'") from e
  figure = Figure(figsize=(9, 4.5), layout="constrained")
  axis = figure.subplots()
  for curve in curves:
    axis.plot(curve.steps / curve.per_epoch, curve.rates, linewidth=1.6, label=curve.name)
  axis.set(xlabel="epochs", ylabel="learning rate")
  if log:
    axis.set_yscale("log")  # down to 0 it would show nothing else
    axis.set_ylim(bottom=max(1e-5 * axis.get_ylim()[1], axis.get_ylim()[0]))
  else:
    axis.set_ylim(bottom=0)
  axis.margins(x=0.01)
  axis.grid(alpha=0.3)
  axis.spines[["top", "right"]].set_visible(False)
  if len({curve.per_epoch for curve in curves}) == 1:
    per_epoch = curves[0].per_epoch
    steps = axis.secondary_xaxis(
      "top", functions=(lambda epochs: epochs * per_epoch, lambda steps: steps / per_epoch)
    )
    steps.set_xlabel("steps")
    steps.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
  if len(curves) == 1:
    title = textwrap.shorten(f"{curves[0].name}: {curves[0].text}", 200, placeholder=" ...")
    axis.set_title(textwrap.fill(title, 130), fontsize=9, parse_math=False)
  else:
    axis.legend(frameon=False, fontsize=9)
  try:
    figure.savefig(to_path(out), dpi=130)
  except (OSError, ValueError) as e:
    raise UserError(f"cannot write {out}: {e}") from e
