"""Dates and times of day as numbers: days since 1970 in UTC, and the parts that repeat."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distens.data.texts import find_strays, is_known_missing, is_text
from distens.errors import DataError, shorten_value

ISO = "ISO8601"
TIME = "time"
"""The forms of dates as standards write them, and of times of day. Any other form is one of `strftime`."""

_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?( ?(Z|[+-]\d\d(:?\d\d)?))?)?")
_TIMES = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f")
_DAYS = (
    *(
        "%Y-%m-%d",
        "%Y.%m.%d",
        "%Y/%m/%d",
        "%d/%m/%Y",
        "%m/%d/%Y",
        "%d.%m.%Y",
        "%d-%m-%Y",
        "%m-%d-%Y",
        "%d/%m/%y",
        "%m/%d/%y",
        "%d.%m.%y",
    ),
    *("%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d %Y", "%B %d %Y", "%b %d, %Y", "%B %d, %Y"),
    *("%d. %B %Y", "%a, %d %b %Y", "%a %b %d %Y", "%A, %B %d, %Y"),
)
_HOURS = ("", *(f" {hours}" for hours in (*_TIMES, "%I:%M %p", "%I:%M:%S %p")))
SAMPLE = 20
"""The number of texts that decide which forms are tried on all."""


def find_forms(texts: Sequence[str]) -> list[str]:
    """Return the forms of dates in which each of a few texts can be read; none if they are no dates."""
    sample = [*islice((text for text in texts if text and not is_known_missing(text)), SAMPLE)]
    if not sample or not all(re.search(r"\d[-/.: ]\w|[A-Za-z]{3} \d", text) and len(text) < 40 for text in sample):
        return []
    if all(map(_ISO.fullmatch, sample)):
        return [ISO]
    if all(any(_fits(text, form) for form in _TIMES) for text in sample):
        return [TIME]
    forms = (day + hours for day in _DAYS for hours in _HOURS)
    return [form for form in forms if all(_fits(text, form) for text in sample)]


def _fits(text: str, form: str) -> bool:
    try:
        datetime.datetime.strptime(text, form)
    except ValueError:
        return False
    return True


def parse_dates(texts: Sequence[str], form: str) -> NDArray[np.float64]:
    """Return days since 1970 in UTC (of a time of day: since midnight), NaN where a text does not have the form.

    Raises:
        DataError: the form is not one of `strftime`.
    """
    import pandas as pd

    given = pd.Series(texts, dtype=object)
    days_N = np.full(len(given), np.nan)
    for one in _TIMES if form == TIME else (form,):
        left = np.flatnonzero(np.isnan(days_N))
        try:
            days_N[left] = _days(pd.to_datetime(given.iloc[left], format=one, errors="coerce", utc=True))
        except ValueError as error:
            raise DataError(f"data.dates: {one!r} is no form of dates as strftime writes them: {error}") from error
    return days_N - np.floor(days_N) if form == TIME else days_N


def _days(moments: Any) -> NDArray[np.float64]:
    """Return a column of datetime64, in any unit and zone, as days since 1970 in UTC."""
    if moments.dt.tz is not None:
        moments = moments.dt.tz_convert("UTC").dt.tz_localize(None)
    values_N = moments.to_numpy().astype("datetime64[us]")  # one unit, so that every file gives the same bits
    return np.where(np.isnat(values_N), np.nan, values_N.astype(np.int64) / 86_400e6)


def is_date(column: Any) -> bool:
    """Return True if a pandas Series holds dates, moments or times of day, not as text."""
    from pandas.api import types

    if types.is_datetime64_any_dtype(column.dtype):
        return True
    return column.dtype == object and types.infer_dtype(column, skipna=True) in ("date", "datetime", "time")


def form_of(column: Any) -> str:
    """Return the form of a column for which `is_date` holds."""
    from pandas.api import types

    return TIME if column.dtype == object and types.infer_dtype(column, skipna=True) == "time" else ISO


@dataclass(frozen=True)
class Dates:
    """A column of dates, encoded as days since 1970, year, month and weekday; a time of day as its hours.

    Attributes:
        form: the form of its texts; texts in ISO's form are read as well.
        hours: True if *train* has moments within a day: then the hour is a part too.
    """

    name: str
    form: str
    hours: bool

    @classmethod
    def fit(cls, name: str, form: str, days_N: NDArray[np.float64]) -> Dates:
        """Return the encoding of a column with these days in *train*."""
        return cls(name, form, form != TIME and bool((days_N % 1 > 0).any()))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Dates:
        """Rebuild the encoding from its fields; errors as in `Scaling.from_json`."""
        found = cls(**values)
        if (type(found.name), type(found.form), type(found.hours)) != (str, str, bool):
            raise ValueError(f"not a column of dates: {shorten_value(dict(values))}")
        return found

    @property
    def width(self) -> int:
        """Return the number of values of one date."""
        return 1 if self.form == TIME else 4 + self.hours

    def values(self, days_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the values of days as `read_days` returns them, (N, width); NaN where a date is missing."""
        if self.form == TIME:
            return days_N[:, None] * 24
        missing_N = np.isnan(days_N)
        whole = np.floor(np.where(missing_N, 0, days_N)).astype("datetime64[D]")
        years = whole.astype("datetime64[Y]")
        months = whole.astype("datetime64[M]")
        parts = [years.astype(int) + 1970, months.astype(int) % 12 + 1, (whole.astype(int) + 3) % 7]
        if self.hours:
            parts.append(np.floor(np.where(missing_N, 0, days_N) % 1 * 24 + 1e-9))
        return np.column_stack([days_N, *(np.where(missing_N, np.nan, part) for part in parts)])


