"""The length of a run: its steps, those of an epoch, and any duration in steps."""

import dataclasses

from ml_collections import ConfigDict

from cnnjax.config import durations
from cnnjax.data.order import Order
from cnnjax.data.split import Split


@dataclasses.dataclass(frozen=True)
class Length:
  """The length of a run, from its config and its data."""

  total: int  # steps of the whole run
  steps_per_epoch: int
  phase: int  # steps with images of one size
  batch_size: int

  @classmethod
  def of(cls, order: Order, epochs: int | float | str) -> "Length":
    """Returns the length of a run of `epochs`, a duration, in some `order`: one step at least."""
    steps_per_epoch, batch_size = order.steps_per_epoch, order.batch_size
    total = max(1, durations.in_steps(epochs, "epochs", steps_per_epoch, batch_size))
    return cls(total, steps_per_epoch, order.for_run(total).phase, batch_size)

  def to_steps(self, duration: int | float | str, key: str) -> int:
    """Returns a duration in whole steps; raises UserError, with its `key`, for anything else."""
    return durations.in_steps(duration, key, self.steps_per_epoch, self.batch_size)

  def describe(self) -> str:
    """Returns the length in words."""
    return f"{self.total:,} steps, {self.steps_per_epoch:,} an epoch"


def order_and_length(train: Split, config: ConfigDict) -> tuple[Order, Length]:
  """Returns the order of a training split over a run, and the length of the run.

  Takes the whole config.
  """
  order = Order.of(train, config.data, config.batch_size, config.seed)
  length = Length.of(order, config.epochs)
  return order.for_run(length.total), length
