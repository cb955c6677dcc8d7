"""Encoding of one column of categories: frequent ones have an indicator each, rare and new ones share one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distens.errors import DataError, shorten_value
from distens.records import Integers
from distens.targets import _levels as levels

MAX_LEVELS_KEPT = 64
"""The most levels of a column that get an indicator of their own: those most frequent in *train*."""
MAX_LEVELS = 10_000
"""The most levels of a column where new ones are refused; a bundle has all their names."""
MIN_ROWS_PER_LEVEL = 3
"""The fewest rows in *train* of a level with its own indicator; the other levels in *train* share one, "other"."""


@dataclass(frozen=True)
class Category:
    """One column of categories.

    Attributes:
        levels: the levels that are known by name. Where a new value counts as missing these are `kept`; where it is
            refused, all levels in the whole table: a row may have any of them, whether *train* has it or not.
        kept: the levels with an indicator of their own.
        other: True if *train* has rows of levels that are not kept. These levels share one indicator, with those that
            *train* lacks; without that indicator, a level that *train* lacks counts as missing if it is not in
            `levels`, and is else 0 in every column: members have learned nothing about it.
        missing: True if *train* has missing values; they count as a level.
    """

    name: str
    levels: tuple[str, ...]
    kept: tuple[str, ...]
    other: bool
    missing: bool

    @classmethod
    def fit(cls, name: str, column: Any, train: Integers, whole: bool) -> Category:
        """Fit the category by counting its levels in *train*.

        Args:
            whole: True if the levels of all rows are to be known.

        Raises:
            DataError: all levels are to be known, and there are more than MAX_LEVELS.
        """
        codes, names = levels.encode_levels(column if whole else column.iloc[train], f"column {name!r}")
        if whole and len(names) > MAX_LEVELS:
            raise DataError(
                f"column {name!r}: {len(names):,} different values, and `data.unseen: error` takes at most "
                f"{MAX_LEVELS:,}; `data.unseen: missing`, or `data.drop: [{name}]`"
            )
        codes = codes[train] if whole else codes
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        order = np.argsort(-counts, kind="stable")[:MAX_LEVELS_KEPT]
        places = {int(i) for i in order if counts[i] >= MIN_ROWS_PER_LEVEL}
        kept = tuple(names[i] for i in sorted(places))
        other = any(count and i not in places for i, count in enumerate(counts))
        return cls(name, names if whole else kept, kept, other, bool((codes < 0).any()))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Category:
        """Rebuild the category from its part of `Table.to_json`'s values; errors as in `Scaling.from_json`."""
        found = cls(**{**values, **{name: read_texts(values[name], name) for name in ("levels", "kept")}})
        flags = (found.other, found.missing)
        if type(found.name) is not str or not set(found.kept) <= set(found.levels) or set(map(type, flags)) != {bool}:
            raise ValueError(f"not a category: {shorten_value(dict(values))}")
        return found

    @property
    def width(self) -> int:
        """Return the number of indicators."""
        return len(self.kept) + self.other + self.missing

    def places(self) -> NDArray[np.int64]:
        """Return the place of every level's indicator, then of a new and of a missing one's; -1: no indicator."""
        place = {level: i for i, level in enumerate(self.kept)}
        rest = len(self.kept) if self.other else -1
        missing = self.width - 1 if self.missing else -1
        # Older versions kept the names of rare levels too, and took a value that is new for missing all the same.
        new = rest if self.other and len(self.levels) == len(self.kept) else missing
        return np.array([*(place.get(level, rest) for level in self.levels), new, missing], dtype=np.int64)

    def lookup(self, column: Any, unseen: str, missing: Collection[str] = ()) -> Integers:
        """Return the place of every row's level in `levels`, -2 for one that is new, -1 for a missing one.

        Args:
            missing: texts that stand for a missing value, unless they are levels.

        Raises:
            DataError: a level is not among `levels`, and `unseen` is `error`.
        """
        codes_N, found = levels.encode_levels(column, f"column {self.name!r}")
        known = {level: i for i, level in enumerate(self.levels)}
        code = {**dict.fromkeys(["", *missing], -1), **known}
        codes = (next((code[name] for name in levels.synonyms(level) if name in code), -2) for level in found)
        places = np.array([*codes, -1], dtype=np.int64)
        result_N = places[codes_N]
        strange = np.flatnonzero(result_N == -2)
        if len(strange) and unseen == "error":
            level = found[codes_N[strange[0]]]
            close = get_close_matches(level, self.levels[:1000], n=1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            raise DataError(
                f"column {self.name!r}, row {strange[0]} (from 0): unknown category {level!r}. {hint}"
                f"Allowed: {levels.shortened(self.levels)}. With `data.unseen: missing` it would count as missing"
            )
        return result_N


def read_texts(values: Any, where: str) -> tuple[str, ...]:
    """Return a list of texts, as JSON has it.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(values, list) or not all(type(text) is str for text in values):
        raise ValueError(f"{where}: expected a list of texts, found {shorten_value(values)}")
    return tuple(values)
