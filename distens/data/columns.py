"""What the columns of a table hold: numbers, dates, categories, or nothing to learn from; and each column so read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distens.config.sections import CsvSection, DataSection
from distens.data import dates
from distens.data.texts import (
    KNOWN_MISSING,
    MAX_MARKED_SHARE,
    MAX_MARKERS,
    is_code,
    is_text,
    parse_numbers,
    read_numbers,
    read_truth,
)
from distens.errors import DataError
from distens.records import Integers
from distens.targets._levels import name as name_of
from distens.targets._levels import shortened

MAX_MIXED = 64
"""With more different numbers than that, a column of numbers and other texts is no column of categories."""

MIN_CODES_SHARE = 0.05
"""The least share of rows whose digits begin with a zero, in a column of codes."""

MIN_NAMES, MIN_NAMES_SHARE = 20, 0.9
"""A column of texts with so many different ones, in so large a share of its rows, only names the rows."""


@dataclass(frozen=True)
class Column:
    """One column of a table, as it was read.

    Attributes:
        role: `number`, `date`, `category`, or `left out`.
        dtype: the type that it was read as.
        missing: the number of rows without a value.
        distinct: the number of different values.
        markers: text -> number of rows in which it was taken for a missing value.
        note: what the user should know of it, in words; mostly empty.
        form: of dates, see `distens.data.dates`.
        comma: True if texts are numbers with a comma before the fraction.
    """

    name: str
    role: str
    dtype: str
    missing: int
    distinct: int
    markers: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    form: str = ""
    comma: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what is said of the column, as JSON values."""
        said = {"column": self.name, "read as": self.dtype, "missing": self.missing, "distinct": self.distinct}
        more = {"markers": dict(self.markers), "note": self.note}
        return {**said, "treated as": self.role, **{name: value for name, value in more.items() if value}}

    @property
    def summary(self) -> str:
        """Return what is said of the column, in words."""
        counts = f"{self.role} ({self.dtype}), {self.missing:,} missing, {self.distinct:,} distinct"
        return f"{counts}; {self.note}" if self.note else counts


def read_columns(table: Any, section: DataSection) -> tuple[Any, tuple[Column, ...]]:
    """Return a table whose texts are numbers, truth values and dates where that is what they say, and its columns.

    The same values give the same table, whatever file they come from. Reading a table twice changes nothing.

    Args:
        table: a pandas DataFrame without the target and the columns to drop.

    Raises:
        DataError: a column can be read in several ways that differ; the message has the option that decides.
    """
    read = {name: _read_column(table[name], str(name), section) for name in table.columns}
    if any(column.comma for _, column in read.values()) and (section.csv is None or section.csv.decimal is None):
        # Where one column has commas before fractions, `1,234` in another is no thousand.
        said = (section.csv or CsvSection()).model_copy(update={"decimal": ","})  # pyright: ignore[reportCallIssue]
        decided = section.model_copy(update={"csv": said})
        read = {name: _read_column(table[name], str(name), decided) for name in table.columns}
    if all(series is table[name] or series.equals(table[name]) for name, (series, _) in read.items()):
        return table, tuple(column for _, column in read.values())
    import pandas as pd

    made = pd.DataFrame({name: series for name, (series, _) in read.items()}, index=table.index, copy=False)
    return made, tuple(column for _, column in read.values())


def read_target(column: Any, where: str, section: DataSection) -> Any:
    """Return the column of the target, whose texts are numbers or truth values if all of them are.

    Raises:
        DataError: texts among numbers stand for missing values.
    """
    column = without_markers(column, section.missing)
    if not is_text(column):
        return column
    texts, codes_N = _distinct(column)
    truth = read_truth(texts)
    if truth is not None:
        return _mapped(column, codes_N, truth)
    found = read_numbers(texts, section.csv.decimal if section.csv else None)
    counts_U = np.bincount(codes_N[codes_N >= 0], minlength=len(texts))
    numbers = int(counts_U[~np.isnan(found.values_U)].sum())
    coded = _are_codes(texts, counts_U, numbers)
    if not numbers or coded or section.target in section.categorical or not _few(found.strays_U, counts_U, numbers):
        return _mapped(column, codes_N, [text or None for text in texts])
    if found.markers_U.any():
        i = int(np.flatnonzero(found.markers_U)[0])
        row = int(np.flatnonzero(codes_N == i)[0])
        raise DataError(
            f"{where}: {texts[i]!r} stands among numbers, in {counts_U[i]} rows (the first is {row}, from 0), and "
            f"would be a missing target. Leave these rows out, or keep it as a class: "
            f"`data.categorical: [{section.target}]`"
        )
    return _mapped_numbers(column, codes_N, found.values_U)


