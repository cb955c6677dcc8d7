"""A column of texts: numbers, truth values or dates if that is what they say, else categories; or names of rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distens.config.sections import DataSection
from distens.data import dates
from distens.data.column import ReadColumn
from distens.data.texts import (
    KNOWN_MISSING,
    MAX_MARKED_SHARE,
    MAX_MARKERS,
    Numbers,
    find_strays,
    is_code,
    parse_numbers,
    read_numbers,
    read_plain,
    read_truth,
)
from distens.errors import DataError
from distens.records import Integers
from distens.targets._levels import shortened

MAX_MIXED = 64
"""With more different numbers or dates than that, texts that look like such are no categories."""

MAX_GAPS = 100
"""With more different texts than that among plain numbers, they are looked at all together."""

MIN_CODES_SHARE = 0.05
"""The least share of rows whose digits begin with a zero, in a column of codes."""

MIN_NAMES, MIN_NAMES_SHARE = 20, 0.9
"""A column of texts with so many different ones, in so large a share of its rows, only names the rows."""

_WITH_SIGN = re.compile(
    r"[+-]?\s?[€$£¥]\s?[+-]?\d[\d.,]*|[+-]?\d[\d.,]*\s?[%‰€$£¥]"
    r"|\([€$£¥]?\d[\d.,]*\)|[−–]\s?\d[\d.,]*"  # of accounts, and with a minus or dash for a hyphen
    r"|[+-]?\d{1,3}(?:[ '’\u00a0\u202f]\d{3})+(?:[.,]\d+)?"
)
_WITH_UNIT = re.compile(r"[+-]?\d[\d.,]*\s?([^\W\d_]{1,5}|°[CF]?)")
_LIKE_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?")


def read_text_column(series: Any, name: str, section: DataSection) -> tuple[Any, ReadColumn]:
    """Return the Series that a Series of texts stands for, and the column so read; errors as in `TextColumn.read`."""
    import pandas as pd

    plain = None if name in section.categorical else read_plain(series, says_comma(section))
    if plain is not None:
        values_N, plain_N = plain
        others = TextColumn.of(series, name, ~plain_N)
        made = pd.Series(values_N, index=series.index, name=series.name)
        read = others.read_gaps(made, int(plain_N.sum()), section)
        if read is not None:
            return read
    return TextColumn.of(series, name).read(section)


def says_comma(section: DataSection) -> bool:
    """Return True if the config says that a comma comes before a number's fraction."""
    return section.csv is not None and section.csv.decimal == ","


