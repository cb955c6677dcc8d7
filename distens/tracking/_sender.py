"""One background thread that sends records in order and keeps what cannot be sent.

put ──► queue ──► connect, then send(book)        the connection is made again after every error
│          └─ error ─► pause ─┐
└─────────────────────────────┘
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Book = TypeVar("Book")

REFUSALS = 3
"""A record that fails this often although the server answers is set aside, or nothing after it would be sent."""


@dataclass(frozen=True)
class Left:
    """What was not sent: how many records still wait, what was set aside, and the last error."""

    waiting: int
    refused: tuple[str, ...]
    error: BaseException | None


class Sender(Generic[Book]):
    """Sends what it is given, for as long as it takes.

    Args:
        connect: returns what records are sent with, after asking the server what it already holds; raises while
            the server is away.
        longest_pause: seconds between attempts at most.
    """

    def __init__(self, connect: Callable[[], Book], longest_pause: float = 30.0) -> None:
        self._connect = connect
        self._longest_pause = longest_pause
        self._queue: deque[tuple[str, Callable[[Book], None]]] = deque()
        self._changed = threading.Condition()
        self._sent = 0
        self._closed = False
        self._refused: list[str] = []
        self._error: BaseException | None = None
        # A daemon: a server that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="distens-tracking", daemon=True)
        self._thread.start()

    def put(self, label: str, send: Callable[[Book], None]) -> None:
        """Queue one record; returns at once."""
        with self._changed:
            self._queue.append((label, send))
            self._changed.notify_all()

    def close(
        self, wait_seconds: float, still: Callable[[int, float], None] | None = None, most_seconds: float = math.inf
    ) -> Left:
        """Wait until all is sent, or until nothing was sent for `wait_seconds`; then stop.

        Args:
            wait_seconds: while records are sent this bounds nothing, so that a long backlog is sent whole.
            most_seconds: the longest wait, whatever is sent.
            still: is told every `wait_seconds` how many records wait and how many seconds they will take.
        """
        with self._changed:
            self._longest_pause = min(self._longest_pause, 1.0)
            self._changed.notify_all()
            began, before = time.monotonic(), self._sent
            end = began + most_seconds
            said, seen, deadline = began, before, min(began + wait_seconds, end)
            while self._queue and (now := time.monotonic()) < deadline:
                if still is not None and now >= said + wait_seconds and self._sent > before:
                    still(len(self._queue), len(self._queue) * (now - began) / (self._sent - before))
                    said = now
                self._changed.wait(deadline - now)
                if self._sent != seen:
                    seen, deadline = self._sent, min(time.monotonic() + wait_seconds, end)
            self._closed = True
            self._changed.notify_all()
            return Left(len(self._queue), tuple(self._refused), self._error)

    def _work(self) -> None:
        book: Book | None = None
        failures = refusals = 0
        while (entry := self._next()) is not None:
            label, send = entry
            try:
                if book is None:
                    book = self._connect()
                send(book)
            except Exception as error:  # whatever the server or its client does, the run goes on
                self._error = error
                failures += 1
                # Without a book the server is away; with one it answered, so the record itself may be at fault.
                refusals = refusals + 1 if book is not None else 0
                book = None
                if refusals < REFUSALS:
                    self._pause(0.25 * 2 ** min(failures, 8))
                    continue
                self._refused.append(f"{label}: {error}")
            failures = refusals = 0
            self._done()

    def _next(self) -> tuple[str, Callable[[Book], None]] | None:
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            return None if self._closed else self._queue[0]

    def _done(self) -> None:
        with self._changed:
            self._queue.popleft()
            self._sent += 1
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        start = time.monotonic()
        with self._changed:
            # The longest pause is read anew each time: `close` shortens that of a server which was long away.
            while not self._closed and (left := start + min(seconds, self._longest_pause) - time.monotonic()) > 0:
                self._changed.wait(left)
