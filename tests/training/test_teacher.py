"""Which step of its teacher a run learns from."""

import types

import flax.linen as nn
import jax.numpy as jnp
import pytest

from cnnjax.errors import UserError
from cnnjax.training.teacher import Teacher, check_teacher


class Sum(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return x.sum((1, 2, 3))[:, None] * (-1 if train else 1)


def test_another_step_of_the_teacher_is_refused():
  teacher = lambda step: types.SimpleNamespace(step=step, text="runs/big")
  for meta, now in (
    ({"teacher_step": 1000}, teacher(1000)), ({}, teacher(5)), ({"teacher_step": 1000}, None),
    ({"teacher_step": 1000}, teacher(None)), ({"teacher_step": None}, teacher(5)), ({}, None),
    ({"teacher_step": 0}, teacher(0)),
  ):  # fmt: skip
    check_teacher(meta, now)
  with pytest.raises(UserError) as error:
    check_teacher({"teacher_step": 1000}, teacher(2000))
  assert str(error.value).startswith(
    "this run learnt from step 1,000 of its teacher (runs/big), which is at step 2,000 now: "
  )
  with pytest.raises(UserError):
    check_teacher({"teacher_step": 0}, teacher(1))


def test_a_teacher_predicts_in_evaluation_what_it_normalises_itself():
  made = Teacher.of(Sum(), {}, (0.5,), (0.25,))
  assert (made.variables, made.text, made.step) == ({}, "Sum", None)
  assert made.teach({}, jnp.ones((2, 1, 3, 1))).tolist() == [[6.0], [6.0]]
  own = Teacher.own(Sum(), (0.5,), (0.25,))
  assert own.variables is None and own.text == "the moving average (ema) of this run"
  assert own.teach({}, jnp.ones((1, 1, 1, 1))).tolist() == [[2.0]]
