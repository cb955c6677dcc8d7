"""The parsing of templates: values, domains, mappings and lists of them, and conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distens.errors import ConfigError
from distens.space._choices import Choice, Composite
from distens.space._conditions import make_conditional, split_conditions
from distens.space._domains import Constant, Node, parse_normal, parse_range

DOMAINS = "{choices: [values]}, {low: number, high: number, log: true, step: number} or {mean: number, sd: number}"

MISTYPED = ("choice", "choose", "sample", "lo", "hi", "uniform", "loguniform", "randint", "grid_search")
"""Keys of domains elsewhere, or slips of the pen."""


def is_domain(value: Any) -> bool:
    """Return True if a template's value is a domain: a choice, a range or a normal distribution."""
    return isinstance(value, Mapping) and (
        bool({"choices", "low", "high"} & value.keys()) or {"mean", "sd"} <= value.keys()
    )


def parse_node(value: Any, where: str) -> Node:
    """Return the node of a template; conditions in a mapping name options of that mapping.

    Raises:
        ConfigError: a domain is empty or written wrongly, or a condition cannot hold.
    """
    if isinstance(value, Mapping) and not is_domain(value):
        plain, conditions = split_conditions(value, where, is_domain)
        return make_conditional(_parse(plain, where), conditions, where)
    if isinstance(value, Mapping) and "when" in value:
        raise ConfigError(f"{where}.when: a condition stands in a mapping whose other options it can name")
    return _parse(value, where)


def _parse(value: Any, where: str) -> Node:
    if isinstance(value, Mapping):
        if "choices" in value:
            return _parse_choice(value, where)
        if "low" in value or "high" in value:
            return parse_range(value, where)
        if is_domain(value):
            return parse_normal(value, where)
        _refuse_mistyped(value, where)
        return Composite(tuple(map(str, value)), tuple(_parse(v, f"{where}.{k}") for k, v in value.items()))
    if isinstance(value, list | tuple):
        if any(isinstance(part, Mapping) for part in value):
            return Composite(None, tuple(parse_node(part, f"{where}.{i}") for i, part in enumerate(value)))
        return Constant(list(value))
    return Constant(value)


def _refuse_mistyped(value: Mapping[str, Any], where: str) -> None:
    """Refuse a mapping that looks like a domain and is none: an option might take it for a value of its own."""
    strange = [key for key in value if key in MISTYPED]
    if strange and not where.endswith(".options") and len(value) <= 4:
        meant = "low and high" if strange[0] in ("lo", "hi") else "choices"
        hint = f"Did you mean {meant}? " if strange[0] in ("choice", "choose", "lo", "hi") else ""
        raise ConfigError(f"{where}.{strange[0]}: not a domain. {hint}A domain is {DOMAINS}")


def _parse_choice(value: Mapping[str, Any], where: str) -> Node:
    found = value["choices"]
    if set(value) != {"choices"} or not isinstance(found, list | tuple) or not found:
        raise ConfigError(f"{where}: a choice is {{choices: [one or more values]}}, found {dict(value)!r}")
    if len({json.dumps(option, sort_keys=True) for option in found}) != len(found):
        raise ConfigError(f"{where}: a value occurs twice among the choices: {found!r}")
    return Choice(tuple(parse_node(option, f"{where}.choices.{i}") for i, option in enumerate(found)))
