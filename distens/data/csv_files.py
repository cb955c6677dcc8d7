"""CSV files as tables of text: dialect and encoding are found out, and what is not clear is refused with the option."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from distens.config.sections import CsvSection
from distens.data.csv_rows import SEPARATORS, read_rows, reader
from distens.data.files import Location
from distens.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MAX_COMMENT_LINES = 1000
"""The most lines of comment before the header."""

SAMPLE_LINES, SAMPLE_CHARACTERS = 20, 1 << 18
"""How much of a file is looked at to find its separator."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_csv(location: Location, dialect: CsvSection | None = None) -> pd.DataFrame:
    """Return a table with a header as text; a value that is not there is empty text.

    Blank lines, lines of comment (`# …`) and Excel's line `sep=;` are skipped, and columns without name or value at
    the end of all lines, which come of a separator at the end, are left out.

    Args:
        dialect: what the config says about the file; what it leaves out is found out.

    Raises:
        DataError: the file is not text in a known encoding or no table, a column has no name or another's name, or a
            row is longer or shorter than the header. The message has the line.
    """
    dialect, where = dialect or CsvSection(), location.address  # pyright: ignore[reportCallIssue]
    text = _decode(location.content(), dialect.encoding, where)
    start, said = _find_header(text)
    separator = dialect.separator or said or _find_separator(text, start)
    try:
        before = text.count("\n", 0, start) or text.count("\r", 0, start)
        return read_rows(text[start:], separator, where, before)
    except csv.Error as error:
        raise DataError(f"{where}: not a comma-separated table with a header: {error}") from error


def _decode(content: bytes, encoding: str | None, where: str) -> str:
    """Return a file's text: by its mark, else as UTF-8 or UTF-16 if it can be that, else by the option."""
    for mark, name in _MARKS:
        if content.startswith(mark):
            try:
                return content.decode(name).removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not a comma-separated table: it begins as {name}: {error}") from error
    try:
        text = content.decode("utf-8")
        if "\0" not in text:
            return text
    except UnicodeDecodeError as error:
        wrong, at = error, error.start
    else:
        wrong, at = None, text.index("\0")
    for name in (encoding, *_wide(content)):
        if name is None:
            continue
        try:
            decoded = content.decode(name).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not text in {name}, which data.csv.encoding says: {error}") from error
        if "\0" not in decoded:
            return decoded
    line = content.count(b"\n", 0, at) + 1
    if wrong is None or b"\0" in content or sum(byte < 32 for byte in content[:4096].translate(None, b"\t\r\n\f")) > 8:
        raise DataError(
            f"{where}: not a comma-separated table with a header: not text (line {line}); is it another format?"
        )
    near = content[max(0, content.rfind(b"\n", 0, at) + 1, at - 20) : at + 20].partition(b"\n")[0]
    raise DataError(
        f"{where}: not a comma-separated table in UTF-8: line {line} has the byte {content[at]:#04x}; in cp1252 "
        f"(Western Windows) it reads {near.decode('cp1252', 'replace').strip()!r}. `data.csv: {{encoding: cp1252}}` "
        "reads it, or the name of another encoding"
    )


def _wide(content: bytes) -> Iterator[str]:
    """Yield UTF-16 without a mark, if every second byte of the beginning is zero, as it is in Western text."""
    head = content[:2000]
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if (
            len(content) % 2 == 0
            and head[first::2].count(0) > 0.7 * len(head) / 2
            and not head[1 - first :: 2].count(0)
        ):
            yield name


def _find_header(text: str) -> tuple[int, str | None]:
    """Return the place at which the header's line begins, and the separator if a line `sep=;` names it."""
    start, said = 0, None
    for _ in range(MAX_COMMENT_LINES):
        end = _end_of_line(text, start)
        line = text[start : min(end, start + SAMPLE_CHARACTERS)]
        bare = line.strip().strip('"')
        if bare[:4].lower() == "sep=" and len(bare.rstrip(",;")) <= 5 and said is None:
            said = bare[4:5] or "\t"
        elif line.strip(" \t,;|") and not (line.startswith("#") and _is_comment(line, text, end)):
            break
        if end >= len(text):
            return len(text), said
        start = end + (2 if text[end : end + 2] == "\r\n" else 1)
    return start, said


def _end_of_line(text: str, start: int) -> int:
    ends = [end for end in (text.find("\n", start), text.find("\r", start)) if end >= 0]
    return min(ends, default=len(text))


def _is_comment(line: str, text: str, end: int) -> bool:
    """Return True if a line that begins with `#` has not as many values as the next: `#id,name` may be a header."""
    following = text[end : end + SAMPLE_CHARACTERS].lstrip("\r\n").splitlines()[:1]
    if not following or following[0].startswith("#"):
        return True
    return all(line.count(one) != following[0].count(one) or not line.count(one) for one in SEPARATORS)


def _find_separator(text: str, start: int) -> str:
    """Return the separator that gives each of the first lines the same number of values, and the most of them."""
    sample = text[start : start + SAMPLE_CHARACTERS]
    lines = [line for line in io.StringIO(sample, newline=None) if line.strip() and not line.startswith("#")]
    if len(text) > start + SAMPLE_CHARACTERS and len(lines) > 1:
        lines.pop()  # it may be cut off
    best, most = ",", 1
    for separator in SEPARATORS:
        try:
            counts = [len(row) for row in reader(lines[:SAMPLE_LINES], separator, strict=False)]
        except csv.Error:
            continue
        if counts and counts[0] > most and len({*counts}) == 1:
            best, most = separator, counts[0]
    if most == 1 and lines and "," not in lines[0]:
        best = max(SEPARATORS, key=lines[0].count)  # rows of other lengths are refused by their line
    return best
