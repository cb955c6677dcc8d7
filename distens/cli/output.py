"""The one way from the command line to the terminal: nothing that would act there gets through.

Names of folders, classes and members, columns of tables, keys of configs, answers of servers and messages of libraries
may be anything. Python's own output streams are put behind `EscapingStream`, so that it holds for whoever writes:
commands, tracebacks, warnings, libraries. Only the live view draws with escape sequences, on `terminal()`, and escapes
what it draws by itself.
"""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType
from typing import Any, TextIO

from distens.credentials import redact
from distens.printable import printable


class EscapingStream:
    """A text stream that writes to another one, with every character escaped that would act on a terminal.

    Line ends and tabs are kept; `say` escapes those that do not end a line.
    """

    def __init__(self, stream: TextIO) -> None:
        self.terminal = stream

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        if not isinstance(text, str):
            raise TypeError(f"expected text, found {type(text).__name__}")
        self.terminal.write(printable(text, "\n\t"))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # bytes would go past
            raise AttributeError(name)
        return getattr(self.terminal, name)


def escape_output() -> None:
    """Put this process's output and error streams behind `EscapingStream`; tracebacks are shown without credentials."""
    sys.stdout, sys.stderr = EscapingStream(sys.stdout), EscapingStream(sys.stderr)
    sys.excepthook = _show_traceback


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    say(redact("".join(traceback.format_exception(kind, error, trace))), err=True, end="", keep="\n\t")


def terminal() -> TextIO:
    """Return the output stream itself, for what draws with escape sequences of its own."""
    return sys.stdout.terminal if isinstance(sys.stdout, EscapingStream) else sys.stdout


def say(text: str, err: bool = False, end: str = "\n", keep: str = "") -> None:
    """Write a line to the terminal.

    Args:
        text: the line; characters that would act on a terminal are escaped, its own line ends included.
        err: write to the error stream.
        end: what follows the text.
        keep: characters that are not escaped: line ends, where the text has several lines.
    """
    stream = sys.stderr if err else sys.stdout
    stream.write(printable(text, keep) + end)
    stream.flush()


class PrintableFormatter(logging.Formatter):
    """A formatter of log lines: without credentials, and with further lines of a message set off from the first."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        return set_off(printable(redact(super().format(record)), "\n"))


def set_off(text: str) -> str:
    """Return a text whose further lines are indented, so that none of them looks like a message of its own."""
    return text.replace("\n", "\n  ")
