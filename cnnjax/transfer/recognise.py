"""Finds the architecture that weights are of, and the implementation that wrote them.

Every rule is tried on each of its models that has as many values as the weights have without their
head. Those that fit tensor by tensor are taken.
"""

import collections
import functools
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from cnnjax import models
from cnnjax.errors import UserError, listed
from cnnjax.transfer import mapping
from cnnjax.transfer.mapping import SOURCES, Match, Rules

SIZES = pathlib.Path(__file__).with_name("sizes.json")  # by `size_key`; written by sizes.py
NEAREST = 3  # architectures that are named where none fits
TRACED = 8  # of the nearest by size, that are compared tensor by tensor
# Our modules that depend on the number of classes.
HEADS = re.compile(r"^(params|batch_stats)/(head|aux\d*_head)/")


class Candidate(NamedTuple):
  """An architecture with the rules by which weights may be its own."""

  rules: Rules
  name: str  # registered
  num_classes: int  # 0: the weights have no head
  model: nn.Module
  matched: Match

  @property
  def words(self) -> str:
    return f"{self.name} of {self.rules.source}"


def options(source: str | None = None, name: str | None = None) -> Iterator[tuple[Rules, str]]:
  """Yields the rules and the models that they are for, of one source or model if given."""
  for rules in mapping.all_rules():
    if source in (None, rules.source):
      for one in rules.names():
        if name in (None, one):
          yield rules, one


def size_key(rules: Rules, name: str) -> str:
  """Returns the key of a model in sizes.json: its name, and options that the rules set."""
  return " ".join([name, *(f"{k}={v}" for k, v in sorted(rules.overrides.items()))])


@functools.cache
def sizes() -> dict[str, int]:
  """Returns the numbers of values of models without head, by `size_key`."""
  return json.loads(SIZES.read_text())


def recognise(
  weights: Mapping[str, np.ndarray],
  *,
  source: str | None = None,
  name: str | None = None,
  hint: str = "",
) -> Candidate:
  """Returns the architecture and the rules that weights fit.

  Args:
    weights: arrays by name; only their shapes are read.
    source: of SOURCES; None finds it.
    name: a registered model; None finds it.
    hint: what else is known, such as the name of the file; it decides between models with the same
      tensors, as those of timm with padding in the manner of TensorFlow ("tf_").

  Raises:
    UserError: nothing fits, or several models do that compute differently.
  """
  tried = list(options(source, name))
  if not tried:
    mapping.rules_for(name, source)  # says what there is
  fitting = list(_fitting(weights, tried))
  if not fitting:
    raise UserError(_nearest(weights, tried))
  groups: list[list[Candidate]] = []  # of models that compute the same
  for candidate in fitting:
    alike = next((group for group in groups if group[0].model == candidate.model), None)
    groups.append([candidate]) if alike is None else alike.append(candidate)
  if len(groups) > 1:
    hinted = [group for group in groups if any(_is_hinted(one, hint) for one in group)]
    groups = hinted if len(hinted) == 1 else groups
  if len(groups) > 1:
    words = listed([group[0].words for group in groups])
    raise UserError(
      f"the tensors fit {words}, which compute differently: choose one by init.source"
      + (" or model.name" if len({group[0].name for group in groups}) > 1 else "")
      + f"; they differ in {_differences([group[0].model for group in groups])}"
    )
  order = list(SOURCES)
  return min(groups[0], key=lambda one: (not _is_hinted(one, hint), order.index(one.rules.source)))


def _fitting(
  weights: Mapping[str, np.ndarray], tried: Sequence[tuple[Rules, str]]
) -> Iterator[Candidate]:
  """Yields what fits tensor by tensor, of models with as many values."""
  for rules, names in itertools.groupby(tried, lambda one: one[0]):
    size = _size(weights, rules)
    for _, name in names:
      if sizes().get(size_key(rules, name), size) == size:
        candidate = compare(weights, rules, name)
        if candidate.matched.fits:
          yield candidate


def _size(weights: Mapping[str, np.ndarray], rules: Rules) -> int:
  """Returns the number of values without those of heads."""
  return sum(
    int(np.prod(np.shape(value)))
    for name, value in weights.items()
    if not mapping.is_ignored(name, rules) and not HEADS.match(mapping.our_path(name, rules, {}))
  )


