"""Encoding of tables: numbers are scaled, categories become indicators; both are fitted on *train*."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from distens.config.sections import DataSection
from distens.data.scaling import LARGEST, Scaling
from distens.errors import DataError, shorten_value
from distens.records import Floats, Integers
from distens.targets import _levels as levels

MAX_LEVELS_KEPT = 64
"""The most levels of a column that get an indicator of their own: those most frequent in *train*."""
MIN_ROWS_PER_LEVEL = 3
"""The fewest rows in *train* of a level with its own indicator; the other levels in *train* share one, "other"."""


@dataclass(frozen=True)
class Category:
    """One column of categories.

    Attributes:
        levels: all levels in the whole table; a row may have any of them, whether *train* has it or not.
        kept: the levels with an indicator of their own.
        other: True if *train* has rows of levels that are not kept; these levels share one indicator. A level that
            *train* lacks shares it too; without that indicator, such a level is 0 in every column: members have learned
            nothing about it.
        missing: True if *train* has missing values; they count as a level.
    """

    name: str
    levels: tuple[str, ...]
    kept: tuple[str, ...]
    other: bool
    missing: bool

    @classmethod
    def fit(cls, name: str, codes_N: Integers, names: tuple[str, ...], train: Integers) -> Category:
        """Fit the category by counting its levels in *train*; codes are places in `names`, -1 for a missing value."""
        codes = codes_N[train]
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        order = np.argsort(-counts, kind="stable")[:MAX_LEVELS_KEPT]
        kept = {int(i) for i in order if counts[i] >= MIN_ROWS_PER_LEVEL}
        other = any(count and i not in kept for i, count in enumerate(counts))
        return cls(name, names, tuple(names[i] for i in sorted(kept)), other, bool((codes < 0).any()))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Category:
        """Rebuild the category from its part of `Table.to_json`'s values; errors as in `Scaling.from_json`."""
        found = cls(**{**values, **{name: _texts(values[name], name) for name in ("levels", "kept")}})
        flags = (found.other, found.missing)
        if type(found.name) is not str or not set(found.kept) <= set(found.levels) or set(map(type, flags)) != {bool}:
            raise ValueError(f"not a category: {shorten_value(dict(values))}")
        return found

    @property
    def width(self) -> int:
        """Return the number of indicators."""
        return len(self.kept) + self.other + self.missing

    def places(self) -> NDArray[np.int64]:
        """Return the place of every level's indicator, then of a missing value's; -1 where there is no indicator."""
        place = {level: i for i, level in enumerate(self.kept)}
        rest = len(self.kept) if self.other else -1
        missing = self.width - 1 if self.missing else -1
        return np.array([*(place.get(level, rest) for level in self.levels), missing], dtype=np.int64)

    def lookup(self, column: Any, unseen: str) -> Integers:
        """Return the place of every row's level in `levels`, -1 for a missing one.

        Raises:
            DataError: a level is not among `levels`, and `unseen` is `error`.
        """
        codes_N, found = levels.encode_levels(column, f"column {self.name!r}")
        known = {level: i for i, level in enumerate(self.levels)}
        places = np.array([*(known.get(level, -2) for level in found), -1], dtype=np.int64)
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
        return np.maximum(result_N, -1)


