"""How the functions of a run are compiled."""

import jax
import jax.numpy as jnp
import pytest

from cnnjax.config import default
from cnnjax.training.compiler import Compiler


class Noted:
  """Members that note what they are to compile."""

  def jit(self, function, in_axes, **options):
    return function, in_axes, options


@pytest.mark.parametrize(
  "given, taken", [(None, None), ("tf32", "tensorfloat32"), ("highest",) * 2]
)
def test_the_precision_is_that_of_the_config_in_the_words_of_jax(given, taken):
  config = default()
  config.update(matmul_precision=given, deterministic=True, seeds=2)
  made = Compiler.of(config)
  assert (made.precision, made.deterministic) == (taken, True)
  assert made.members.names == ("seed=0", "seed=1")
  seen = lambda x: (jax.config.jax_default_matmul_precision, x)
  function, _, _ = Compiler(Noted(), taken, False).jit(seen)
  assert function(3) == (taken, 3)
  assert jax.config.jax_default_matmul_precision is None
  assert (function is seen) == (taken is None)


@pytest.mark.parametrize("backend, deterministic", [("gpu", True), ("gpu", False), ("cpu", True)])
def test_the_same_bits_are_asked_for_on_a_gpu(monkeypatch, backend, deterministic):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  compiler, given = Compiler(Noted(), None, deterministic), {"a": 1}
  asked = {"xla_gpu_deterministic_ops": True} if backend == "gpu" and deterministic else {}
  _, axes, options = compiler.jit(jnp.sin, (0, None), given, donate_argnums=0)
  assert axes == (0, None) and options == {
    "compiler_options": {"a": 1, **asked},
    "donate_argnums": 0,
  }
  assert given == {"a": 1}
  _, axes, options = compiler.jit(jnp.sin)
  assert axes == 0 and options == {"compiler_options": asked}
