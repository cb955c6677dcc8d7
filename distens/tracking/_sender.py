"""A background thread that sends records in order, some of them at the same time, and keeps those that fail.

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
from itertools import islice, takewhile
from typing import Generic, TypeVar

Book = TypeVar("Book")

NAME = "distens-tracking"
"""The name of all threads that send."""

MAX_REFUSALS = 3
"""A record that fails this often although the server answers is set aside; otherwise it would block all later ones."""


class NeedsRepair(Exception):
    """A fault that stays until a person mends it, so that waiting is in vain: the message says what it is, and how."""

    def __init__(self, fault: str, cure: str) -> None:
        super().__init__(f"{fault}. {cure}")


@dataclass(eq=False, slots=True)
class _Record(Generic[Book]):
    label: str
    send: Callable[[Book], None]
    beside: bool
    refusals: int = 0
    error: BaseException | None = None


@dataclass(frozen=True)
class UnsentRecords:
    """The records that were not sent.

    Attributes:
        waiting: the number of records in the queue.
        refused: label and error of each record that was set aside.
        error: the last error; None if there was none.
    """

    waiting: int
    refused: tuple[str, ...]
    error: BaseException | None


class Sender(Generic[Book]):
    """A queue of records, and the background thread that sends them, for as long as that takes.

    Args:
        connect: returns the book that records are sent with, after it has read what the server already holds; raises
            while the server is away, and `NeedsRepair` if it will not come back by itself.
        longest_pause: the longest pause between attempts, in seconds.
        width: the largest number of records that are sent at the same time. A server needs time for each record, most
            of which it waits for its disk.
        is_away: returns True for an error of the server, and not of the record that it was raised for.
        warn: called with a fault that needs repair, once for each.
    """

    def __init__(
        self,
        connect: Callable[[], Book],
        longest_pause: float = 30.0,
        width: int = 1,
        is_away: Callable[[BaseException], bool] = lambda error: False,
        warn: Callable[[NeedsRepair], None] = lambda fault: None,
    ) -> None:
        self._connect = connect
        self._is_away = is_away
        self._warn = warn
        self._longest_pause = longest_pause
        self._width = width
        self._queue: deque[_Record[Book]] = deque()
        self._changed = threading.Condition()
        self._sent = 0
        self._closed = False
        self._refused: list[str] = []
        self._error: BaseException | None = None
        self._fault: NeedsRepair | None = None
        self._faults = 0
        # A daemon thread, so that a server that hangs does not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=NAME, daemon=True)
        self._thread.start()

    def put(self, label: str, send: Callable[[Book], None], beside: bool = False) -> None:
        """Queue one record, and return at once.

        Args:
            label: the record's name in messages.
            send: sends the record with a book; it may be called several times.
            beside: whether the record may be sent from another thread, at the same time as its neighbours for which
                this is True; any other record waits for all before it.
        """
        with self._changed:
            self._queue.append(_Record(label, send, beside))
            self._changed.notify_all()

    def close(
        self, wait_seconds: float, still: Callable[[int, float], None] | None = None, most_seconds: float = math.inf
    ) -> UnsentRecords:
        """Wait until all records are sent, or until none was sent for `wait_seconds`; then stop, and return the rest.

        With a fault that needs repair, one more attempt is waited for, since it may have been mended in the meantime.

        Args:
            wait_seconds: the longest wait for one more record. It does not bound the whole wait, so that a long backlog
                is sent in full.
            still: called every `wait_seconds`, with the number of waiting records and the seconds that they will take.
            most_seconds: the longest wait in all, even if records are being sent.
        """
        with self._changed:
            self._longest_pause = min(self._longest_pause, 1.0)
            self._changed.notify_all()
            began, before = time.monotonic(), self._sent
            end = began + most_seconds
            said, seen, deadline = began, before, min(began + wait_seconds, end)
            faults = self._faults
            while self._queue and (now := time.monotonic()) < deadline:
                if self._fault is not None and self._faults > faults:
                    break
                if still is not None and now >= said + wait_seconds and self._sent > before:
                    still(len(self._queue), len(self._queue) * (now - began) / (self._sent - before))
                    said = now
                self._changed.wait(deadline - now)
                if self._sent != seen:
                    seen, deadline = self._sent, min(time.monotonic() + wait_seconds, end)
            self._closed = True
            self._changed.notify_all()
            return UnsentRecords(len(self._queue), tuple(self._refused), self._error)

    def _work(self) -> None:
        book: Book | None = None
        failures = 0
        while records := self._next():
            try:
                if book is None:
                    book = self._connect()
            except Exception as error:  # any error of the server or its client: the run continues
                self._note(error)
                # The server is away, so none of these records is at fault.
                for record in records:
                    record.refusals = 0
            else:
                self._fault = None
                if self._sent_all(records, book):
                    failures = 0
                    continue
                book = None
            failures += 1
            self._pause(0.25 * 2 ** min(failures, 8))

    def _note(self, error: Exception) -> None:
        """Keep the error of an attempt to connect."""
        fault = error if isinstance(error, NeedsRepair) else None
        if fault is not None and str(fault) != str(self._fault):
            self._warn(fault)
        with self._changed:
            self._error, self._fault = error, fault
            self._faults += fault is not None
            self._changed.notify_all()

    def _sent_all(self, records: list[_Record[Book]], book: Book) -> bool:
        """Send records at the same time; return True if all were sent.

        Records that were sent, or have to be set aside, leave the queue.
        """
        beside = [threading.Thread(target=_send, args=(one, book), name=NAME, daemon=True) for one in records[1:]]
        for thread in beside:
            thread.start()
        _send(records[0], book)
        for thread in beside:
            thread.join()
        again = []
        for record in records:
            if record.error is not None:
                self._error = record.error
                record.refusals += not self._is_away(record.error)
                if record.refusals < MAX_REFUSALS:
                    again.append(record)
                else:
                    self._refused.append(f"{record.label}: {record.error}")
        with self._changed:
            for _ in records:
                self._queue.popleft()
            self._queue.extendleft(reversed(again))
            self._sent += len(records) - len(again)
            self._changed.notify_all()
        return not any(record.error for record in records)

    def _next(self) -> list[_Record[Book]]:
        """Return the next records to send at the same time; wait for the first, and return none once closed."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            if self._closed:
                return []
            beside = list(takewhile(lambda record: record.beside, islice(self._queue, self._width)))
            return beside or [self._queue[0]]

    def _pause(self, seconds: float) -> None:
        start = time.monotonic()
        with self._changed:
            # The longest pause is read anew each time: `close` shortens it for a server that has been away for long.
            while not self._closed and (left := start + min(seconds, self._longest_pause) - time.monotonic()) > 0:
                self._changed.wait(left)


def _send(record: _Record[Book], book: Book) -> None:
    try:
        record.send(book)
    except Exception as error:
        record.error = error
    else:
        record.error = None