def without_markers(column: Any, markers: Sequence[str]) -> Any:
    """Return a column in which the user's markers are missing values, as text and as numbers."""
    import pandas as pd
    from pandas.api import types

    if not markers:
        return column
    if types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype):
        numbers = parse_numbers(list(markers))
        return column.mask(column.isin(numbers[~np.isnan(numbers)].tolist()))
    if column.dtype == object or isinstance(column.dtype, pd.StringDtype | pd.CategoricalDtype):
        codes_N, uniques = pd.factorize(column)
        texts = (str(value).strip() for value in uniques)  # `-999.0` is `-999`
        marked_U = np.array([*(text in markers or name_of(text) in markers for text in texts), False], dtype=bool)
        return column.mask(marked_U[codes_N]) if marked_U.any() else column
    return column


def _read_column(given: Any, name: str, section: DataSection) -> tuple[Any, Column]:
    before = int(given.isna().sum())
    series = without_markers(given, section.missing)
    marked = int(series.isna().sum()) - before
    if name in section.categorical and not is_text(series):
        role = "category"
    elif name in section.dates or (dates.is_date(series) and name not in section.numeric):
        form = section.dates.get(name) or dates.form_of(series)
        return _read_dates(series, name, form, section)
    elif is_text(series):
        series, column = _read_text(series, name, section)
        return series, _with_marked(column, marked)
    else:
        number = name in section.numeric or _is_number(series)
        role = "number" if number else "category"
    distinct = _count_distinct(series, name)
    return series, _with_marked(Column(name, role, str(given.dtype), int(series.isna().sum()), distinct), marked)


def _with_marked(column: Column, marked: int) -> Column:
    if not marked:
        return column
    note = f"{marked:,} rows read as missing (data.missing)"
    return replace(column, note="; ".join(filter(None, [note, column.note])))


def _is_number(column: Any) -> bool:
    from pandas.api import types

    if column.dtype == object:
        return types.infer_dtype(column, skipna=True) in ("integer", "floating", "mixed-integer-float", "decimal")
    if types.is_timedelta64_dtype(column.dtype):
        return True
    return types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype)


def _count_distinct(column: Any, name: str) -> int:
    try:
        return int(column.nunique())
    except TypeError as error:
        raise DataError(f"column {name!r}: holds values that are neither numbers nor text: {error}") from error


def _distinct(column: Any) -> tuple[list[str], Integers]:
    """Return a column's different texts without blanks around them, and each row's place among them, -1 if missing."""
    import pandas as pd

    codes_N, uniques = pd.factorize(column)
    texts = [text.strip() for text in np.asarray(uniques, dtype=object).tolist()]
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    if len(place) == len(texts):
        return texts, codes_N
    return list(place), np.array([*(place[text] for text in texts), -1])[codes_N]


def _mapped(column: Any, codes_N: Integers, values_U: Sequence[Any]) -> Any:
    """Return a column of texts, or of truth values, by its codes."""
    import pandas as pd

    values = np.array([*values_U, None], dtype=object)[codes_N]
    if all(type(value) is bool for value in values_U) and not (codes_N < 0).any():
        return pd.Series(values.astype(bool), index=column.index, name=column.name)
    return pd.Series(values, index=column.index, name=column.name, dtype=object)


def _mapped_numbers(column: Any, codes_N: Integers, values_U: Any) -> Any:
    import pandas as pd

    if (codes_N < 0).any():
        values_U = np.append(values_U.astype(np.float64), np.nan)
    return pd.Series(values_U[codes_N], index=column.index, name=column.name)


def _few(strays_U: Any, counts_U: Integers, numbers: int) -> bool:
    """Return True if so few texts are no numbers that they can only stand for missing values."""
    rows = int(counts_U[strays_U].sum())
    return not rows or (int(strays_U.sum()) <= MAX_MARKERS and rows < MAX_MARKED_SHARE * (rows + numbers))


