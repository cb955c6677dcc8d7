"""What the columns of a table hold: numbers, dates, categories, or nothing to learn from; and each column so read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from distens.config.sections import CsvSection, DataSection
from distens.data import dates
from distens.data.column import ReadColumn
from distens.data.text_columns import TextColumn, read_text_column, says_comma
from distens.data.texts import is_text, parse_numbers, read_plain, read_truth
from distens.errors import DataError
from distens.targets._levels import name as name_of


def read_columns(table: Any, section: DataSection) -> tuple[Any, tuple[ReadColumn, ...]]:
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
    import pandas as pd

    column = without_markers(column, section.missing)
    if not is_text(column):
        return column
    plain = None if section.target in section.categorical else read_plain(column, says_comma(section))
    if plain is not None and plain[1].all():
        return pd.Series(plain[0], index=column.index, name=column.name)
    given = TextColumn.of(column, str(section.target))
    truth = read_truth(given.texts)
    if truth is not None:
        return given.mapped(truth)
    found = given.numbers(section)
    numbers = int(given.counts_U[~np.isnan(found.values_U)].sum())
    named = section.target in section.categorical or given.are_codes(numbers)
    if not numbers or named or not given.are_few(found.strays_U, numbers):
        return given.mapped([text or None for text in given.texts])
    if found.markers_U.any():
        i = int(np.flatnonzero(found.markers_U)[0])
        raise DataError(
            f"{where}: {given.texts[i]!r} stands among numbers, in {given.counts_U[i]} rows (the first is "
            f"{given.first_row(i)}, from 0), and would be a missing target. Leave these rows out"
            + (
                ""
                if section.task == "regression"
                else f", or keep it: `data.categorical: [{section.target}]` (classes)"
            )
        )
    return given.mapped_numbers(found.values_U)


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
        texts = (str(value).strip() for value in np.asarray(uniques, dtype=object).tolist())
        marked = (text in markers or (text.endswith("0") and name_of(text) in markers) for text in texts)
        marked_U = np.array([*marked, False], dtype=bool)  # `-999.0` is `-999`
        return column.mask(marked_U[codes_N]) if marked_U.any() else column
    return column


def _read_column(given: Any, name: str, section: DataSection) -> tuple[Any, ReadColumn]:
    from pandas.api import types

    series = without_markers(given, section.missing)
    marked = 0 if series is given else int(series.isna().sum()) - int(given.isna().sum())
    if name in section.categorical and not is_text(series):
        role = "category"
    elif name in section.dates or (dates.is_date(series) and name not in section.numeric):
        form = section.dates.get(name) or dates.form_of(series)
        return _read_dates(series, name, form, section)
    elif is_text(series):
        series, column = read_text_column(series, name, section)
        return series, _with_marked(column, marked)
    else:
        if types.is_timedelta64_dtype(series.dtype):
            series = series.dt.total_seconds()
        number = name in section.numeric or _is_number(series)
        role = "number" if number else "category"
    distinct = _count_distinct(series, name)
    return series, _with_marked(ReadColumn(name, role, str(given.dtype), int(series.isna().sum()), distinct), marked)


def _with_marked(column: ReadColumn, marked: int) -> ReadColumn:
    if not marked:
        return column
    note = f"{marked:,} rows read as missing (data.missing)"
    return replace(column, note="; ".join(filter(None, [note, column.note])))


def _is_number(column: Any) -> bool:
    from pandas.api import types

    if column.dtype == object:
        return types.infer_dtype(column, skipna=True) in ("integer", "floating", "mixed-integer-float", "decimal")
    return types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype)


def _count_distinct(column: Any, name: str) -> int:
    try:
        return int(column.nunique())
    except TypeError as error:
        raise DataError(f"column {name!r}: holds values that are neither numbers nor text: {error}") from error


def _read_dates(series: Any, name: str, form: str, section: DataSection) -> tuple[Any, ReadColumn]:
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
    return series, ReadColumn(name, "date", dtype, int(np.isnan(days_N).sum()), distinct, form=form)
