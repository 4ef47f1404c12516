"""Splits as one: every example, with the label that the run has for its class."""

import numpy as np
import pytest

from cnnjax import data
from cnnjax.data.identity import CONTENT, PLACE
from cnnjax.data.joined import join
from cnnjax.errors import UserError

IMAGES = np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2, 1)
LABELS = np.array([0, 1, 1, 0, 1, 0, 0])
HOT = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 1], [1, 1]])
RUN = ("caf\u00e9", "dog", "emu")


@pytest.mark.parametrize(
  "labels, several, expected",
  [
    (LABELS, False, np.where(LABELS, 0, 2)),
    (LABELS, True, np.where(LABELS[:, None], [1, 0, 0], [0, 0, 1])),
    (HOT, True, np.stack([HOT[:, 1], np.zeros(7, int), HOT[:, 0]], axis=1)),
  ],
  ids=["one", "one of several", "several"],
)
def test_labels_are_those_of_the_run(labels, several, expected):
  pairs = (IMAGES[:4], labels[:4]), (IMAGES[4:], labels[4:])
  parts = [*data.from_arrays(*pairs, classes=["emu", "cafe\u0301"]).values()]
  split = join(parts, RUN, several=several)
  assert split.classes == RUN and len(split) == 7
  np.testing.assert_array_equal(split.labels, expected)
  for i in range(7):
    image, label = (split[i][name] for name in ("image", "label"))
    np.testing.assert_array_equal(image, IMAGES[i])
    np.testing.assert_array_equal(label, expected[i])
  for by in (CONTENT, PLACE):
    np.testing.assert_array_equal(split.ids(by), [*parts[0].ids(by), *parts[1].ids(by)])


def test_what_the_run_cannot_know_is_refused():
  parts = [*data.from_arrays((IMAGES, LABELS), classes=["emu", "fox"]).values()]
  with pytest.raises(UserError, match=r"not trained on: fox\. It knows caf\u00e9, dog, emu; ren"):
    join(parts, RUN, several=False)
  parts = [*data.from_arrays((IMAGES, HOT), classes=["emu", "dog"]).values()]
  with pytest.raises(UserError, match="may have several labels, and the run knows one for each"):
    join(parts, RUN, several=False)