@dataclass(frozen=True, eq=False)
class TextColumn:
    """A column of texts.

    Attributes:
        series: the pandas Series.
        texts: its different texts, without blanks around them.
        codes_N: each row's place among them, -1 where it has none.
        counts_U: the number of rows of each.
    """

    name: str
    series: Any
    texts: list[str]
    codes_N: Integers
    counts_U: Integers

    @classmethod
    def of(cls, series: Any, name: str, chosen_N: NDArray[np.bool_] | None = None) -> TextColumn:
        """Return the column of a pandas Series for which `is_text` holds; of chosen rows alone, if any are given."""
        import pandas as pd

        if chosen_N is None:
            codes_N, uniques = pd.factorize(series)
        else:
            codes_N, uniques = np.full(len(series), -1), []
            if chosen_N.any():
                codes_N[chosen_N], uniques = pd.factorize(series[chosen_N])
        texts = [text.strip() for text in np.asarray(uniques, dtype=object).tolist()]
        if len(set(texts)) < len(texts):
            place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
            codes_N = np.array([*(place[text] for text in texts), -1])[codes_N]
            texts = list(place)
        return cls(name, series, texts, codes_N, np.bincount(codes_N[codes_N >= 0], minlength=len(texts)))

    def read(self, section: DataSection) -> tuple[Any, ReadColumn]:
        """Return the Series that the texts stand for, and what is said of it.

        Raises:
            DataError: what the texts are is not clear; the message has the option that says it.
        """
        numeric = self.name in section.numeric
        if self.name in section.categorical:
            return self._categories(named=True)
        truth = read_truth(self.texts, gaps=True)
        if truth is not None:
            made, role = self.mapped(truth), "number" if numeric else "category"
            marked = [one is None and bool(text) for one, text in zip(truth, self.texts, strict=True)]
            markers, notes = self._markers(np.array(marked, dtype=bool))
            missing, distinct = int(made.isna().sum()), int(made.nunique())
            return made, ReadColumn(self.name, role, "bool", missing, distinct, markers, "; ".join(notes))
        found = self.numbers(section)
        numbers = self._rows(~np.isnan(found.values_U))
        coded = not numeric and self.are_codes(numbers)
        if (numbers and not coded and self.are_few(found.strays_U, numbers)) or not any(self.texts):
            return self._numbers(found, self.mapped_numbers(found.values_U))
        if numeric:  # the encoding refuses it
            return self.series, ReadColumn(self.name, "number", "text", int(self.series.isna().sum()), len(self.texts))
        if coded and not found.strays_U.any():
            note = f"digits with zeros in front, such as {next(filter(is_code, self.texts))!r}, are kept as codes"
            return self._categories(f"{note}; `data.numeric: [{self.name}]` reads numbers")
        if numbers:
            return self._categories(self._note_on_mixture(found, numbers))
        return self._dates() or self._categories(self._note_on_looks())

    def read_gaps(self, made: Any, plain: int, section: DataSection) -> tuple[Any, ReadColumn] | None:
        """Return the Series of plain numbers among which all texts of this column stand for nothing, else None.

        Args:
            made: the numbers, NaN where there is none.
            plain: the number of rows that have one.
        """
        if len(self.texts) > MAX_GAPS or any("," in text for text in self.texts):
            return None
        found = self.numbers(section)
        coded = self.name not in section.numeric and self.are_codes(plain)
        if coded or not np.isnan(found.values_U).all() or not self.are_few(found.strays_U, plain):
            return None
        return self._numbers(found, made)

    def numbers(self, section: DataSection) -> Numbers:
        """Return the texts as numbers, as far as they are any."""
        return read_numbers(self.texts, section.csv.decimal if section.csv else None)

    def first_row(self, place: int) -> int:
        """Return the first row that has a text."""
        return int(np.flatnonzero(self.codes_N == place)[0])

    def mapped(self, values_U: Sequence[Any]) -> Any:
        """Return the Series that has an object or a truth value (None: missing) for each text."""
        import pandas as pd

        values = np.array([*values_U, None], dtype=object)[self.codes_N]
        whole = all(type(value) is bool for value in values_U) and not (self.codes_N < 0).any()
        return pd.Series(values.astype(bool) if whole else values, index=self.series.index, name=self.series.name)

    def mapped_numbers(self, values_U: NDArray[Any]) -> Any:
        """Return the Series that has a number for each text."""
        import pandas as pd

        if (self.codes_N < 0).any():
            values_U = np.append(values_U.astype(np.float64), np.nan)
        return pd.Series(values_U[self.codes_N], index=self.series.index, name=self.series.name)

    def are_few(self, strays_U: NDArray[np.bool_], others: int) -> bool:
        """Return True if so few texts are unlike the others, in so few rows, that they can only stand for nothing."""
        rows = self._rows(strays_U)
        return not rows or (int(strays_U.sum()) <= MAX_MARKERS and rows < MAX_MARKED_SHARE * (rows + others))

    def are_codes(self, numbers: int) -> bool:
        """Return True if numbers, in that many rows, are digits with zeros in front."""
        coded = [text[:1] == "0" and is_code(text) for text in self.texts]
        return self._rows(np.array(coded, dtype=bool)) > MIN_CODES_SHARE * numbers

    def _rows(self, chosen_U: NDArray[np.bool_]) -> int:
        return int(self.counts_U[chosen_U].sum())

    def _markers(self, marked_U: NDArray[np.bool_]) -> tuple[dict[str, int], list[str]]:
        """Return text -> number of rows of those that are taken for missing values, and what is said of them."""
        places = np.flatnonzero(marked_U).tolist()
        markers = {self.texts[i]: int(self.counts_U[i]) for i in places}
        if not markers:
            return {}, []
        shown = ", ".join(f"{text!r} in {count:,} rows" for text, count in list(markers.items())[:10])
        first = min(map(self.first_row, places))
        return markers, [f"{shown} (the first is row {first}, from 0) read as missing"]

    def _numbers(self, found: Numbers, made: Any) -> tuple[Any, ReadColumn]:
        markers, notes = self._markers(found.markers_U)
        comma = next((text for text in self.texts if "," in text), None) if found.comma else None
        if comma is not None:
            notes.append(f"{comma!r} read with a decimal comma")
        if found.grouped is not None:
            row, number = self.first_row(self.texts.index(found.grouped)), parse_numbers([found.grouped])[0]
            notes.append(
                f"{found.grouped!r} (row {row}, from 0) read as {number:g}; `data.csv: {{decimal: ','}}` reads a comma"
            )
        ascending = np.sort(made.dropna().to_numpy())  # faster than what counts distinct values
        missing, distinct = len(made) - len(ascending), len(np.flatnonzero(ascending[1:] != ascending[:-1]))
        note, distinct = "; ".join(notes), distinct + bool(len(ascending))
        return made, ReadColumn(
            self.name, "number", str(made.dtype), missing, distinct, markers, note, comma=found.comma
        )

    def _categories(self, note: str = "", named: bool = False) -> tuple[Any, ReadColumn]:
        known = [text for text in self.texts if text]
        present = self._rows(np.array([bool(text) for text in self.texts], dtype=bool))
        role = "category"
        if not named and len(known) >= MIN_NAMES and len(known) > MIN_NAMES_SHARE * present:
            role = "left out"
            note = f"nearly every row has a text of its own; `data.categorical: [{self.name}]` keeps the column"
        absent = [text for text in known if text in KNOWN_MISSING]
        if absent and not note:
            note = f"{shortened(absent)} is a category; `data.missing: [{absent[0]}]` reads it as missing"
        made = self.mapped([text or None for text in self.texts])
        return made, ReadColumn(self.name, role, "text", len(self.series) - present, len(known), note=note)

    def _note_on_mixture(self, found: Numbers, numbers: int) -> str:
        """Return the note on numbers and other texts that are categories together.

        Raises:
            DataError: there are too many different numbers for that.
        """
        number_U = ~np.isnan(found.values_U)
        places = np.flatnonzero(found.strays_U).tolist()
        if not places:
            return ""
        rows, strays = self._rows(found.strays_U), [self.texts[i] for i in places]
        alike = sum(bool(_WITH_SIGN.fullmatch(text)) for text in strays) > len(strays) / 2
        if (numbers >= rows or alike) and number_U.sum() + alike * len(strays) > MAX_MIXED:
            raise DataError(
                f"column {self.name!r}: numbers in {numbers:,} rows, and other texts in {rows:,}: "
                f"{shortened(strays, 5)}; row {self.first_row(places[0])} (from 0) has {strays[0]!r}. Say what they "
                f"are: `data.missing: [{strays[0]!r}, …]` (missing values), `data.categorical: [{self.name}]` (texts, "
                f"like the numbers), or `data.drop: [{self.name}]`"
            )
        return f"numbers and other texts ({strays[0]!r}), read as categories; `data.missing` names what is missing"

    def _note_on_looks(self) -> str:
        """Return the note on categories that look like numbers with a sign or a unit, or like dates of several forms.

        Raises:
            DataError: there are too many different ones to be categories.
        """
        units = Counter(found[1] for text in self.texts if (found := _WITH_UNIT.fullmatch(text)))
        unit = max(units, key=units.__getitem__, default=None)
        for looks, what in (
            (_WITH_SIGN.fullmatch, "a number in a form that is not read"),
            (
                lambda text: (found := _WITH_UNIT.fullmatch(text)) and found[1] == unit,
                f"a number with the unit {unit!r}",
            ),
            (_LIKE_DATE.fullmatch, "a date, of no form that all have"),
        ):
            places = [i for i, text in enumerate(self.texts) if looks(text)]
            if len(places) <= len(self.texts) / 2:
                continue
            said = f"row {self.first_row(places[0])} (from 0) has {self.texts[places[0]]!r}, {what}"
            if len(places) > MAX_MIXED:
                raise DataError(
                    f"column {self.name!r}, {said}. Save it as numbers, or as dates like 2024-12-31; or else say "
                    f"`data.categorical: [{self.name}]`, `data.drop: [{self.name}]`"
                )
            return f"{said}, read as categories"
        return ""

    def _dates(self) -> tuple[Any, ReadColumn] | None:
        """Return the Series and what is said of it if the texts are dates, else None.

        Raises:
            DataError: they can be read in two ways that differ.
        """
        readings: dict[bytes, tuple[str, NDArray[np.float64]]] = {}
        for form in dates.find_forms(self.texts):
            days_U = dates.parse_dates(self.texts, form)
            gone_U = np.isnan(days_U)
            if self.are_few(find_strays(self.texts, gone_U), self._rows(~gone_U)):
                readings.setdefault(days_U.tobytes(), (form, days_U))
        if not readings:
            return None
        (form, days_U), *others = readings.values()
        for other, other_U in others:
            i = int(np.flatnonzero((days_U != other_U) & ~(np.isnan(days_U) & np.isnan(other_U)))[0])
            raise DataError(
                f"column {self.name!r}, row {self.first_row(i)} (from 0): the date {self.texts[i]!r} can be read as "
                f'{form} and as {other}; say which: `data.dates: {{{self.name}: "{form}"}}`'
            )
        absent_U = np.isnan(days_U)
        markers, notes = self._markers(absent_U & np.array([bool(text) for text in self.texts], dtype=bool))
        if form not in (dates.ISO, dates.TIME):
            notes.insert(0, f"texts of the form {form}")
        made = self.mapped([None if gone else text for text, gone in zip(self.texts, absent_U, strict=True)])
        missing, distinct = int(made.isna().sum()), len(np.unique(days_U[~absent_U]))
        return made, ReadColumn(self.name, "date", "text", missing, distinct, markers, "; ".join(notes), form)