def _are_codes(texts: list[str], counts_U: Integers, numbers: int) -> bool:
    coded = sum(int(count) for text, count in zip(texts, counts_U, strict=True) if text[:1] == "0" and is_code(text))
    return coded > MIN_CODES_SHARE * numbers


def _read_text(series: Any, name: str, section: DataSection) -> tuple[Any, Column]:
    texts, codes_N = _distinct(series)
    counts_U = np.bincount(codes_N[codes_N >= 0], minlength=len(texts))
    if name in section.categorical:
        return _categories(series, name, texts, codes_N, counts_U, "", named=True)
    truth = read_truth(texts)
    if truth is not None:
        made, role = _mapped(series, codes_N, truth), "number" if name in section.numeric else "category"
        return made, Column(name, role, "bool", int(made.isna().sum()), int(made.nunique()))
    found = read_numbers(texts, section.csv.decimal if section.csv else None)
    numbers = int(counts_U[~np.isnan(found.values_U)].sum())
    coded = name not in section.numeric and _are_codes(texts, counts_U, numbers)
    if (numbers and not coded and _few(found.strays_U, counts_U, numbers)) or not any(texts):
        return _numbers(series, name, texts, codes_N, counts_U, found)
    if name in section.numeric:
        return series, Column(name, "number", "text", int(series.isna().sum()), len(texts))  # the encoding refuses it
    if coded and not found.strays_U.any():
        note = f"digits with zeros in front, such as {next(filter(is_code, texts))!r}, are kept as codes; "
        note += f"`data.numeric: [{name}]` reads numbers"
        return _categories(series, name, texts, codes_N, counts_U, note)
    if not numbers:
        read = _try_dates(series, name, texts, codes_N, counts_U)
        if read is not None:
            return read
    elif found.strays_U.any():
        _refuse_mixture(name, texts, codes_N, counts_U, found)
    return _categories(series, name, texts, codes_N, counts_U, _note_on_mixture(texts, found, numbers))


def _numbers(
    series: Any, name: str, texts: list[str], codes_N: Integers, counts_U: Integers, found: Any
) -> tuple[Any, Column]:
    made = _mapped_numbers(series, codes_N, found.values_U)
    markers = {texts[i]: int(counts_U[i]) for i in np.flatnonzero(found.markers_U).tolist()}
    notes = []
    if markers:
        first = int(np.flatnonzero(np.isin(codes_N, np.flatnonzero(found.markers_U)))[0])
        shown = ", ".join(f"{text!r} in {count:,} rows" for text, count in markers.items())
        notes.append(f"{shown} (the first is row {first}, from 0) read as missing")
    if found.comma and any("," in text for text in texts):
        text = next(text for text in texts if "," in text)
        notes.append(f"{text!r} read with a decimal comma")
    if found.grouped is not None:
        row = int(np.flatnonzero(codes_N == texts.index(found.grouped))[0])
        number = parse_numbers([found.grouped])[0]
        notes.append(
            f"{found.grouped!r} (row {row}, from 0) read as {number:g}; `data.csv: {{decimal: ','}}` reads a comma"
        )
    column = Column(
        name, "number", str(made.dtype), int(made.isna().sum()), int(made.nunique()), markers, "; ".join(notes)
    )
    return made, replace(column, comma=found.comma)


def _categories(
    series: Any,
    name: str,
    texts: list[str],
    codes_N: Integers,
    counts_U: Integers,
    note: str,
    named: bool = False,
) -> tuple[Any, Column]:
    import pandas as pd

    known = [text for text in texts if text]
    if len(known) == len(texts) and list(pd.unique(series.dropna())) == texts:
        made = series
    else:
        made = _mapped(series, codes_N, [text or None for text in texts])
    present = int(counts_U[[bool(text) for text in texts]].sum())
    role = "category"
    if not named and len(known) >= MIN_NAMES and len(known) > MIN_NAMES_SHARE * present:
        role = "left out"
        note = f"nearly every row has a text of its own; `data.categorical: [{name}]` keeps the column"
    absent = [text for text in known if text in KNOWN_MISSING]
    if absent and not note:
        note = f"{shortened(absent)} is a category; `data.missing: [{absent[0]}]` reads it as missing"
    return made, Column(name, role, "text", len(series) - present, len(known), note=note)


