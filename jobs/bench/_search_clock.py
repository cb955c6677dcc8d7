"""A clock that shows CPU seconds, so that time limits in this process are limits on work, not on waiting.

It needs only the standard library: competitors in interpreters of their own use it too.
"""

from __future__ import annotations

import resource
import time


def spent() -> float:
    """Return user and system seconds of this process, all its threads, and those children that it waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def count_cpu_seconds() -> None:
    """Make `time.time`, `monotonic` and `perf_counter` count CPU seconds from now on.

    Modules that bound these functions earlier (threading, queue) keep the real ones, so that waits end on time.
    """
    for name in ("time", "monotonic", "perf_counter"):
        began = getattr(time, name)() - spent()
        setattr(time, name, lambda began=began: began + spent())