def compare(weights: Mapping[str, np.ndarray], rules: Rules, name: str) -> Candidate:
  """Returns how weights fit a model with as many classes as they have, without auxiliary heads."""
  ours = {theirs: mapping.our_path(theirs, rules, {}) for theirs in weights}
  own = {t: value for t, value in weights.items() if not re.match(r"^\w+/aux\d*_head/", ours[t])}
  heads = [t for t in own if re.match(r"^\w+/head/", ours[t]) and np.ndim(own[t])]
  torch = SOURCES[rules.source] is mapping.TORCH
  outputs = {np.shape(own[t])[0 if torch else -1] for t in heads}
  num_classes = min(outputs) if outputs else 0
  model = models.create(name, num_classes, **rules.overrides)
  like = _shapes(size_key(rules, name), num_classes, lambda: mapping.shapes_of(model, name))
  return Candidate(rules, name, num_classes, model, mapping.match(own, like, rules))


_SHAPES: dict[tuple[str, int], Any] = {}  # traced ones


def _shapes(key: str, num_classes: int, trace: Callable[[], Any]) -> Any:
  """Returns the shapes of a model, which several rules ask for."""
  if (key, num_classes) not in _SHAPES:
    _SHAPES[key, num_classes] = trace()
  return _SHAPES[key, num_classes]


def _is_hinted(candidate: Candidate, hint: str) -> bool:
  """Returns whether a hint speaks for a candidate: it begins like the name of its file there."""
  name, source = candidate.name, candidate.rules.source
  if source == "pytorchcv":  # its resnet50b is ours, and its resnet50 is our resnet50_v1
    ending = "" if name.endswith("_v1") or not re.match(r"(se)?resne", name) else "b"
    return hint.startswith(f"{name.removesuffix('_v1')}{ending}-")
  if source == "pytorchcv_tf":
    return bool(re.match(rf"{name}[bc]-", hint))
  return hint.startswith({"timm_tf": "tf_"}.get(source, name))


def _differences(modules: Sequence[nn.Module]) -> str:
  """Returns the options in which models differ, in words."""
  if len({type(module) for module in modules}) > 1:
    return listed([type(module).__name__ for module in modules])
  skipped = {"parent", "name"}
  fields = [field for field in modules[0].__dataclass_fields__ if field not in skipped]
  differ = [f for f in fields if any(getattr(m, f) != getattr(modules[0], f) for m in modules)]
  return listed([f"{f} ({', '.join(str(getattr(m, f)) for m in modules)})" for f in differ])


def _nearest(weights: Mapping[str, np.ndarray], tried: Sequence[tuple[Rules, str]]) -> str:
  """Returns in words which architectures are nearest to weights, and what differs."""

  # A head by an unknown name is a matrix.
  last = max((np.size(value) for value in weights.values() if np.ndim(value) == 2), default=0)

  by_model: dict[str, tuple[tuple[float, float], Rules]] = {}  # the likeliest rules of each
  for rules, names in itertools.groupby(tried, lambda one: one[0]):
    unnamed, own = 1 - _named(tuple(weights), rules), _size(weights, rules)
    for _, name in names:
      size = sizes().get(size_key(rules, name), 0)
      distance = min(abs(np.log((x + 1) / (size + 1))) for x in (own, own - last))
      found = (unnamed, distance), rules
      by_model[name] = min(by_model.get(name, found), found, key=lambda one: one[0])
  near = sorted(by_model, key=lambda name: by_model[name][0][1])[:TRACED]
  compared = [compare(weights, by_model[name][1], name) for name in near]
  compared.sort(key=lambda one: -_alike(weights, one))
  lines = []
  for one in compared[:NEAREST]:
    right = len(one.matched.theirs) - len(one.matched.misshaped)
    of, problems = len(one.matched.wanted), one.matched.problems()
    lines.append(
      f"{one.words}: {_alike(weights, one)} of {of} tensors have a partner of the same shape, "
      f"{right} by name as well; {len(problems)} problems: "
      + mapping.shortened(problems, 2).replace("\n  ", "\n    ")
    )
  nearest = "\n  ".join(lines)
  return f"the {len(weights)} tensors fit no model here exactly. The nearest are\n  {nearest}"


def _alike(weights: Mapping[str, np.ndarray], candidate: Candidate) -> int:
  """Returns how many tensors have a partner of their shape, whatever the names and the layout."""
  shapes = lambda found: collections.Counter(tuple(sorted(shape)) for shape in found)
  theirs = shapes(np.shape(value) for value in weights.values())
  return (theirs & shapes(candidate.matched.wanted.values())).total()


def _named(names: tuple[str, ...], rules: Rules) -> float:
  """Returns the share of names that some rule renames."""
  patterns = [re.compile(pattern) for pattern, _ in rules.rename]
  return sum(any(p.search(name) for p in patterns) for name in names) / max(len(names), 1)
