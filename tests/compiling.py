"""Compiling is most of the suite's time: with less work for XLA where nothing depends on it."""

import os

import jax
from jax._src import compiler

DEVICES = 8  # simulated, of the processes of the suite


def known(option):
  """Whether this release of XLA has the option."""
  try:
    jax.jit(lambda: 0).lower().compile(compiler_options=dict([option]))
  except jax.errors.JaxRuntimeError:
    return False
  return True


# A third of the time: less of LLVM, and nothing of the code that jax 0.10 makes by way of MLIR.
OPTIONS = [
  ("xla_backend_optimization_level", 0),
  ("xla_llvm_disable_expensive_passes", True),
  ("xla_cpu_use_fusion_emitters", False),
]
OPTIONS = [option for option in OPTIONS if known(option)]
asked = compiler.get_compile_options
quickly = False


def get_compile_options(*args, **kwargs):
  """Adds OPTIONS to what JAX asks of XLA; the `compiler_options` of a program win."""
  options = asked(*args, **kwargs)
  if quickly:
    options.env_option_overrides = OPTIONS + list(options.env_option_overrides)
  return options


compiler.get_compile_options = get_compile_options


def environment(devices=1):
  """The environment of a process that a test starts: it compiles as the test does."""
  flags = [f"--{name}={str(value).lower()}" for name, value in OPTIONS] if quickly else []
  flags += [f"--xla_force_host_platform_device_count={devices}"] if devices > 1 else []
  return {**os.environ, "XLA_FLAGS": " ".join(flags)}
