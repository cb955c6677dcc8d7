"""One BLAS thread for the drivers of this process: its members have the other cores."""

from __future__ import annotations

import threading
from types import TracebackType

from threadpoolctl import threadpool_limits


class BlasLimit:
    """A context in which BLAS has one thread.

    The limit is the process's. So the first of several runs in it sets the limit, and the last one restores what was
    before, in whatever order they end.
    """

    _lock = threading.Lock()
    _users = 0
    _limits: threadpool_limits | None = None

    def __enter__(self) -> None:
        with BlasLimit._lock:
            if not BlasLimit._users:
                BlasLimit._limits = threadpool_limits(limits=1, user_api="blas")
            BlasLimit._users += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with BlasLimit._lock:
            BlasLimit._users -= 1
            if not BlasLimit._users and BlasLimit._limits is not None:
                BlasLimit._limits.restore_original_limits()
