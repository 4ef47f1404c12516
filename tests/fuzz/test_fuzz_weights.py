"""Weights that do not fit, in every way that a file of them may be wrong."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from fuzzing import fuzz, one_clear_line
from hypothesis import strategies as st

from cnnjax import transfer
from cnnjax.errors import UserError
from cnnjax.transfer import mapping

RULES = transfer.Rules("torchvision", "none", (), {"dense/kernel$": mapping.flattened(2, 2, 2)})
LIKE = {
  "params": {
    "conv": {"kernel": jnp.zeros((3, 3, 2, 4)), "bias": jnp.zeros(4)},
    "depthwise": {"kernel": jnp.zeros((3, 3, 1, 4))},
    "norm": {"scale": jnp.zeros(4), "bias": jnp.zeros(4)},
    "dense": {"kernel": jnp.zeros((8, 4))},
    "head": {"kernel": jnp.zeros((4, 5)), "bias": jnp.zeros(5)},
  },
  "batch_stats": {"norm": {"mean": jnp.zeros(4), "var": jnp.zeros(4)}},
}
SHAPES = {
  "conv.weight": (4, 2, 3, 3), "conv.bias": (4,), "depthwise.weight": (4, 1, 3, 3),
  "norm.weight": (4,), "norm.bias": (4,), "norm.running_mean": (4,), "norm.running_var": (4,),
  "norm.num_batches_tracked": (), "dense.weight": (4, 8), "head.weight": (5, 4), "head.bias": (5,),
}  # fmt: skip
GOOD = {
  name: np.abs(np.random.default_rng(i).normal(size=shape)).astype(np.float32)
  for i, (name, shape) in enumerate(SHAPES.items())
}
DTYPES = [
  np.float16, np.float64, ml_dtypes.bfloat16, np.int8, np.int64, np.uint8, bool, np.complex64,
  "S3", "U2", object, "datetime64[s]",
]  # fmt: skip
KINDS = [
  "missing", "surplus", "shape", "transposed", "dtype", "not finite", "too large", "odd", "name",
  "negative variance", "scalar", "empty",
]  # fmt: skip
ODD = [None, "text", b"bytes", {}, {"a": 1}, [[1, 2], [3]], object(), len, 1j, [None], range(3)]
NAMES = [
  "", ".", "/", "conv", "weight", "a" * 5000, "stage1." * 500 + "weight", "conv.weight ", "\0",
  "params/conv/kernel", "conv/weight", "../conv.weight", "é.weight", 3, None, ("a",),
]  # fmt: skip


@st.composite
def changed(draw):
  """[(kind, name, choice), ...]: what is wrong; nothing sometimes."""
  return [
    (draw(st.sampled_from(KINDS)), draw(st.sampled_from(sorted(GOOD))), draw(st.integers(0, 99)))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 1, 2, 3])))
  ]


def wrong(weights, kind, name, choice):
  """Changes `weights`; returns whether what is left says the same as before."""
  value = np.array(GOOD[name])
  if kind == "missing":
    weights.pop(name, None)
    return name.endswith("tracked")
  if kind == "surplus":
    weights[f"{name}.{choice}.weight"] = value
  elif kind == "shape":
    shape = (*value.shape, 1 + choice % 3) if choice % 2 else (choice,)
    weights[name] = np.zeros(shape, np.float32)
    return name.endswith("tracked")
  elif kind == "transposed":
    weights[name] = value.T
    return value.T.shape == value.shape and value.ndim < 2
  elif kind == "dtype":
    dtype = DTYPES[choice % len(DTYPES)]
    weights[name] = np.zeros(value.shape, dtype) if choice % 3 else value.astype(np.float64)
    return name.endswith("tracked")
  elif kind in ("not finite", "too large"):
    bad = [np.nan, np.inf, -np.inf][choice % 3] if kind == "not finite" else 1e39
    value = value.astype(np.float64)
    value[(choice % max(len(value), 1) if value.ndim else ...)] = bad
    weights[name] = value
    return name.endswith("tracked")
  elif kind == "odd":
    weights[name] = ODD[choice % len(ODD)]
    return name.endswith("tracked")
  elif kind == "name":
    weights[NAMES[choice % len(NAMES)]] = value
  elif kind == "negative variance":
    weights["norm.running_var"] = -np.ones(4, np.float32)
  elif kind == "scalar":
    weights[name] = np.float32(1)
    return name.endswith("tracked")
  elif kind == "empty":
    weights[name] = value[:0] if value.ndim else np.zeros(0)
    return name.endswith("tracked")
  return False


def converted(changes):
  """They are refused in one line that names the tensor, or each number is where it belongs."""
  weights = dict(GOOD)
  same = [wrong(weights, *change) for change in changes]
  try:
    found = transfer.convert(weights, LIKE, RULES)
  except UserError as e:
    one_clear_line(e, longest=20_000)  # it lists all names
    assert not changes or not all(same), e
    return "refused"
  for leaf in jax.tree.leaves(found):
    assert leaf.dtype == np.float32 and np.isfinite(leaf).all()
  assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, LIKE)
  assert (found["batch_stats"]["norm"]["var"] >= 0).all()
  harmless = {"dtype", "transposed"}  # of floats of another kind; of a vector
  assert all(s or kind in harmless for s, (kind, *_) in zip(same, changes, strict=True)), changes
  return "converted"


test_weights_that_do_not_fit = fuzz(
  converted, changed(), few=20, many=150, ends=["refused", "converted"]
)
