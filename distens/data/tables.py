"""Encoding of tables: numbers and dates are scaled, categories become indicators; all are fitted on *train*."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from distens.config.sections import CsvSection, DataSection
from distens.data.category import Category, read_texts
from distens.data.column import ReadColumn
from distens.data.columns import read_columns, without_markers
from distens.data.dates import Dates, read_days
from distens.data.scaling import LARGEST, Scaling
from distens.data.texts import KNOWN_MISSING, is_known_missing, is_text, parse_numbers, read_plain, read_truth
from distens.errors import DataError, shorten_value
from distens.records import Floats, Integers
from distens.targets import _levels as levels

_NAMES = ("columns", "ignored", "numbers")


@dataclass(frozen=True, eq=False)
class Table:
    """The encoding of a table with named columns.

    Attributes:
        columns: the columns that rows must have, in the order of training.
        ignored: columns that rows may have too, and that are not used: the target, the dropped columns, and those
            without anything to learn from.
        unseen: `error` refuses an unknown category, `missing` treats it as a missing value.
        numbers: the columns of numbers, in the order of `scaling`.
        scaling: of numbers, then of the dates' values.
        categories: the columns of categories.
        dates: the columns of dates.
        missing: texts that stand for a missing value in every column.
        markers: texts that stand for a missing value among numbers, because they did in training.
        commas: the columns of numbers in whose texts a comma comes before the fraction.
        csv: the dialect of CSV files.
    """

    columns: tuple[str, ...]
    ignored: tuple[str, ...]
    unseen: Literal["error", "missing"]
    numbers: tuple[str, ...]
    scaling: Scaling
    categories: tuple[Category, ...]
    dates: tuple[Dates, ...] = ()
    missing: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    commas: tuple[str, ...] = ()
    csv: CsvSection | None = None

    kind: ClassVar[str] = "table"

    @classmethod
    def fit(
        cls, rows: Any, train: Integers, section: DataSection, columns: Sequence[ReadColumn] | None = None
    ) -> Table:
        """Learn the schema (types of columns) from all rows, everything else from *train*.

        Args:
            columns: the columns of `rows` as they were read; None: they are read now.

        Raises:
            DataError: a column holds a value that is no finite number where one must be, or may be read in two ways;
                or there is nothing to learn from.
        """
        if columns is None:
            rows, columns = read_columns(rows, section)
        rows = rows.set_axis([column.name for column in columns], axis=1)
        used = [column for column in columns if column.role != "left out"]
        if not used:
            raise DataError(f"no column is left to learn from; {columns[0].name!r}: {columns[0].note}")
        for name in section.numeric:
            if rows[name].isna().all():
                raise DataError(f"data.numeric: column {name!r} holds no numbers, every value is missing")
        left_out = [column.name for column in columns if column.role == "left out"]
        unseen = section.unseen or "missing"
        schema = cls(
            columns=tuple(column.name for column in used),
            ignored=(*([section.target] if section.target else []), *section.drop, *left_out),
            unseen=unseen,
            numbers=tuple(column.name for column in used if column.role == "number"),
            scaling=Scaling.fit(np.empty((0, 0))),
            categories=(),
            missing=section.missing,
            markers=tuple(dict.fromkeys(marker for column in columns for marker in column.markers)),
            commas=tuple(column.name for column in used if column.comma),
            csv=section.csv,
        )
        dates = [(column, schema._days(rows, column.name, column.form)) for column in used if column.role == "date"]
        schema = replace(schema, dates=tuple(Dates.fit(one.name, one.form, days_N[train]) for one, days_N in dates))
        # Numbers before categories: what is wrong with a column that must be numbers is said first.
        scaling = Scaling.fit(schema._matrix(rows, train))
        categories = (
            Category.fit(c.name, rows[c.name], train, unseen == "error") for c in used if c.role == "category"
        )
        return replace(schema, scaling=scaling, categories=tuple(categories))

    @property
    def roles(self) -> dict[str, str]:
        """Return column -> `number`, `date` or `category`."""
        numbers = dict.fromkeys(self.numbers, "number")
        categories = {category.name: "category" for category in self.categories}
        return {**numbers, **{one.name: "date" for one in self.dates}, **categories}

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of one encoded row."""
        return (self.scaling.width + sum(category.width for category in self.categories),)

    def transform(self, rows: Any) -> Floats:
        """Encode rows as (N, width) float32: numbers, indicators of missing numbers, indicators of each category."""
        table = self._checked(rows)
        out = np.zeros((len(table), *self.output_shape), dtype=np.float32)
        start = self.scaling.width
        self.scaling.apply(self._matrix(table), out[:, :start])
        for category in self.categories:
            missing = self._absent if set(category.levels) <= {"True", "False"} else self.missing
            places_N = category.places()[category.lookup(table[category.name], self.unseen, missing)]
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

    @property
    def _absent(self) -> tuple[str, ...]:
        return (*self.missing, *self.markers)

    def _days(self, rows: Any, name: str, form: str) -> NDArray[np.float64]:
        return read_days(rows[name], name, form, self._absent)

    def _matrix(self, rows: Any, train: Integers | None = None) -> NDArray[np.float64]:
        """Return numbers and dates as numbers, with the rows of `train` alone if it is given; all rows are checked."""
        count, dates = len(rows) if train is None else len(train), self.dates
        out = np.empty((count, len(self.numbers) + sum(one.width for one in dates)), order="F")
        for i, name in enumerate(self.numbers):
            values_N = _read_numbers(rows[name], name, self._absent, name in self.commas)
            out[:, i] = values_N if train is None else values_N[train]
        start = len(self.numbers)
        for one in dates:
            days_N = self._days(rows, one.name, one.form)
            out[:, start : start + one.width] = one.values(days_N if train is None else days_N[train])
            start += one.width
        return out

    def to_json(self) -> dict[str, Any]:
        """Return the encoding as JSON values."""
        values = {name: list(getattr(self, name)) for name in (*_NAMES, "missing", "markers", "commas")}
        categories = [
            {**vars(category), "levels": list(category.levels), "kept": list(category.kept)}
            for category in self.categories
        ]
        return {
            **values,
            "unseen": self.unseen,
            "scaling": self.scaling.to_json(),
            "categories": categories,
            "dates": [vars(one) for one in self.dates],
            "csv": self.csv.model_dump() if self.csv else None,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Table:
        """Rebuild the encoding from `to_json`'s values; errors as in `Scaling.from_json`."""
        columns, ignored, numbers = (read_texts(values[name], name) for name in _NAMES)
        scaling = Scaling.from_json(values["scaling"])
        categories = tuple(map(Category.from_json, values["categories"]))
        dates = tuple(map(Dates.from_json, values.get("dates", [])))
        taken = [*numbers, *(one.name for one in (*categories, *dates))]
        width = len(numbers) + sum(one.width for one in dates)
        if len({*columns}) < len(columns) or sorted(taken) != sorted(columns) or width != len(scaling.means_F):
            raise ValueError(
                f"columns {shorten_value(columns)} are not those of numbers and categories, {shorten_value(taken)}"
            )
        if values["unseen"] not in ("error", "missing"):
            raise ValueError(f"unseen: `error` or `missing`, found {shorten_value(values['unseen'])}")
        # Older versions took these texts in a CSV file for missing values, whatever the column.
        missing = read_texts(values.get("missing", sorted(KNOWN_MISSING)), "missing")
        markers, commas = (read_texts(values.get(name, []), name) for name in ("markers", "commas"))
        csv = CsvSection.model_validate(values["csv"]) if values.get("csv") is not None else None
        return cls(
            columns, ignored, values["unseen"], numbers, scaling, categories, dates, missing, markers, commas, csv
        )


def _read_numbers(column: Any, name: str, missing: Sequence[str], comma: bool) -> NDArray[np.float64]:
    """Return a column as numbers, NaN where one is missing.

    Args:
        missing: texts that stand for a missing value, besides those that usually do.
        comma: see `distens.data.texts.parse_numbers`.

    Raises:
        DataError: a value is no finite number.
    """
    from pandas.api import types

    column = without_markers(column, missing)
    if types.is_timedelta64_dtype(column.dtype):
        return column.dt.total_seconds().to_numpy(dtype=np.float64)
    if types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype):
        values_N = column.to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = np.flatnonzero(np.abs(values_N) > LARGEST)
    elif (plain_N := _plain_numbers(column, comma)) is not None:
        values_N = plain_N.astype(np.float64)
        wrong = np.flatnonzero(np.abs(values_N) > LARGEST)
    else:
        # As text, since dates would be turned into numbers.
        column = column.astype(str) if types.is_datetime64_any_dtype(column.dtype) else column
        codes_N, uniques = levels.factorize(column, f"column {name!r}")
        values = [value.strip() if isinstance(value, str) else value for value in uniques]
        truth = read_truth(values) if all(isinstance(value, str) for value in values) else None
        values_U = np.append(parse_numbers(truth or values, comma).astype(np.float64), np.nan)
        absent_U = np.array([*(isinstance(v, str) and is_known_missing(v) for v in values), True], dtype=bool)
        values_N = values_U[codes_N]
        wrong = np.flatnonzero((np.isnan(values_U) & ~absent_U)[codes_N] | (np.abs(values_N) > LARGEST))
    if len(wrong):
        found = column.iloc[wrong[0]]
        text = repr(found) if isinstance(found, str) else str(found)
        known = f"; among numbers, the model takes {levels.shortened(missing)} for missing" if missing else ""
        raise DataError(f"column {name!r}, row {wrong[0]} (from 0): expected a finite number, found {text}{known}")
    return values_N


def _plain_numbers(column: Any, comma: bool) -> NDArray[Any] | None:
    """Return the numbers of a column of texts that are all plain or stand for nothing, else None."""
    plain = read_plain(column, comma) if is_text(column) else None
    if plain is None:
        return None
    values_N, plain_N = plain
    others = column[~plain_N].dropna().unique()
    return values_N if all(is_known_missing(text.strip()) for text in others) else None
