"""The scale of the loss in float16, by hand."""

import jax
import numpy as np
import pytest

from cnnjax.config import default
from cnnjax.training import loss_scale


def make(**settings):
  config = default().loss_scale
  config.update(settings)
  return loss_scale.create(config, "float16")


def test_other_dtypes_need_none():
  config = default().loss_scale
  assert loss_scale.create(config, "float32") is None
  assert loss_scale.create(config, "bfloat16") is None


def test_it_is_doubled_after_enough_finite_steps_halved_after_others_and_bounded():
  now, found = make(initial=4.0, growth_steps=3, maximum=16.0), []
  finite = [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
  for ok in finite:
    now = jax.jit(lambda s, ok: s.adjust(ok))(now, np.bool_(ok))
    found.append(float(now.scale))
  assert found == [
    4, 4, 8, 8, 8, 4, 4, 4, 8, 8, 8, 16, 16, 16, 16, 8, 4, 2, 1, 1, 1, 1,
  ]  # fmt: skip


def test_finite_steps_are_counted_by_an_integer():
  """A float would end to count at 2**24, and a checkpoint keeps the types."""
  begun = make(initial=8.0, maximum=4.0)
  for now in (begun, begun.adjust(np.bool_(True)), begun.adjust(np.bool_(False))):
    assert (now.scale.dtype, now.finite_steps.dtype) == (np.float32, np.int32)
  assert float(begun.scale) == 4.0


@pytest.mark.parametrize("scale", [2.0**15, 2.0**24])
def test_scaling_by_powers_of_two_rounds_nothing(scale):
  values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
  assert np.array_equal(values * np.float32(scale) / np.float32(scale), values)
