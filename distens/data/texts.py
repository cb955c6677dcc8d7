"""Texts that stand for numbers, truth values, or nothing: one meaning for a text, whatever file it comes from."""

from __future__ import annotations

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
_PLAIN = r"^-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$"  # in the syntax of RE2
_PLAIN_WITHOUT_POINT = r"^-?(0|[1-9][0-9]*)([eE][-+]?[0-9]+)?$"


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


def find_strays(texts: list[str], others_U: NDArray[np.bool_], missing: Collection[str] = ()) -> NDArray[np.bool_]:
    """Return True for those of some texts that are not known to stand for a missing value.

    Args:
        others_U: True for the texts in question.
        missing: texts that stand for a missing value, besides those that usually do.
    """
    strays_U = np.zeros(len(texts), dtype=bool)
    for i in map(int, np.flatnonzero(others_U)):
        strays_U[i] = not (is_known_missing(texts[i]) or texts[i] in missing)
    return strays_U


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


def read_plain(column: Any, comma: bool = False) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
    """Return the numbers of a text column as `parse_numbers` would, many times faster, NaN where a text is not plain.

    A number is plain as most programs write it: without blanks, and without `+` or zeros in front. None if none is, or
    if one is too large.

    Args:
        column: a pandas Series for which `is_text` holds, (N,).
        comma: see `parse_numbers`.

    Returns:
        The numbers, (N,), and True where a text is a plain number, (N,).
    """
    try:
        texts = pa.array(column, pa.large_string())
    except UnicodeEncodeError:  # half of a pair of surrogates
        return None
    plain = pc.fill_null(pc.match_substring_regex(texts, _PLAIN_WITHOUT_POINT if comma else _PLAIN), False)
    numbers = texts.filter(plain)
    if not len(numbers):
        return None
    others = len(texts) - texts.null_count - len(numbers)
    values = _parse_plain(numbers, np.float64 if others else None)
    if values is None:
        return None
    plain_N = np.asarray(plain)
    if len(values) == len(texts):
        return values, plain_N
    values_N = np.full(len(texts), np.nan)
    values_N[plain_N] = values
    return values_N, plain_N


def _parse_plain(texts: pa.LargeStringArray | pa.ChunkedArray, dtype: type | None) -> NDArray[Any] | None:
    """Return numbers; without a dtype, whole ones if all are. None if one is too large to be one of them."""
    import pandas as pd

    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    lists = pa.ListArray.from_arrays(pa.array([0, len(whole)], pa.int32()), whole)
    lines = pc.binary_join(lists, pa.scalar("\n", pa.large_string()))[0].as_buffer().to_pybytes()
    try:
        if dtype is None and not any(mark in lines for mark in b".eE"):
            return whole.cast(pa.int64()).to_numpy(zero_copy_only=False, writable=True)
        # The same parser as that of `pandas.to_numeric`, which takes Python's texts.
        numbers = pd.read_csv(io.BytesIO(lines), names=[0], dtype=dtype, na_filter=False, low_memory=False)[0]
    except ValueError:
        return None
    return numbers.to_numpy() if numbers.dtype == np.float64 else None


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
    strays_U = find_strays(texts, markers_U)
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
    if known.keys().isdisjoint(map(str.lower, texts)):
        return None
    found = [known.get(text.lower()) for text in texts]
    others = (text for text, one in zip(texts, found, strict=True) if one is None and text)
    return found if all(gaps and is_known_missing(text) for text in others) else None
