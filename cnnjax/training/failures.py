"""Says what to try where a device has too little memory, or fails."""

import contextlib
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from cnnjax.errors import TransientError, UserError

# XLA's errors begin so where a device, or the connection to it, is at fault. A program that it
# cannot run gives INVALID_ARGUMENT or UNIMPLEMENTED.
FAILED = ("INTERNAL", "UNAVAILABLE", "ABORTED", "DATA_LOSS", "UNKNOWN", "CANCELLED", "DEADLINE")


@contextlib.contextmanager
def named_failures(config: ConfigDict, *, evaluating: bool = False) -> Iterator[None]:
  """Turns errors of a device that lacks memory, or fails, into errors that say what to try."""
  try:
    yield
  except jax.errors.JaxRuntimeError as e:
    text = str(e)
    if "RESOURCE_EXHAUSTED" not in text and "ut of memory" not in text:
      if not text.startswith(FAILED) or "Traceback" in text:  # of a callback
        raise
      raise TransientError(
        f"the device failed: {text.splitlines()[0]}. Start the same command again, which goes on "
        "from the last checkpoint; if it fails again, look at the device (nvidia-smi, dmesg), or "
        "leave it out"
      ) from e
    if evaluating:
      size = config.eval_batch_size
      raise UserError(
        f"the device has too little memory to evaluate batches of {size}; try "
        f"--config.eval_batch_size={max(size // 2, 1)}"
      ) from e
    twice = 2 * config.accumulate
    tries = [f"accumulate={twice} (micro-batches of {config.batch_size // twice})"]
    if "remat" not in config.model:
      tries.append("model.remat=True, where the model has it")
    tries += ["dtype=bfloat16"] if config.dtype == "float32" else []
    raise UserError(
      f"the device has too little memory for batches of {config.batch_size} in {config.accumulate} "
      f"part{'s' * (config.accumulate > 1)}. Try --config."
      + ", or --config.".join(tries)
      + f", or batch_size={config.batch_size // 2}"
    ) from e
