"""Predictions as rows of CSV: on the terminal, where nothing acts, or in a file that a spreadsheet may open."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distens.errors import ConfigError, StorageError
from distens.printable import printable

if TYPE_CHECKING:
    import pandas as pd

PREDICTION = "prediction"
"""The heading of the predicted classes or numbers; `prediction_` where a class or a target has that name."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""The first characters of a text that a spreadsheet takes for a formula."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|nan)", re.ASCII)


def frame_of(decisions_N: Any, predictions_NK: Any, names: Sequence[str]) -> pd.DataFrame:
    """Return the rows of the output: the predicted class or number, and one column for each name if there are several.

    Args:
        decisions_N: the predicted classes or numbers.
        predictions_NK: the predictions.
        names: the K names of their columns.
    """
    import pandas as pd

    own = PREDICTION
    while len(names) > 1 and own in names:
        own += "_"
    frame = pd.DataFrame({own: decisions_N})
    return pd.concat([frame, pd.DataFrame(predictions_NK, columns=list(names))], axis=1) if len(names) > 1 else frame


def to_text(frame: pd.DataFrame) -> str:
    """Return the rows as CSV for a terminal: with escapes for what would act there."""
    return _rendered(frame, lambda text: printable(_defused(text)))


def write_file(frame: pd.DataFrame, out: Path) -> int:
    """Write the rows as CSV; return the number of cells that began as a formula does, and begin with an apostrophe now.

    Raises:
        StorageError: the file cannot be written, because the disk is full, for instance.
    """
    changed: list[str] = []

    def defuse(text: str) -> str:
        safe = _defused(text)
        if safe != text:
            changed.append(text)
        return safe

    write_out(out, _rendered(frame, defuse).encode())
    return len(changed)


def _rendered(frame: pd.DataFrame, change: Any) -> str:
    shown = frame.rename(columns=change)
    first = shown.columns[0]
    shown[first] = [change(value) if isinstance(value, str) else value for value in shown[first]]
    # Python's `csv` quotes a line end, but not a carriage return, where most readers end a line, too.
    odd = any("\r" in text for text in [*shown.columns, *map(str, shown[first].unique())])
    return shown.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC if odd else csv.QUOTE_MINIMAL)


def _defused(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def check_out(out: Path, option: str = "--out") -> None:
    """Check that a file can be written to a place, before the work that makes its content.

    Raises:
        ConfigError: the folder is missing, or the place is a folder, or it may not be written.
    """
    folder = out.absolute().parent
    try:
        if out.is_dir():
            raise ConfigError(f"{option} {out}: expected a file, found a folder")
        if not folder.is_dir():
            raise ConfigError(f"{option} {out}: the folder {folder} is missing")
        new = not out.exists()
        with out.open("ab"):  # nothing is written, and what is there stays
            pass
        if new:
            out.unlink()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ConfigError(f"{option} {out}: cannot be written: {error}") from error


def write_out(out: Path, content: bytes, option: str = "--out") -> None:
    """Write a whole file.

    Raises:
        StorageError: that failed; the file may be there in part.
    """
    try:
        out.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{option} {out}: could not be written whole: {error.strerror or error}") from error
