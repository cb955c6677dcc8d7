"""Tables of results, for a terminal or a log."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distens.cli import output
from distens.cli.output import say
from distens.printable import printable

if TYPE_CHECKING:
    from distens.tune.sweep import SweepResult

NARROW = 8
"""Characters in a line of a heading on a narrow terminal."""


def print_sweep(result: SweepResult) -> None:
    """Print the runs of a sweep with the best one marked, the errors of failed runs, and notes."""
    keys = list(result.best.values)
    lines = [["run", *keys, f"{result.metric} (combine)", ""]]
    for run in result.runs:
        cells = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in (run.values[key] for key in keys)]
        value = f"{run.value:.4f}" if run.value is not None else "failed"
        lines.append([run.path.rsplit("/", 1)[1], *cells, value, "best" if run is result.best else ""])
    say("")
    print_lines(lines)
    for run in result.runs:
        if run.why:
            say(f"{run.path.rsplit('/', 1)[1]}: {run.why}")
    say("The best run is chosen on the combine split; its own table has its results on the test split:")
    say(f"distens report {shlex.quote(result.best.path)}")
    for note in result.notes:
        say(note)


def print_table(rows: Any, missing: Any, verdict: Sequence[str]) -> None:
    """Print the table of results, the reasons for missing rows, and the verdict."""
    from distens.evaluate.report import table_lines

    say("")
    print_lines(table_lines(rows, {}))
    for name, why in missing.items():
        say(f"{name}: {why}")
    say("")
    for sentence in verdict:
        say(f"- {sentence}")
    say("")


def print_lines(lines: Sequence[Sequence[str]]) -> None:
    """Print a table; the first line has the headings."""
    from textwrap import fill

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def table(narrow: bool) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0 if narrow else (0, 1), show_edge=not narrow)
        for i, heading in enumerate(lines[0]):
            heading = printable(heading)
            folded = fill(heading, NARROW, break_long_words=False) if narrow else heading
            made.add_column(Text(folded), justify="left" if i == 0 else "right", no_wrap=True)
        for line in lines[1:]:
            made.add_row(*(Text(printable(cell)) for cell in line))
        return made

    # A log has no width of its own: a table may take 160 columns there. On a narrow terminal, headings are folded, and
    # the terminal may break lines: Rich would cut numbers, and half a number is another number.
    screen = output.terminal()
    console = Console(file=screen, width=None if sys.stdout.isatty() else 160)
    narrow = console.measure(table(False), options=console.options.update(max_width=1000)).maximum > console.width
    if narrow and sys.stdout.isatty():
        console = Console(file=screen, width=1000)
    console.print(table(narrow))
