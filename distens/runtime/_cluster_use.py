"""This process's one connection to Ray, which all runs in it share: the first one makes it, the last one ends it."""

from __future__ import annotations

import threading

import ray

from distens.errors import RunError
from distens.runtime._connection import BackgroundCall, HeadWatch, join_cluster

_LOCK = threading.Lock()
_connection: _Connection | None = None


class _Connection:
    """A connection to Ray, held by a thread of its own, since Ray's processes end with the thread that started them.

    Args:
        address: of the cluster; None: see `join_cluster`.

    Raises:
        RunError: there is no cluster at the address, or it refuses the connection.
    """

    def __init__(self, address: str | None) -> None:
        self.address, self.users = address, 0
        self._head: HeadWatch | None = None
        self._thread = BackgroundCall(self._join)
        if (error := self._thread.error()) is not None:
            self._thread.end()
            raise error

    def _join(self) -> None:
        self._head = join_cluster(self.address)

    def end(self) -> None:
        """Disconnect, and end what was started."""
        assert self._head is not None
        self._head.end()
        ray.shutdown()
        self._thread.end()


def join(address: str | None) -> bool:
    """Connect this process to Ray, unless it is connected already.

    Returns:
        True if `leave` has to be called; False if the caller of distens connected the process, and will disconnect it.

    Raises:
        RunError: there is no cluster at the address, or it refuses the connection; or another run in this process is
            connected to another address.
    """
    global _connection
    with _LOCK:
        if _connection is not None and not ray.is_initialized():  # somebody has called `ray.shutdown`
            _connection.end()
            _connection = None
        if _connection is None:
            if ray.is_initialized():
                return False
            _connection = _Connection(address)
        elif address not in (None, _connection.address):
            raise RunError(
                f"runtime.address: {address}, but another run in this process is connected to "
                f"{_connection.address or 'the default'}, and a process has one connection to Ray. "
                "Wait for that run's end, or start this one in a process of its own"
            )
        _connection.users += 1
        return True


def leave() -> None:
    """Give a connection back; the last of its users ends it."""
    global _connection
    with _LOCK:
        assert _connection is not None, "join comes first"
        _connection.users -= 1
        if not _connection.users:
            ended, _connection = _connection, None
            ended.end()