@dataclass(frozen=True, eq=False)
class Table:
    """The encoding of a table with named columns.

    Attributes:
        columns: the columns that rows must have, in the order of training.
        ignored: columns that rows may have too, and that are not used: the target and the dropped columns.
        unseen: `error` refuses an unknown category, `missing` treats it as a missing value.
        numbers: the columns of numbers, in the order of `scaling`.
        categories: the other columns.
    """

    columns: tuple[str, ...]
    ignored: tuple[str, ...]
    unseen: Literal["error", "missing"]
    numbers: tuple[str, ...]
    scaling: Scaling
    categories: tuple[Category, ...]

    kind: ClassVar[str] = "table"

    @classmethod
    def fit(cls, rows: Any, train: Integers, section: DataSection) -> Table:
        """Learn the schema (types of columns, levels) from all rows, everything else from *train*.

        Raises:
            DataError: a column holds dates or durations, or a value that is no finite number where one must be.
        """
        columns = tuple(map(str, rows.columns))
        numbers = tuple(name for name in columns if _holds_numbers(rows[name], name, section))
        for name in section.numeric:
            if rows[name].isna().all():
                raise DataError(f"data.numeric: column {name!r} holds no numbers, every value is missing")
        scaling, taken = Scaling.fit(_matrix(rows, numbers, train)), set(numbers)
        categories = tuple(
            Category.fit(name, *levels.encode_levels(rows[name], f"column {name!r}"), train)
            for name in columns
            if name not in taken
        )
        ignored = (*([section.target] if section.target else []), *section.drop)
        return cls(columns, ignored, section.unseen, numbers, scaling, categories)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of one encoded row."""
        return (self.scaling.width + sum(category.width for category in self.categories),)

    def transform(self, rows: Any) -> Floats:
        """Encode rows as (N, width) float32: numbers, indicators of missing numbers, indicators of each category."""
        table = self._checked(rows)
        out = np.zeros((len(table), *self.output_shape), dtype=np.float32)
        start = self.scaling.width
        self.scaling.apply(_matrix(table, self.numbers), out[:, :start])
        for category in self.categories:
            places_N = category.places()[category.lookup(table[category.name], self.unseen)]
            set_N = np.flatnonzero(places_N >= 0)
            out[set_N, start + places_N[set_N]] = 1.0
            start += category.width
        return out

    def _checked(self, rows: Any) -> Any:
        """Return rows as a DataFrame that has at least the columns of training."""
        import pandas as pd

        if isinstance(rows, pd.DataFrame):
            names = [str(name) for name in rows.columns]
            table = rows if names == list(rows.columns) else rows.set_axis(names, axis=1)
            self._check_columns(names)
        else:
            table = self._from_positions(rows)
        if not len(table):
            raise DataError("rows: there are none to predict")
        return table

    def _check_columns(self, names: Sequence[str]) -> None:
        counts, known = Counter(names), {*self.columns, *self.ignored}
        double = [name for name, count in counts.items() if count > 1]
        missing = [name for name in self.columns if name not in counts]
        extra = [name for name in counts if name not in known]
        found = (("two columns of one name", double), ("missing columns", missing), ("unknown columns", extra))
        wrong = "; ".join(f"{what}: {levels.shortened(which)}" for what, which in found if which)
        if wrong:
            expected = levels.shortened(self.columns, most=50)
            raise DataError(f"rows: {wrong}. The model was trained on the columns {expected}")

    def _from_positions(self, rows: Any) -> Any:
        import pandas as pd

        array = rows if isinstance(rows, np.ndarray) else None
        if array is None or self.categories:
            what = "an array without column names" if array is not None else type(rows).__name__
            raise DataError(f"rows: expected a pandas DataFrame with named columns, found {what}")
        if array.ndim != 2 or array.shape[1] != len(self.columns):
            raise DataError(f"rows: expected an array of shape (rows, {len(self.columns)}), found {array.shape}")
        return pd.DataFrame(array, columns=list(self.columns))

    def to_json(self) -> dict[str, Any]:
        """Return the encoding as JSON values."""
        values = {name: getattr(self, name) for name in ("columns", "ignored", "numbers")}
        categories = [
            {**vars(category), "levels": list(category.levels), "kept": list(category.kept)}
            for category in self.categories
        ]
        return {
            **{name: list(value) for name, value in values.items()},
            "unseen": self.unseen,
            "scaling": self.scaling.to_json(),
            "categories": categories,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Table:
        """Rebuild the encoding from `to_json`'s values; errors as in `Scaling.from_json`."""
        columns, ignored, numbers = (_texts(values[name], name) for name in ("columns", "ignored", "numbers"))
        scaling = Scaling.from_json(values["scaling"])
        categories = tuple(map(Category.from_json, values["categories"]))
        taken = [*numbers, *(category.name for category in categories)]
        if len({*columns}) < len(columns) or sorted(taken) != sorted(columns) or len(numbers) != len(scaling.means_F):
            raise ValueError(
                f"columns {shorten_value(columns)} are not those of numbers and categories, {shorten_value(taken)}"
            )
        if values["unseen"] not in ("error", "missing"):
            raise ValueError(f"unseen: `error` or `missing`, found {shorten_value(values['unseen'])}")
        return cls(columns, ignored, values["unseen"], numbers, scaling, categories)


def _texts(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(type(text) is str for text in values):
        raise ValueError(f"{where}: expected a list of texts, found {shorten_value(values)}")
    return tuple(values)


def _holds_numbers(column: Any, name: str, section: DataSection) -> bool:
    """Return True if a column holds numbers: by the config, else by the column's dtype or values."""
    from pandas.api import types

    if name in section.categorical:
        return False
    if types.is_datetime64_any_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype):
        raise DataError(f"column {name!r} holds dates or durations ({column.dtype}): drop it, or convert it to numbers")
    if name in section.numeric:
        return True
    if column.dtype == object:
        return types.infer_dtype(column, skipna=True) in ("integer", "floating", "mixed-integer-float", "decimal")
    return types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype)


def _matrix(rows: Any, names: Sequence[str], train: Integers | None = None) -> NDArray[np.float64]:
    """Return the named columns as numbers, with the rows of `train` alone if it is given; all rows are checked."""
    count = len(rows) if train is None else len(train)
    out = np.empty((count, len(names)), order="F")
    for i, name in enumerate(names):
        values_N = _numbers(rows[name], name)
        out[:, i] = values_N if train is None else values_N[train]
    return out


def _numbers(column: Any, name: str) -> NDArray[np.float64]:
    import pandas as pd
    from pandas.api import types

    if types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype):
        values_N = column.to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = np.flatnonzero(np.abs(values_N) > LARGEST)
    else:
        dates = types.is_datetime64_any_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype)
        text = column.astype(str if dates else object).astype(object)  # else to_numeric would turn a date into a number
        numbers: Any = pd.to_numeric(text, errors="coerce")
        values_N = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
        given_N = column.notna().to_numpy()
        wrong = np.flatnonzero((np.isnan(values_N) & given_N) | (np.abs(values_N) > LARGEST))
    if len(wrong):
        found = column.iloc[wrong[0]]
        text = repr(found) if isinstance(found, str) else str(found)
        raise DataError(f"column {name!r}, row {wrong[0]} (from 0): expected a finite number, found {text}")
    return values_N
