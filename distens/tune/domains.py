"""Spaces of Tune: made from our templates, and converted to and from JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.search import sample

from distens.errors import ConfigError
from distens.space.space import is_domain
from distens.tune.spaces import template_of


def space_to_json(value: Any) -> Any:
    """Return a space of Tune as JSON values, so that a search can be restored without its space being given again.

    Raises:
        TypeError: the space holds a function, or another object that is no JSON value.
    """
    if isinstance(value, sample.Categorical):
        return {"choices": [space_to_json(option) for option in value.categories]}
    if isinstance(value, sample.Function):
        raise TypeError(f"{value.func!r} is no JSON value")
    if isinstance(value, sample.Domain):
        return {"domain": template_of(value)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"mapping": {key: space_to_json(inner) for key, inner in value.items()}}
    if type(value) in (list, tuple):
        return {type(value).__name__: [space_to_json(inner) for inner in value]}
    if value is None or type(value) in (bool, int, float, str):
        return {"value": value}
    raise TypeError(f"{value!r} is no JSON value")


def from_json(saved: Mapping[str, Any]) -> Any:
    """Rebuild the space from `space_to_json`'s value."""
    ((kind, value),) = saved.items()
    if kind == "choices":
        return tune.choice([from_json(option) for option in value])
    if kind == "mapping":
        return {key: from_json(inner) for key, inner in value.items()}
    if kind in ("list", "tuple"):
        parts = [from_json(inner) for inner in value]
        return parts if kind == "list" else tuple(parts)
    return tuned(value) if kind == "domain" else value


def members_space(members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a config's `members` section as a space of Tune: `{"member": a choice of families}`."""
    return {"member": tune.choice([{"family": name, **tuned(template)} for name, template in members.items()])}


def tuned(value: Any) -> Any:
    """Return a template of ours (see `distens.space.space`) with Tune's domains in place of ours."""
    if isinstance(value, Mapping):
        if is_domain(value) and "when" in value:
            raise ConfigError(
                "a condition (`when`) has no equal in Ray Tune: write a choice of mappings, {choices: [{…}]}"
            )
        if "choices" in value:
            return tune.choice([tuned(option) for option in value["choices"]])
        if "low" in value or "high" in value:
            return _tuned_range(**value)
        if "mean" in value and "sd" in value:
            step = value.get("step")
            return tune.qrandn(value["mean"], value["sd"], step) if step else tune.randn(value["mean"], value["sd"])
        return {key: tuned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [tuned(inner) for inner in value]
    return value


def _tuned_range(low: float, high: float, log: bool = False, step: float | None = None) -> sample.Domain:
    whole = isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int))
    if whole and step in (None, 1):
        return (tune.lograndint if log else tune.randint)(int(low), int(high) + 1)
    if step is None:
        return (tune.loguniform if log else tune.uniform)(low, high)
    low, high = math.ceil(low / step - 1e-9) * step, math.floor(high / step + 1e-9) * step
    if whole:
        return (tune.qlograndint if log else tune.qrandint)(int(low), int(high), int(step))
    return (tune.qloguniform if log else tune.quniform)(low, high, step)
