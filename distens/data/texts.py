"""Texts that stand for numbers, truth values, or nothing: one meaning for a text, whatever file it comes from."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as _compute
from numpy.typing import NDArray

pc: Any = _compute  # its functions are made at runtime

_LINE_END = pa.scalar("\n", pa.large_string())
_SAMPLE = 100

KNOWN_MISSING = frozenset(
    (
        *("", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NULL", "null", "None", "nan", "NaN", "-nan", "-NaN"),
        *("#N/A N/A", "1.#IND", "1.#QNAN", "-1.#IND", "-1.#QNAN"),
    )
)
"""Texts that programs write for a value that is not there. Among numbers and dates they are missing values; among
categories and classes only the empty text is, since `NA` may be Namibia."""

_USUAL = frozenset(
    (
        *("na", "n/a", "n.a.", "n.a", "n.d.", "null", "none", "nan", "nil", "unknown", "unk", "missing", "undefined"),
        *("void", "tbd", "not available", "not known", "no data", "no value"),
    )
)
_MARK = "-–—?.*_#!/\\~"
_MARKS = re.compile(rf"[{re.escape(_MARK)}]+|#[A-Z/0]+[!?]?")  # also Excel's errors: #DIV/0!, #REF!

MAX_MARKERS, MAX_MARKED_SHARE = 3, 0.05
"""Other texts are taken for missing values among numbers if there are so few different ones, in so small a share of the
rows; more of them need `data.missing`."""

_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)?,\d+(e[+-]?\d+)?", re.IGNORECASE)
_POINTS_IN_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
_CODE = re.compile(r"0\d+")
_LINE_END = pa.scalar("\n", pa.large_string())


def is_text(column: Any) -> bool:
    """Return True if a pandas Series holds texts alone, besides missing values."""
    import pandas as pd
    from pandas.api import types

    if isinstance(column.dtype, pd.StringDtype):
        return True
    return column.dtype == object and types.infer_dtype(column, skipna=True) == "string"


def is_known_missing(text: str) -> bool:
    """Return True for a text that stands for a missing value among numbers and dates."""
    return text in KNOWN_MISSING or text.lower() in _USUAL or (text[:1] in _MARK and bool(_MARKS.fullmatch(text)))


def are_known_missing(texts: Sequence[str], asked_U: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return True where a text is asked about and `is_known_missing`."""
    known_U = np.zeros(len(texts), dtype=bool)
    for i in np.flatnonzero(asked_U).tolist():
        known_U[i] = is_known_missing(texts[i])
    return known_U


def is_code(text: str) -> bool:
    """Return True for digits with a zero in front, such as `007`: a number would lose it."""
    return bool(_CODE.fullmatch(text))


def parse_numbers(values: Sequence[Any], comma: bool = False) -> NDArray[Any]:
    """Return the numbers that texts stand for, NaN where one is no number; whole numbers if all are.

    Args:
        values: texts; what is no text, such as a number, is taken as it is.
        comma: True if a comma comes before a number's fraction; else commas may separate thousands.
    """
    import pandas as pd

    plain = [
        _without_groups(value, comma) if isinstance(value, str) and (comma or "," in value) else value
        for value in values
    ]
    numbers: Any = pd.to_numeric(pd.Series(plain, dtype=object), errors="coerce")
    return numbers.to_numpy(dtype=np.float64 if numbers.dtype == object else None)  # object: there are none


def _without_groups(text: str, comma: bool) -> str:
    if not comma:
        return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
    if _DECIMAL_COMMA.fullmatch(text) or _POINTS_IN_GROUPS.fullmatch(text):
        return text.replace(".", "").replace(",", ".")
    return text


def read_plain(column: Any, comma: bool = False) -> NDArray[Any] | None:
    """Return a text column's numbers, NaN where there is none, if each text is empty or a number as programs write it.

    They are those of `parse_numbers`, many times faster. None where a text is anything else, with a sign or zeros in
    front as well (`+1`, `007`), or where no row has a number.

    Args:
        column: a pandas Series for which `is_text` holds, (N,).
        comma: see `parse_numbers`.
    """
    try:
        texts = pa.array(column, pa.large_string())
    except UnicodeEncodeError:  # half of a pair of surrogates
        return None
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    present_N = pc.fill_null(pc.greater(pc.binary_length(texts), 0), False)
    if not _is_plain(_as_lines(texts[:_SAMPLE].filter(present_N[:_SAMPLE])), comma):
        return None
    given = texts if pc.all(present_N).as_py() else texts.filter(present_N)
    content = _as_lines(given)
    if not len(given) or not _is_plain(content, comma):
        return None
    gaps = len(texts) > len(given) + texts.null_count
    numbers = _parse_lines(content, np.float64 if gaps else None)
    if numbers is None or len(numbers) != len(given):  # a text may have several lines
        return None
    if len(given) == len(texts):
        return numbers
    numbers_N = np.full(len(texts), np.nan)
    numbers_N[present_N.to_numpy(zero_copy_only=False)] = numbers
    return numbers_N


