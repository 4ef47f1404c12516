"""Class weights by name against their definitions, and what is refused."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from cnnjax import tasks
from cnnjax.config import default
from cnnjax.errors import UserError
from cnnjax.tasks import weights

COUNTS = np.array([5000, 300, 40, 1])


def test_auto_is_what_scikit_learn_calls_balanced():
  labels = np.repeat(np.arange(4), COUNTS)
  expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
  found = weights.of_classes("auto", 4, COUNTS, 0.999)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  np.testing.assert_allclose((found * COUNTS).sum(), COUNTS.sum(), rtol=1e-6)
  assert found.dtype == np.float32


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.9999])
def test_effective_number(beta):
  """The sum 1 + beta + ... + beta^(n-1) of arXiv:1901.05555, eq. 2, term by term."""
  effective = np.array([sum(beta**i for i in range(n)) for n in COUNTS])
  expected = 1 / effective
  expected *= 4 / expected.sum()
  np.testing.assert_allclose(
    weights.of_classes("effective_number", 4, COUNTS, beta), expected, rtol=1e-5
  )


def test_effective_number_lies_between_no_weights_and_inverse_frequency():
  """Section 3.2 there: beta 0 is no weighting, beta to 1 is the inverse frequency."""
  np.testing.assert_array_equal(weights.of_classes("effective_number", 4, COUNTS, 0.0), 1)
  inverse = (1 / COUNTS) / (1 / COUNTS).mean()
  found = weights.of_classes("effective_number", 4, COUNTS, 1 - 1e-9)
  np.testing.assert_allclose(found, inverse, rtol=1e-4)


@pytest.mark.parametrize("name", weights.BY_NAME)
def test_a_class_without_examples_has_weight_0_and_changes_no_other(name):
  found = weights.of_classes(name, 5, np.insert(COUNTS, 2, 0), 0.99)
  assert found[2] == 0
  np.testing.assert_array_equal(np.delete(found, 2), weights.of_classes(name, 4, COUNTS, 0.99))


def test_a_list_is_taken_as_it_is():
  np.testing.assert_array_equal(weights.of_classes((1, 2.5, 0.25), 3, None, 0.9), [1, 2.5, 0.25])
  np.testing.assert_array_equal(weights.of_classes(None, 3, COUNTS, 0.9), [1, 1, 1])


@pytest.mark.parametrize(
  "value, message",
  [
    ("autp", "unknown class weights: task.class_weights 'autp'. Did you mean 'auto'?"),
    ((1, 0), "numbers above 0, one per class, not 0"),
    ((1, -2.0), "numbers above 0, one per class, not -2.0"),
    ((1, float("nan")), "not nan"),
    ((1, float("inf")), "not inf"),
    ((1, True), "not True"),
    ((1, "2"), "not '2'"),
  ],
)
def test_wrong_weights_are_refused_before_the_data_are_there(value, message):
  config = default().task
  config.class_weights = value
  with pytest.raises(UserError) as e:
    tasks.check(config)
  assert message in str(e.value)


@pytest.mark.parametrize("name", ["classification", "multi_label"])
def test_a_list_of_another_length_is_refused(name):
  config = default().task
  config.update(name=name, class_weights=(1.0, 2.0))
  tasks.check(config)
  tasks.create(config, 2)
  with pytest.raises(UserError, match="has 2 numbers, and the data have 3 classes"):
    tasks.create(config, 3)
