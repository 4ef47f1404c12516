"""Compiles the functions of a run with one precision, for one run or several."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from cnnjax.training import members


@dataclasses.dataclass(frozen=True)
class Compiler:
  """Compiles all functions of a run alike: in training, evaluation and diagnosis."""

  members: members.Members
  precision: str | None  # of matrix products, in JAX's words; None: JAX's own
  deterministic: bool  # on GPU; elsewhere everything is

  @classmethod
  def of(cls, config: ConfigDict) -> "Compiler":
    """Returns the compiler of a run. Takes the whole config."""
    precision = config.matmul_precision
    precision = "tensorfloat32" if precision == "tf32" else precision
    return cls(members.create(config), precision, config.deterministic)

  def jit(
    self,
    function: Callable,
    in_axes: Any = 0,
    compiler_options: dict[str, Any] | None = None,
    **options: Any,
  ) -> Callable:
    """Returns `jax.jit` of a function of one run, as one of all its members: see `Members.jit`."""
    compiler_options = dict(compiler_options or {})
    if self.deterministic and jax.default_backend() == "gpu":
      compiler_options["xla_gpu_deterministic_ops"] = True

    def precise(*args: Any) -> Any:
      with jax.default_matmul_precision(self.precision):
        return function(*args)

    called = precise if self.precision else function
    return self.members.jit(called, in_axes, compiler_options=compiler_options, **options)
