"""Rows of CSV text: read by a fast parser where that makes no difference, else by Python's, which knows each line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as _compute
from pyarrow import csv as arrow_csv

from distens.data.files import check_names
from distens.errors import DataError, shorten_value

pc: Any = _compute  # its functions are made at runtime

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = (",", ";", "\t", "|")
"""The separators that are found out; of equals the first."""

ROWS_AT_ONCE = 1 << 14
BYTES_AT_ONCE = 1 << 24
"""How much is parsed at once. A table of many columns has few rows in that, and each part of a column costs memory."""


def reader(lines: Iterable[str], separator: str, strict: bool = True) -> Iterator[list[str]]:
    """Return the rows of lines as Python reads them: blanks before a value are left out."""
    return csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=strict)


def read_rows(text: str, separator: str, where: str, before: int) -> pd.DataFrame:
    """Return a table of texts.

    Args:
        text: the header's line and all that follows.
        before: the number of lines before the header; for messages.

    Raises:
        DataError, csv.Error: see `distens.data.csv_files.read_csv`.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    rows = reader(_lines(text), separator)
    header = [name.strip() for name in next(rows, [])]
    while header and not header[-1]:
        header.pop()
    check_names(header, where)
    end = 0
    for _ in range(rows.line_num):  # pyright: ignore[reportAttributeAccessIssue]
        end = _end_of_line(text, end)
    columns = _read_fast(text[end:], header, separator) or _read_each(rows, header, separator, where, before)
    return pa.table(dict(zip(header, columns, strict=True))).to_pandas()


def _end_of_line(text: str, start: int) -> int:
    return text.find("\n", start) + 1 or len(text)


def _lines(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = _end_of_line(text, start)
        yield text[start:end]
        start = end


def _is_skipped(row: Sequence[str], header: Sequence[str]) -> bool:
    """Return True for a blank line, or a comment."""
    return len(row) < len(header) and (not any(value.strip() for value in row) or row[0].startswith("#"))


def _read_each(
    rows: Iterator[list[str]], header: Sequence[str], separator: str, where: str, before: int
) -> list[pa.ChunkedArray]:
    columns: list[list[pa.Array]] = [[] for _ in header]
    some: list[list[str]] = []
    for row in rows:
        if len(row) != len(header):
            if _is_skipped(row, header):
                continue
            if len(row) < len(header) or any(value.strip() for value in row[len(header) :]):
                _refuse_row(row, header, separator, before + rows.line_num, where)  # pyright: ignore
        some.append(row)
        if len(some) == ROWS_AT_ONCE:
            _keep(some, columns)
            some = []
    _keep(some, columns)
    return [pa.chunked_array(parts, pa.large_string()) for parts in columns]


def _keep(rows: Sequence[Sequence[str]], columns: list[list[pa.Array]]) -> None:
    for parts, values in zip(columns, zip(*rows, strict=False), strict=False):
        parts.append(pa.array(values, pa.large_string()))


def _refuse_row(row: Sequence[str], header: Sequence[str], separator: str, line: int, where: str) -> None:
    hint = "" if len(header) > 1 else ". `data.csv: {separator: …}` says what is between values"
    raise DataError(
        f"{where}: not a comma-separated table with a header: line {line} has {len(row)} values and the header "
        f"{len(header)} (between them: {separator!r}): {shorten_value(separator.join(row)[:60])}{hint}"
    )


def _read_fast(text: str, header: Sequence[str], separator: str) -> list[pa.ChunkedArray] | None:
    """Return the columns as `_read_each` would; None where it might find others, or an error."""
    if separator not in SEPARATORS or "\0" in text or "\ufeff" in text:
        return None
    begin_blank = text.startswith(" ") or "\n " in text or f"{separator} " in text
    try:
        content = text.encode()
        first = next((row for row in reader(_lines(text), separator) if not _is_skipped(row, header)), [])
    except (UnicodeEncodeError, csv.Error):
        return None
    quoted = '"' in text
    if len(first) < len(header) or (quoted and not _is_well_quoted(content, separator, begin_blank)):
        return None

    def handle(row: arrow_csv.InvalidRow) -> str:
        """Return what is done with a row of another length than the first."""
        try:
            return "skip" if _is_skipped(next(reader([row.text], separator)), header) else "error"
        except csv.Error:
            return "error"

    names = list(map(str, range(len(first))))
    try:
        table = arrow_csv.read_csv(
            pa.py_buffer(content),
            arrow_csv.ReadOptions(use_threads=False, block_size=BYTES_AT_ONCE, column_names=names),
            arrow_csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                invalid_row_handler=handle,
            ),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),
        )
    except pa.ArrowInvalid:
        return None
    lengths = [pc.max(pc.binary_length(column)).as_py() or 0 for column in table.columns]
    if max(lengths) > csv.field_size_limit():
        return None
    columns = table.columns
    if begin_blank and not quoted:
        columns = [pc.utf8_ltrim(column, " ") for column in columns]
    if any(pc.max(pc.binary_length(column)).as_py() for column in columns[len(header) :]):
        return None
    return columns[: len(header)]


def _is_well_quoted(content: bytes, separator: str, begin_blank: bool) -> bool:
    """Return True if quotes stand at both ends of values, or in pairs within them, and no blank before a value."""
    content_B = np.frombuffer(b"\n%b\n" % content, np.uint8)
    places = np.flatnonzero(content_B == ord('"'))
    ends = np.array([ord(separator), ord("\n")], np.uint8)
    around = np.append(ends, np.uint8(ord('"')))
    if len(places) % 2 or not np.isin(content_B[places[::2] - 1], around).all():
        return False
    if not np.isin(content_B[places[1::2] + 1], around).all():
        return False
    if not begin_blank:
        return True
    blanks = np.flatnonzero(content_B == ord(" "))
    blanks = blanks[np.isin(content_B[blanks - 1], ends)]
    return bool((np.searchsorted(places, blanks) % 2).all())  # all within quotes
