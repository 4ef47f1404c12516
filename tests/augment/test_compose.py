"""Chains, probabilities and choices of small operations that are seen through."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import pair

from cnnjax import augment, registry
from cnnjax.augment import compose
from cnnjax.augment.operation import Operation, of_values
from cnnjax.errors import UserError

IMAGES, TARGETS = jnp.zeros((2000, 1, 1, 1)), jnp.zeros((2000, 3))
KEYS = jax.random.split(jax.random.key(5), 2000)


def add(number):
  """Adds to images and targets alike."""
  change = lambda x, _: x + number
  return Operation(lambda key, shape: None, {"image": change, "targets": change})


def picked(operation, keys=KEYS):
  """What `operation` adds to a batch of two, `[key, example]`, having added the same to targets."""
  small = IMAGES[:2], TARGETS[:2]
  images, targets = jax.jit(jax.vmap(lambda key: pair(operation)(key, *small)))(keys)
  assert (images[..., 0, 0] == targets).all()
  return np.asarray(images[:, :, 0, 0, 0])


def near(found, n, share):
  return abs(found - n * share) <= 5 * np.sqrt(n * share * (1 - share))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_sometimes_draws_for_each_example_and_its_target(p):
  operation = pair(compose.Sometimes(add(1.0), p))
  images, targets = operation(KEYS[0], IMAGES, TARGETS)
  assert set(np.unique(images)) <= {0, 1} and images.dtype == jnp.float32
  np.testing.assert_array_equal(targets, np.tile(images[:, 0, 0], 3))
  assert near(images.sum(), len(images), p)
  assert (operation(KEYS[0], IMAGES, TARGETS)[0] == images).all()
  assert p in (0, 1) or (operation(KEYS[1], IMAGES, TARGETS)[0] != images).any()


def test_sometimes_leaves_targets_alone_that_the_operation_leaves():
  operation = compose.Sometimes(of_values(lambda *_: None, lambda images, _: images + 1), 0.5)
  assert pair(operation)(KEYS[0], IMAGES, TARGETS)[1] is TARGETS


def test_what_is_drawn_within_does_not_depend_on_whether():
  """Of a draw that also decides whether, only the lower part would be seen."""
  noise = of_values(jax.random.uniform, lambda images, drawn: 1 + drawn)
  images, _ = pair(compose.Sometimes(noise, 0.3))(KEYS[0], IMAGES, TARGETS)
  drawn = np.asarray(images[images > 0]) - 1
  assert abs(drawn.mean() - 0.5) < 5 / np.sqrt(12 * len(drawn)) and drawn.max() > 0.95


def test_with_probability_adds_p_once():
  def make(number: float):
    return add(number)

  made = compose.with_probability("add", make)
  assert str(inspect.signature(made)) == "(number: float, *, p: float = 1.0)"
  assert compose.with_probability("add", made) is made
  np.testing.assert_array_equal(pair(made(2.0))(KEYS[0], IMAGES, TARGETS)[0], 2)
  np.testing.assert_array_equal(pair(made(2.0, p=0))(KEYS[0], IMAGES, TARGETS)[0], 0)
  assert near((pair(made(2.0, p=0.2))(KEYS[0], IMAGES, TARGETS)[0] == 2).sum(), 2000, 0.2)
  for p in (-0.1, 1.1, None, True, float("nan")):
    with pytest.raises(UserError, match="augment: add takes p, a number between 0 and 1, not"):
      made(2.0, p=p)


def test_a_maker_of_something_else_is_named(own_registry):
  """Such as of a function of before operations acted by kind."""
  registry.register("augmentation", "mine")(lambda: lambda key, images, targets: (images, targets))
  with pytest.raises(UserError, match=r"augment: mine has to return an Operation, .* a function"):
    augment.parse("flip | mine(p=0.5)")


@pytest.mark.parametrize(
  "options, shares",
  [
    ({}, (0, 1 / 3, 1 / 3, 1 / 3)),
    ({"weights": (1, 0, 3)}, (0, 1 / 4, 0, 3 / 4)),
    ({"weights": (0.2, 0.2, 0.1), "p": 0.5}, (0.5, 0.2, 0.2, 0.1)),
    ({"p": 0}, (1, 0, 0, 0)),
  ],
)
def test_choice_picks_one_for_the_batch(options, shares):
  found = picked(compose.choice(add(1.0), add(2.0), add(3.0), **options))
  assert (found[:, 0] == found[:, 1]).all()
  counts = np.bincount(found[:, 0].astype(int), minlength=4)
  assert all(near(count, len(KEYS), share) for count, share in zip(counts, shares, strict=True))


def test_choice_computes_only_what_it_picked():
  calls = []

  def seen(number):
    draw = lambda key, shape: jax.debug.callback(lambda: calls.append(number))
    return dataclasses.replace(add(number), draw=draw)

  operation = jax.jit(pair(compose.choice(seen(1.0), seen(2.0))))
  found = [operation(key, IMAGES, TARGETS)[0][0].item() for key in KEYS[:20]]
  jax.effects_barrier()
  assert sorted(calls) == sorted(found) and len(set(found)) == 2


def test_choice_of_chains():
  found = picked(compose.choice(compose.Chain([add(1.0), add(10.0)]), compose.Chain([])))
  assert set(found[:, 0]) == {0, 11}


@pytest.mark.parametrize(
  "spec, message",
  [
    ("choice()", "choice takes operations to choose from, as choice"),
    ("choice(flip, weights=(1, 2))", r"takes as many weights as operations, 1, not \(1, 2\)"),
    ("choice(flip, weights=1)", "choice takes as many weights as operations, 1, not 1"),
    ("choice(flip, weights=(-1,))", "choice takes weights, each a number of at least 0, not -1"),
    ("choice(flip, weights=('a',))", "choice takes weights, each a .* not 'a'"),
    ("choice(flip, flip, weights=(0, 0))", "at least one is above 0"),
    ("choice(flip, p=2)", "choice takes p, a number between 0 and 1, not 2"),
    ("choice(flip, q=2)", "unexpected keyword argument 'q'; write choice.*operation"),
    ("choice(flpi)", "unknown augmentation 'flpi'. Did you mean 'flip'"),
    ("choice(flip | pad_crop)", "missing a required argument: 'pixels'"),
    ("choice(flip, 0.5)", "cannot read '0.5'"),
    ("choice(flip | (pad_crop(1), flip))", "cannot read"),
  ],
)
def test_bad_choices(spec, message):
  with pytest.raises(UserError, match=message) as e:
    augment.parse(spec)
  assert "\n" not in str(e.value)
