"""Describes an optimizer in words, for the start of a run."""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from cnnjax.optim import masks
from cnnjax.optim.optimizers import kind, muon_kernels, words


def describe(
  config: ConfigDict, params: Any, depths: Mapping[str, int] | None = None
) -> dict[str, str]:
  """Returns in words the optimizer, its decay, frozen parameters and rates; as of `create`."""
  frozen = masks.frozen(config, params)
  free = masks.trained(params, frozen)
  text = {"optimizer": ", ".join(_optimizer_text(config, free, depths))}
  text["decay"] = _decay_text(config, free)
  if config.freeze:
    text["frozen"] = _frozen_text(frozen, depths)
  if (factors := masks.rates(config, free, depths)) is not None:
    text["rates"] = _rates_text(config, free, factors)
  return text


def _optimizer_text(config: ConfigDict, params: Any, depths: Mapping[str, int] | None) -> list[str]:
  text = [f"{config.name} ({words(config)})"]
  if config.name == "muon":
    chosen = jax.tree.leaves(muon_kernels(params, depths))
    text.append(f"Muon on {sum(chosen)} of {len(chosen)} tensors, Adam on the others")
  for key, form in {
    "clip_norm": "gradient clipped to norm {:g}",
    "clip_value": "gradient clipped to values of +-{:g}",
    "max_norm": "weights of a unit held to norm {:g}",
    "sam_rho": "SAM with rho {:g}",
  }.items():
    if config[key] is not None:
      text.append(form.format(config[key]))
  if config.agc is not None:
    mask = masks.by_path(params, config.agc_mask, "optim.agc_mask")
    text.append(f"gradient clipped to {config.agc:g} of the weights on {_count(mask)}")
  if config.noise:
    text.append(f"gradient noise {config.noise:g} / (1 + step)^{config.noise_decay:g}")
  if config.lookahead is not None:
    text.append(f"lookahead every {config.lookahead} steps by {config.lookahead_rate:g}")
  return text


def _decay_text(config: ConfigDict, params: Any) -> str:
  kinds = {
    f"{kind(config)} {config.weight_decay:g}": config.weight_decay,
    f"l1 {config.l1:g}": config.l1,
  }
  given = " and ".join(kind for kind, amount in kinds.items() if amount)
  if not given:
    return "no weight decay"
  mask = masks.by_path(params, config.weight_decay_mask, "optim.weight_decay_mask")
  last = lambda wanted: ", ".join(
    sorted({path.split("/")[-1] for path, chosen in masks.paths(mask).items() if chosen == wanted})
  )
  text = f"{given} on {_count(mask)} ({last(True)})"
  return text + ("" if all(jax.tree.leaves(mask)) else f"; not on {last(False)}")


def _frozen_text(frozen: Any, depths: Mapping[str, int] | None) -> str:
  flags = masks.paths(frozen)

  def under(name: str) -> list[bool]:
    return [stays for path, stays in flags.items() if path.startswith(f"{name}/")]

  names = {}  # in order; a module whose groups are all frozen stands for them
  for path, stays in flags.items():
    if stays:
      parts = masks.group(path, depths).split("/")
      above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
      name = next((name for name in above if all(under(name))), above[-1])
      inside = under(name)
      names[name] = name if all(inside) else f"{name} ({sum(inside)} of {len(inside)})"
  return f"{_count(frozen)}: {_some([*names.values()])}"


def _rates_text(config: ConfigDict, params: Any, factors: Any) -> str:
  text = [
    f"x{factor:g} on {_count(masks.by_path(params, pattern, 'optim.multipliers'))} ({pattern})"
    for pattern, factor in config.multipliers
  ]
  if config.layer_decay is not None:
    text.append(f"x{config.layer_decay:g} for each layer before the head")
  values = jax.tree.leaves(factors)
  return f"{', '.join(text)}: from x{min(values):.3g} to x{max(values):.3g}"


def _count(mask: Any) -> str:
  values = jax.tree.leaves(mask)
  return f"{sum(values)} of {len(values)} tensors"


def _some(names: list[str], most: int = 12) -> str:
  more = f" and {len(names) - most} more" if len(names) > most else ""
  return ", ".join(names[:most]) + more
