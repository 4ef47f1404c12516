"""What is said where a device fails or has too little memory."""

import jax
import pytest

from cnnjax.config import default
from cnnjax.errors import TransientError, UserError
from cnnjax.training.failures import named_failures

Failure = jax.errors.JaxRuntimeError


def said(text, *, evaluating=False, **settings):
  """The error of a run that meets a failure with this text."""
  config = default()
  for key, value in settings.items():
    config[key] = value
  with pytest.raises(Exception) as error, named_failures(config, evaluating=evaluating):
    raise Failure(text)
  return error.value


@pytest.mark.parametrize(
  "text", ["RESOURCE_EXHAUSTED: of 4 GiB", "INTERNAL: Out of memory", "INTERNAL: ran out of memory"]
)
def test_the_batch_is_taken_in_twice_as_many_parts(text):
  found = said(text, batch_size=128, accumulate=1)
  assert type(found) is UserError and str(found) == (
    "the device has too little memory for batches of 128 in 1 part. Try --config.accumulate=2 "
    "(micro-batches of 64), or --config.model.remat=True, where the model has it, or "
    "--config.dtype=bfloat16, or batch_size=64"
  )
  found = said(text, batch_size=96, accumulate=3, dtype="float16", model={"remat": False})
  assert str(found) == (
    "the device has too little memory for batches of 96 in 3 parts. Try --config.accumulate=6 "
    "(micro-batches of 16), or batch_size=48"
  )


@pytest.mark.parametrize("size, half", [(500, 250), (3, 1), (1, 1)])
def test_evaluation_takes_smaller_batches(size, half):
  found = said("RESOURCE_EXHAUSTED", evaluating=True, eval_batch_size=size)
  assert str(found) == (
    f"the device has too little memory to evaluate batches of {size}; try "
    f"--config.eval_batch_size={half}"
  )


@pytest.mark.parametrize("evaluating", [False, True])
def test_a_device_that_fails_may_be_there_again(evaluating):
  found = said("UNAVAILABLE: link down\nat chip 3", evaluating=evaluating)
  assert type(found) is TransientError
  assert str(found).startswith("the device failed: UNAVAILABLE: link down. Start the same command")


@pytest.mark.parametrize(
  "text", ["INVALID_ARGUMENT: no", "it is INTERNAL", "INTERNAL: CpuCallback: Traceback (most"]
)
def test_what_is_no_failure_of_a_device_is_left_as_it_is(text):
  assert type(said(text)) is Failure


def test_other_errors_and_none_pass():
  with named_failures(default()):
    pass
  with pytest.raises(ZeroDivisionError), named_failures(default()):
    raise ZeroDivisionError
