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
_MARKS = re.compile(r"[-–—?.*_#!/\\~]+|#[A-Z/0]+[!?]?")  # also Excel's errors: #DIV/0!, #REF!

MAX_MARKERS, MAX_MARKED_SHARE = 3, 0.05
"""Other texts are taken for missing values among numbers if there are so few different ones, in so small a share of the
rows; more of them need `data.missing`."""

_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)?,\d+(e[+-]?\d+)?", re.IGNORECASE)
_POINTS_IN_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
_CODE = re.compile(r"0\d+")
_LINE_END = pa.scalar("\n", pa.large_string())
_UNUSUAL = re.compile(rb"\n(?:\+|0\d)")


def is_text(column: Any) -> bool:
    """Return True if a pandas Series holds texts alone, besides missing values."""
    import pandas as pd
    from pandas.api import types

    if isinstance(column.dtype, pd.StringDtype):
        return True
    return column.dtype == object and types.infer_dtype(column, skipna=True) == "string"


def is_known_missing(text: str) -> bool:
    """Return True for a text that stands for a missing value among numbers and dates."""
    return text in KNOWN_MISSING or text.lower() in _USUAL or bool(_MARKS.fullmatch(text))


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

    plain = [_without_groups(value, comma) if isinstance(value, str) else value for value in values]
    numbers: Any = pd.to_numeric(pd.Series(plain, dtype=object), errors="coerce")
    return numbers.to_numpy(dtype=np.float64 if numbers.dtype == object else None)  # object: there are none


def _without_groups(text: str, comma: bool) -> str:
    if not comma:
        return text.replace(",", "") if "," in text and _THOUSANDS.fullmatch(text) else text
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
    import pandas as pd

    try:
        texts = pa.array(column, pa.large_string())
    except UnicodeEncodeError:  # half of a pair of surrogates
        return None
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    lengths = pc.binary_length(texts)
    present_N = pc.fill_null(pc.greater(lengths, 0), False)
    given = texts.filter(present_N)
    if not len(given):
        return None
    lines = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(given)], pa.int32()), given), _LINE_END)[0]
    content = b"\n%b" % lines.as_buffer()
    if content.translate(None, b"0123456789-+eE\n" + b"." * (not comma)) or _UNUSUAL.search(content):
        return None
    file = io.BytesIO(content)
    file.seek(1)
    empty = len(texts) > len(given) + texts.null_count
    try:
        # The parser of `pandas.to_numeric`; a text of several lines gives too many rows.
        numbers = pd.read_csv(
            file,
            names=[0],
            dtype=np.float64 if empty else None,
            quoting=csv.QUOTE_NONE,
            na_filter=False,
            skip_blank_lines=False,
            low_memory=False,
        )[0].to_numpy()
    except ValueError:
        return None
    if numbers.dtype.kind not in "iuf" or len(numbers) != len(given):
        return None
    if len(given) == len(texts):
        return numbers
    numbers_N = np.full(len(texts), np.nan)
    numbers_N[present_N.to_numpy(zero_copy_only=False)] = numbers
    return numbers_N


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
    known = [marked and is_known_missing(text) for text, marked in zip(texts, markers_U.tolist(), strict=True)]
    strays_U = markers_U & ~np.array(known, dtype=bool)
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
