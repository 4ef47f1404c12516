"""Examples as arrays of the types that their fields have."""

import io

import numpy as np
import pytest
from fakes import png
from PIL import Image

from cnnjax.config import default
from cnnjax.data import fields
from cnnjax.data.examples import Examples
from cnnjax.data.images import UnreadableImage
from cnnjax.errors import UserError

IMAGE = png(np.zeros((2, 3, 3), np.uint8))


def made(mask, dtype, classes):
  declared = {
    "image": fields.image(None, None, 3),
    "mask": fields.mask(None, None, map(str, range(classes)), dtype),
  }
  examples = Examples.of(default().data, declared)
  return examples.whole({"image": IMAGE, "mask": mask}, None)["mask"]


@pytest.mark.parametrize("bits, wanted", [(8, "uint16"), (16, "uint8"), (8, "uint8")])
def test_pixels_that_do_not_count_are_so_in_the_type_of_the_field(bits, wanted):
  ignore = 2**bits - 1
  mask = np.array([[0, ignore, 7], [3, 0, ignore]], f"uint{bits}")
  expected = np.where(mask == ignore, np.iinfo(wanted).max, mask)
  for given in (mask, png(mask[..., None])):
    found = made(given, wanted, classes=8)
    assert found.dtype == wanted
    np.testing.assert_array_equal(found, expected)


def test_a_class_of_a_mask_that_there_is_not_is_named():
  mask = np.full((2, 3), 255, np.uint16)  # does not count in 8 bits alone
  with pytest.raises(UserError, match="a mask has the class 255, and there are 8 classes"):
    made(mask, "uint8", classes=8)


@pytest.mark.parametrize("largest, fits", [(2**16 - 1, True), (2**16, False)])
def test_a_mask_of_more_than_16_bits_cannot_be_read(largest, fits):
  file = io.BytesIO()
  Image.fromarray(np.array([[0, largest, 1], [2, 0, 1]], np.int32)).save(file, "TIFF")
  if not fits:
    with pytest.raises(UnreadableImage, match="a mask has the number of a class in each pixel"):
      made(file.getvalue(), "uint8", classes=3)
    return
  np.testing.assert_array_equal(made(file.getvalue(), "uint8", 3), [[0, 255, 1], [2, 0, 1]])
