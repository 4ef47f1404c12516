import pytest

from cnnjax.data import names


@pytest.mark.parametrize(
  "cell, csv, labels",
  [
    ("cat; dog ", True, ["cat", "dog"]),
    ("", True, [""]),
    ("cat;dog", False, ["cat;dog"]),
    (["cat", 1, 2.5, True], False, ["cat", "1", "2.5", "True"]),
    ([], False, []),
    (None, False, [""]),
    ([{"a": 1}, float("nan")], False, ["", ""]),
  ],
)
def test_labels_of_a_cell(cell, csv, labels):
  assert names.labels_in(cell, csv=csv) == labels


@pytest.mark.parametrize("cell", ["1.5", " 1.5 ", 1.5, "15e-1"])
def test_the_number_in_a_cell(cell):
  assert names.number_in(cell) == 1.5


@pytest.mark.parametrize("cell", ["", "x", "nan", "1e999", 10**400, True, None, [1], {"a": 1}])
def test_a_cell_without_a_finite_number(cell):
  assert names.number_in(cell) is None
