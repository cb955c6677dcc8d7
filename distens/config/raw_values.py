"""Checks on the raw values of a config, whatever its keys mean: plain values, not too many, and no credentials."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from distens.credentials import has_credentials
from distens.errors import shorten_value
from distens.printable import printable

MAX_VALUES = 1_000_000
"""The most values that a config may have: YAML's aliases turn a few lines into any number of values."""

MAX_DEPTH = 64

MAX_INTEGER_BITS = 128
"""Numbers of more bits are no option's value, and fail late where they become floats or text."""


def check_json_values(values: Any) -> None:
    """Refuse values that cannot be stored as JSON, or must not be.

    Raises:
        ValueError: with a line for the first such value.
    """
    left: list[tuple[tuple[Any, ...], Any]] = [((), values)]
    count = 0
    while left:
        place, value = left.pop()
        count += 1
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values, with aliases expanded")
        if len(place) > MAX_DEPTH:
            raise ValueError(f"{_dotted(place[:4])}…: nested more than {MAX_DEPTH} deep")
        if isinstance(value, Mapping):
            inner = [((*place, key), value[key]) for key in value]
            inner += [((*place, "key"), key) for key in value if isinstance(key, str)]
        elif isinstance(value, list | tuple):
            inner = [((*place, i), item) for i, item in enumerate(value)]
        else:
            _check_leaf(value, _dotted(place))
            continue
        left.extend(reversed(inner))


def _check_leaf(value: Any, where: str) -> None:
    if isinstance(value, str):
        if has_credentials(value):
            what = "an address with credentials" if "://" in value else "credentials"
            raise ValueError(
                f"{where}: {what} in it; a config is stored with its run, so give those in the environment "
                "(AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_URI, …)"
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: expected a finite number, found {value}")
    elif isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise ValueError(
            f"{where}: expected a number of at most {MAX_INTEGER_BITS} bits, found {value.bit_length()} bits"
        )
    elif not (value is None or isinstance(value, bool | int)):
        raise ValueError(f"{where}: expected text, a number, a list or a mapping, found {shorten_value(value)}")


def misread(given: Any, made: Any, where: str = "") -> Iterator[str]:
    """Yield a message for every `true` or text that was taken for a number.

    Args:
        given: plain values.
        made: the same values after validation.
    """
    if isinstance(given, Mapping):
        for key, value in given.items():
            inner = made.get(key) if isinstance(made, Mapping) else getattr(made, str(key), None)
            yield from misread(value, inner, f"{where}.{key}" if where else str(key))
    elif isinstance(given, list | tuple):
        if isinstance(made, list | tuple):
            for i, (value, inner) in enumerate(zip(given, made, strict=False)):
                yield from misread(value, inner, f"{where}.{i}")
    elif isinstance(given, bool | str) and isinstance(made, int | float) and type(made) is not type(given):
        yield f"{where}: expected a number, found {shorten_value(given)}"


def _dotted(place: tuple[Any, ...]) -> str:
    return ".".join(printable(str(step)) for step in place)
