"""The display of a run's progress: a live view on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from distens.cli import output
from distens.cli.output import say
from distens.printable import printable
from distens.records import Failure

if TYPE_CHECKING:
    from distens.lifecycle.progress import ProgressEvent

MAX_RECENT_LINES = 8


def _best(update: ProgressEvent) -> str:
    if update.best is None:
        return ""
    both = "" if update.ensemble is None else f", ensemble {update.ensemble:.4f}"
    return f"best {update.best:.4f}{both}"


def _count(update: ProgressEvent) -> str:
    done = update.finished + update.failed
    return f"{done}/{update.total}" if update.total else f"{done}"


def print_line(update: ProgressEvent) -> None:
    """Print an update as one line, if it has a text."""
    if not update.text:
        return
    stamp = time.strftime("%H:%M:%S")
    count = f"[{_count(update)}] " if update.counted and not update.numbered else ""
    best = f"  ({_best(update)})" if update.best is not None else ""
    say(f"{stamp} {count}{update.text}{best}")


class LiveView:
    """A view of a few lines at the bottom of the terminal, redrawn four times a second."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._recent: deque[Any] = deque(maxlen=MAX_RECENT_LINES)
        self._update: ProgressEvent | None = None
        self._started = time.monotonic()
        console = Console(file=output.terminal())
        self._live = RichLive(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, update: ProgressEvent) -> None:
        """Show an update from the next redraw on."""
        from rich.text import Text

        style = "red" if isinstance(update.outcome, Failure) else ""
        if update.text:
            self._recent.append(Text(printable(update.text), style=style, no_wrap=True, overflow="ellipsis"))
        self._update = update  # not drawn here: updates may come much faster than the view is redrawn

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        update = self._update
        if update is None:
            return Text("")
        seconds = time.monotonic() - self._started
        head = Table.grid(padding=(0, 2))
        cells: list[Any] = [Text(f"{update.phase}", style="bold")]
        if update.counted:
            failed = f", {update.failed} failed" if update.failed else ""
            done = update.finished + update.failed
            cells += [ProgressBar(total=update.total, completed=done, width=24)] if update.total else []
            cells += [Text(f"{_count(update)} {update.counted}{failed}")]
        cells += [Text(f"{update.running} running")] if update.running else []
        cells += [Text(f"{update.metric} on search: {_best(update)}" if update.best is not None else "")]
        cells += [Text(f"{int(seconds) // 60}:{int(seconds) % 60:02d}", style="dim")]
        head.add_row(*cells)
        return Group(*self._recent, head)
