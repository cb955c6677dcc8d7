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
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    rows = reader(_lines(text), separator)
    header = [name.strip() for name in next(rows, [])]
    while header and not header[-1]:
        header.pop()
    check_names(header, where)
    end = 0
    for _ in range(rows.line_num):  # pyright: ignore[reportAttributeAccessIssue]
        end = _end_of_line(text, end)
    columns = read_fast(text, end, header, separator) or _read_each(rows, header, separator, where, before)
    pa.default_memory_pool().release_unused()  # what parsing took, which other allocators could not use again
    return pa.table(dict(zip(header, columns, strict=True))).to_pandas()


def _end_of_line(text: str, start: int) -> int:
    return text.find("\n", start) + 1 or len(text)


def _lines(text: str, start: int = 0) -> Iterator[str]:
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


def read_fast(text: str, start: int, header: Sequence[str], separator: str) -> list[pa.ChunkedArray] | None:
    """Return the columns as `_read_each` would; None where it might find others, or an error."""
    if separator not in SEPARATORS or "\0" in text or "\ufeff" in text:
        return None
    try:
        rows = reader(_lines(text, start), separator)
        width = next((len(row) for row in rows if not _is_skipped(row, header)), 0)
        content, begin = (text if text.endswith("\n") else text + "\n").encode(), len(text[:start].encode())
    except (UnicodeEncodeError, csv.Error):
        return None
    quoted, blanks = text.find('"', start) >= 0, _begin_blank(text, start, separator)
    if width < len(header) or (quoted and not _is_well_quoted(content, begin, separator, blanks)):
        return None
    names = list(map(str, range(width)))
    try:
        table = arrow_csv.read_csv(
            pa.py_buffer(content)[begin:],
            arrow_csv.ReadOptions(use_threads=False, block_size=max(1 << 20, 1024 * width), column_names=names),
            arrow_csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                invalid_row_handler=lambda row: _handle(row.text, header, separator),
            ),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),
        )
    except pa.ArrowInvalid:
        return None
    columns = [pc.utf8_ltrim(column, " ") if blanks and not quoted else column for column in table.columns]
    longest = [pc.max(pc.binary_length(column)).as_py() or 0 for column in columns]
    if max(longest) > csv.field_size_limit() or any(longest[len(header) :]):
        return None
    return columns[: len(header)]


def _begin_blank(text: str, start: int, separator: str) -> bool:
    """Return True if a value might have a blank in front."""
    return " " in text and any(text.find(f"{before} ", start - 1) >= 0 for before in ("\n", separator))


def _handle(line: str, header: Sequence[str], separator: str) -> str:
    """Return what is to be done with a row of another length than the first."""
    try:
        row = next(reader([line], separator))
    except csv.Error:
        return "error"
    return "skip" if _is_skipped(row, header) else "error"


def _is_well_quoted(content: bytes, begin: int, separator: str, begin_blank: bool) -> bool:
    """Return True if quotes stand at both ends of values, or in pairs within them, and no blank before a value."""
    content_B = np.frombuffer(content, np.uint8)[begin - 1 :]  # a line's end is first and last
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
