"""CPU seconds of a process and its descendants; for interpreters that have only the standard library."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def cpu_seconds() -> float:
    """Return CPU seconds of this process and its descendants, and of ended ones that were waited for (Linux)."""
    parents, ticks = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)], ticks[int(folder.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    total, generation = 0, {os.getpid()}
    while generation:
        total += sum(ticks[pid] for pid in generation)
        generation = {pid for pid, parent in parents.items() if parent in generation}
    return total / os.sysconf("SC_CLK_TCK")