def _as_lines(texts: pa.LargeStringArray) -> bytes:
    """Return texts with the end of a line before each."""
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts), _LINE_END)
    return b"\n%b" % joined[0].as_buffer()


def _is_plain(content: bytes, comma: bool) -> bool:
    """Return True if lines have no other characters than plain numbers, and begin as such."""
    if content.translate(None, b"0123456789-+eE\n" + b"." * (not comma)):
        return False
    content_B = np.frombuffer(content, np.uint8)
    before_B, first_B, second_B = content_B[:-2], content_B[1:-1], content_B[2:]
    coded_B = (first_B == ord("0")) & (second_B >= ord("0")) & (second_B <= ord("9"))
    return not ((before_B == ord("\n")) & ((first_B == ord("+")) | coded_B)).any()


def _parse_lines(content: bytes, dtype: type | None) -> NDArray[Any] | None:
    """Return the number in each line, whole ones if all are and `dtype` says nothing; None if one holds no number."""
    import pandas as pd

    lines = io.BytesIO(content)
    lines.seek(1)
    try:
        column = pd.read_csv(  # it has the parser of `pandas.to_numeric`
            lines,
            names=[0],
            dtype=dtype,
            quoting=csv.QUOTE_NONE,
            na_filter=False,
            skip_blank_lines=False,
            low_memory=False,
        )[0]
    except ValueError:
        return None
    return column.to_numpy() if column.dtype.kind in "iuf" else None


@dataclass(frozen=True)
class Numbers:
    """Distinct texts read as numbers.

    Attributes:
        values_U: the number of each text, NaN where it is none.
        strays_U: True where a text is neither a number nor one that is known to stand for a missing value.
        markers_U: True where a text is no number and not empty.
        comma: see `parse_numbers`.
        grouped: a text with thousands set apart; None if there is none.
    """

    values_U: NDArray[Any]
    strays_U: NDArray[np.bool_]
    markers_U: NDArray[np.bool_]
    comma: bool
    grouped: str | None


def read_numbers(texts: list[str], decimal: str | None) -> Numbers:
    """Return distinct texts as numbers; without `decimal`, the texts decide what a comma means."""
    comma = decimal == "," or (decimal is None and _has_decimal_comma(texts))
    values_U = parse_numbers(texts, comma)
    markers_U = np.isnan(values_U) & np.array([bool(text) for text in texts], dtype=bool)
    strays_U = markers_U & ~are_known_missing(texts, markers_U)
    grouped = None if comma else next((text for text in texts if "," in text and _THOUSANDS.fullmatch(text)), None)
    return Numbers(values_U, strays_U, markers_U, comma, grouped)


def _has_decimal_comma(texts: Sequence[str]) -> bool:
    """Return True if commas come before fractions: one of them separates no thousands, and no point does as they do."""
    found = [text for text in texts if "," in text and _DECIMAL_COMMA.fullmatch(text)]
    if all(_THOUSANDS.fullmatch(text) for text in found):
        return False
    pointed = (text for text in texts if "." in text and "," not in text and re.fullmatch(r"[+-]?\d*\.\d*", text))
    return all(_POINTS_IN_GROUPS.fullmatch(text) for text in pointed)


def read_truth(texts: Collection[str], gaps: bool = False) -> list[bool | None] | None:
    """Return distinct texts as truth values, None for a missing one; None if they are something else.

    Args:
        gaps: True if texts that are known to stand for a missing value may be among them, not only the empty one.
    """
    known = {"true": True, "false": False}
    found = [known.get(text.lower()) for text in texts]
    if all(one is None for one in found):
        return None
    others = (text for text, one in zip(texts, found, strict=True) if one is None and text)
    return found if all(gaps and is_known_missing(text) for text in others) else None