def _refuse_mixture(name: str, texts: list[str], codes_N: Integers, counts_U: Integers, found: Any) -> None:
    """Refuse a column that is mostly numbers, too many to be categories, and has too many other texts to be missing.

    Raises:
        DataError: it is one.
    """
    number_U = ~np.isnan(found.values_U)
    numbers, rows = int(counts_U[number_U].sum()), int(counts_U[found.strays_U].sum())
    if numbers < rows or number_U.sum() <= MAX_MIXED:
        return
    strays = [texts[i] for i in np.flatnonzero(found.strays_U).tolist()]
    row = int(np.flatnonzero(codes_N == texts.index(strays[0]))[0])
    raise DataError(
        f"column {name!r}: numbers in {numbers:,} rows, and other texts in {rows:,}: {shortened(strays, 5)}; row {row} "
        f"(from 0) has {strays[0]!r}. Say what they are: `data.missing: [{strays[0]!r}, …]` (missing values), "
        f"`data.categorical: [{name}]` (texts, like the numbers), or `data.drop: [{name}]`"
    )


def _note_on_mixture(texts: list[str], found: Any, numbers: int) -> str:
    if not numbers or not found.strays_U.any():
        return ""
    stray = texts[int(np.flatnonzero(found.strays_U)[0])]
    return f"numbers and other texts ({stray!r}), read as categories; `data.missing` names texts that stand for nothing"


def _try_dates(
    series: Any, name: str, texts: list[str], codes_N: Integers, counts_U: Integers
) -> tuple[Any, Column] | None:
    """Return a column of dates if that is what its texts are, else None.

    Raises:
        DataError: they can be read in two ways that differ.
    """
    readings = {}
    for form in dates.find_forms(texts):
        days_U = dates.parse_dates(texts, form)
        strays_U = np.isnan(days_U) & np.array([not (not t or dates.is_known_missing(t)) for t in texts])
        if _few(strays_U, counts_U, int(counts_U[~np.isnan(days_U)].sum())):
            readings.setdefault(days_U.tobytes(), (form, days_U))
    if not readings:
        return None
    (form, days_U), *others = readings.values()
    for other, other_U in others:
        i = int(np.flatnonzero((days_U != other_U) & ~(np.isnan(days_U) & np.isnan(other_U)))[0])
        row = int(np.flatnonzero(codes_N == i)[0])
        raise DataError(
            f"column {name!r}, row {row} (from 0): the date {texts[i]!r} can be read as {form} and as {other}; say "
            f'which: `data.dates: {{{name}: "{form}"}}`'
        )
    markers = {texts[i]: int(counts_U[i]) for i in np.flatnonzero(np.isnan(days_U)).tolist() if texts[i]}
    made = _mapped(series, codes_N, [None if np.isnan(days_U[i]) else text for i, text in enumerate(texts)])
    note = f"texts of the form {form}" if form not in (dates.ISO, dates.TIME) else ""
    if markers:
        note = "; ".join(filter(None, [note, f"{shortened(markers)} read as missing"]))
    distinct = len(np.unique(days_U[~np.isnan(days_U)]))
    return made, Column(name, "date", "text", int(made.isna().sum()), distinct, markers, note, form)


def _read_dates(series: Any, name: str, form: str, section: DataSection) -> tuple[Any, Column]:
    import pandas as pd

    dtype = str(series.dtype)
    if _is_number(series):  # 20241231, of the form "%Y%m%d"
        series = series.map(lambda value: str(int(value)), na_action="ignore").astype(object)
    days_N = dates.read_days(series, name, form, section.missing)
    if series.dtype == object and not is_text(series):  # dates and times of Python, which few others know
        dtype = "time" if form == dates.TIME else "date"
        if form == dates.TIME:
            series = series.map(lambda value: value.isoformat(), na_action="ignore")
        else:
            moments = np.where(np.isnan(days_N), np.iinfo(np.int64).min, days_N * 86_400e6).astype("datetime64[us]")
            series = pd.Series(moments, index=series.index, name=series.name)
    distinct = len(np.unique(days_N[~np.isnan(days_N)]))
    return series, Column(name, "date", dtype, int(np.isnan(days_N).sum()), distinct, form=form)
