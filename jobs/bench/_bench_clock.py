"""A clock of CPU time and wall time of one contender, over all the processes that work for it."""

from __future__ import annotations

import contextlib
import time

import psutil
import torch


class Clock:
    """A clock that the contender itself starts and stops, after all costs that occur once per session.

    Args:
        tree: count the child processes too, including processes of Ray that do no training. Only processes that live
            both at the start and at the stop are counted, else the next contender would pay for what Ray cleans up or
            prepares after the last one.
        cold: the contender starts its actors while the clock runs; processes that are new at the stop count too.
    """

    def __init__(self, tree: bool, cold: bool = False) -> None:
        self._tree, self.cold = tree, cold
        self.cpu_seconds = self.wall_seconds = 0.0

    def start(self) -> None:
        """Begin to count."""
        _synchronise()
        self._before, self._started = self._spent(), time.perf_counter()

    def stop(self) -> None:
        """End counting."""
        _synchronise()
        self.wall_seconds = time.perf_counter() - self._started
        after = self._spent()
        before = dict.fromkeys(after, 0.0) | self._before if self.cold else self._before
        self.cpu_seconds = sum(after[pid] - spent for pid, spent in before.items() if pid in after)

    def _spent(self) -> dict[int, float]:
        """Return CPU seconds by process id."""
        below = psutil.Process().children(recursive=True) if self._tree else []
        spent = {process.pid: _cpu_seconds(process) for process in below}
        return {0: time.process_time()} | {pid: seconds for pid, seconds in spent.items() if seconds is not None}


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _cpu_seconds(process: psutil.Process) -> float | None:
    with contextlib.suppress(OSError):
        # Linux: the CPU clock of another process (clock_getcpuclockid); psutil's own figures come in steps of 10 ms.
        return time.clock_gettime(~process.pid << 3 | 2)
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return None
    return times.user + times.system