def read_days(column: Any, name: str, form: str, missing: Sequence[str] = ()) -> NDArray[np.float64]:
    """Return a column's days since 1970 in UTC, NaN where a date is missing.

    Args:
        column: a pandas Series of texts, dates, moments or times of day.
        form: the form of texts; those in ISO's form are read as well.
        missing: texts that stand for a missing value, besides those that usually do.

    Raises:
        DataError: a value is no date.
    """
    import pandas as pd
    from pandas.api import types

    if types.is_datetime64_any_dtype(column.dtype):
        return _days(column)
    codes_N, uniques = pd.factorize(column)
    if is_text(column):
        texts = [text.strip() for text in np.asarray(uniques, dtype=object).tolist()]
        days_U = parse_dates(texts, form)
        left = np.flatnonzero(np.isnan(days_U))
        if form != TIME:
            days_U[left] = parse_dates([texts[i] for i in left], ISO)
        wrong_U = find_strays(texts, np.isnan(days_U), missing)
    else:
        days_U = np.array([_days_of(value) for value in uniques], dtype=np.float64)
        wrong_U = np.isnan(days_U)
    wrong = np.flatnonzero(np.append(wrong_U, False)[codes_N])
    if len(wrong):
        expected = {ISO: "as in 2024-12-31", TIME: "as in 23:59"}.get(form, f"of the form {form}")
        what = "a time of day" if form == TIME else "a date"
        raise DataError(
            f"column {name!r}, row {wrong[0]} (from 0): expected {what} {expected}, found "
            f"{shorten_value(column.iloc[wrong[0]])}"
        )
    return np.append(days_U, np.nan)[codes_N]


@cache
def _epoch(zone: bool) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc if zone else None)


def _days_of(value: Any) -> float:
    if isinstance(value, datetime.datetime) and value == value:  # NaT is one, and not equal to itself
        return (value - _epoch(value.tzinfo is not None)) / datetime.timedelta(days=1)
    if isinstance(value, datetime.time):
        return (value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6) / 86400
    return float(value.toordinal() - 719163) if type(value) is datetime.date else np.nan
