"""What is asked of a model before it is trained."""

import numpy as np

from cnnjax import models, state


def test_parameters_are_counted():
  assert state.count({"a": np.zeros((2, 3)), "b": {"c": np.zeros(4)}}) == 10


def test_depths_are_the_order_of_the_forward_pass():
  """By whole blocks, for layer_decay: the parts of a block, last in the tree or not, share one."""
  found = state.depths(models.create("resnet20", 10), (32, 32, 3))
  blocks = [f"stage{stage}_block{block}" for stage in (1, 2, 3) for block in (1, 2, 3)]
  # The dropout in front of the head has a place, too.
  order = ["stem_conv", "stem_norm", *blocks, "dropout", "head"]
  assert found == {name: i for i, name in enumerate(order) if name != "dropout"}
  found = state.depths(models.create("simple_cnn", 10, batch_norm=True), (28, 28, 1))
  order = ["conv1", "norm1", "conv2", "norm2", "dense1", "head"]
  assert sorted(found, key=found.get) == order and len(set(found.values())) == len(order)
