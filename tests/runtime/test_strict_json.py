"""JSON without what JSON does not have."""

import json
import math

import numpy as np
import pytest

from cnnjax.runtime import strict_json


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_what_is_not_finite_is_null(value):
  text = strict_json.dumps({"a": value, "b": [1.5, (value, {"c": value})], "d": "NaN"})
  assert text == '{"a": null, "b": [1.5, [null, {"c": null}]], "d": "NaN"}'


def test_all_else_is_as_in_json():
  value = {"a": [1, 2.5, True, None, "é"], "b": {"c": ()}}
  assert strict_json.dumps(value, indent=2) == json.dumps(value, indent=2)
