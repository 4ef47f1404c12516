"""A model whose outputs another one learns."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.training import passes


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A trained model whose predictions another learns (arXiv:1503.02531)."""

  teach: Callable  # (variables, images in [0, 1]) -> logits
  variables: Any  # None: the moving average of the run that learns
  text: str
  step: int | None = None  # of the checkpoint it is from
  # (metadata of a run's data, other sizes of its images): raises UserError unless it can teach it.
  check: Callable[[Mapping[str, Any], Iterable[int]], None] = lambda meta, sizes: None

  @classmethod
  def of(
    cls, model: nn.Module, variables: Any, mean: Sequence[float], std: Sequence[float]
  ) -> "Teacher":
    """Returns a model as a teacher; `mean` and `std` are those that it was trained with."""
    normalize = passes.normalizer(mean, std)
    teach = lambda variables, images: models.forward(model, variables, normalize(images))
    return cls(teach, variables, type(model).__name__)

  @classmethod
  def own(cls, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> "Teacher":
    """Returns a model's own moving average as its teacher (mean teacher, arXiv:1703.01780)."""
    made = cls.of(model, None, mean, std)
    return dataclasses.replace(made, text="the moving average (ema) of this run")


def check_teacher(meta: dict[str, Any], teacher: Teacher | None) -> None:
  """Raises UserError if a run learnt from another step of its teacher before it stopped.

  `meta`: what was saved with its checkpoint.
  """
  now, before = teacher.step if teacher else None, meta.get("teacher_step")
  if None not in (before, now) and before != now:
    raise UserError(
      f"this run learnt from step {before:,} of its teacher ({teacher.text}), which is at step "
      f"{now:,} now: choose a new workdir, or put that step back as the "
      "last checkpoint of the teacher"
    )
