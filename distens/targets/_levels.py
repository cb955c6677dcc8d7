"""Names of categories and classes: the same text for the same value, whatever dtype a file happened to give it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from distens.errors import DataError
from distens.records import Integers

_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")
_MIDNIGHT = " 00:00:00"


def name(value: Any) -> str:
    """Return a value's name as text.

    Whole numbers have no fraction, since a missing value turns a column of integers into a column of floats, and a
    text file may have `1.0`; a moment at midnight is a day.
    """
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    text = str(value)
    if not isinstance(value, str):
        text = text.removesuffix(_MIDNIGHT)
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def synonyms(level: str) -> Iterator[str]:
    """Yield the names that a level may have in a model: its own, and those that files and older versions gave it."""
    yield level
    yield level.strip()
    if level.strip().lower() in ("true", "false"):
        yield level.strip().capitalize()
    yield f"{level}.0"
    yield level + _MIDNIGHT
    yield level.removesuffix(_MIDNIGHT)


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return distinct names sorted: as numbers if all are numbers, else as text."""
    distinct = sorted(set(names))
    try:
        numbers = {text: float(text) for text in distinct}
    except ValueError:
        return tuple(distinct)
    return tuple(sorted(distinct, key=numbers.__getitem__) if all(map(math.isfinite, numbers.values())) else distinct)


def encode_levels(values: Any, where: str) -> tuple[Integers, tuple[str, ...]]:
    """Return (codes_N, levels): the place of every value's name in `levels`, -1 where it is missing.

    Args:
        values: a pandas Series, or an array of one axis.
        where: for messages.

    Raises:
        DataError: a value cannot be named, such as a list.
    """
    codes_N, uniques = factorize(values, where)
    names = [name(value) for value in uniques]
    levels = sort_names(names)
    place = {level: i for i, level in enumerate(levels)}
    # Distinct values may share a name (1 and "1"); the last entry serves code -1, a missing value.
    places = np.array([*(place[text] for text in names), -1], dtype=np.int64)
    return places[codes_N], levels


def factorize(values: Any, where: str) -> tuple[Integers, Any]:
    """Return (codes_N, uniques): the place of every value among the different ones, -1 where it is missing.

    Raises:
        DataError: a value cannot be compared, such as a list.
    """
    import pandas as pd

    try:
        return pd.factorize(values)
    except TypeError as error:
        raise DataError(f"{where}: holds values that are neither numbers nor text: {error}") from error


def shortened(names: Iterable[str], most: int = 10) -> str:
    """Return the first names, quoted, and the number of all names if not all are shown."""
    names = list(names)
    shown = ", ".join(repr(text) for text in names[:most]) or "nothing"
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
