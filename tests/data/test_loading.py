"""Keys of data that contradict each other are refused before anything is read."""

import pytest

from cnnjax import data
from cnnjax.config import default, override
from cnnjax.errors import UserError


def settings(**overrides):
  config = default()
  for key, value in {"source": "digits", **overrides}.items():
    override(config, f"data.{key}", value)
  return config.data


@pytest.mark.parametrize(
  "overrides, words",
  [
    ({"progressive": (4, 6)}, "data.progressive grows to data.image_size; set it"),
    ({"progressive": (4, 8), "image_size": 8}, r"\(4, 8\) has sizes that are not below .*size=8"),
    ({"progressive": (12, 6), "image_size": 8}, r"\(12, 6\) has sizes that are not below"),
    ({"crop": "random_resized"}, "data.crop=random_resized needs the size of the crop"),
    (
      {"crop": "random_resized", "image_size": 8, "pipeline": "resident"},
      "is made on the host, while streaming",
    ),
    ({"eval_crop": 0.9}, "data.eval_crop scales images: set data.image_size or data.eval_size"),
  ],
)
def test_sizes_that_contradict_each_other_are_refused(overrides, words):
  with pytest.raises(UserError, match=words):
    data.check(settings(**overrides))


@pytest.mark.parametrize(
  "overrides",
  [
    {"progressive": (4, 6), "image_size": 8},
    {"crop": "random_resized", "image_size": 8, "pipeline": "streaming"},
    {"eval_crop": 0.9, "image_size": 8},
    {"eval_crop": 0.9, "eval_size": 8},
    {"image_size": 8, "pipeline": "resident"},
  ],
)
def test_sizes_that_go_together_are_taken(overrides):
  data.check(settings(**overrides))
