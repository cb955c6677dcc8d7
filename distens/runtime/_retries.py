"""What is tried again, and when.

- A member alone that crashed: at once, `retries` times.
- One that ran out of memory: as often, each time after a longer pause, since what else took it may be over by then.
- One whose node was lost, which is not its fault: at once, and not counted among its `retries`.
- A pack that is not divisible (a joint group): as a member alone, all of it together.
- A pack whose process is gone: what had finished is reported, the rest split in two halves and tried again at once,
  until the bad member is alone.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from distens.records import Answer, Failure, Pack, Reason, Task
from distens.runtime._execute import finished_before
from distens.storage.store import Store

RETRIED: tuple[Reason, ...] = ("crashed", "out_of_memory")
"""A member that diverged, was refused or ran out of time would do the same again."""

NODES_LOST = 10
"""So many lost nodes are a member's fault: it may take them down itself."""

PAUSE_SECONDS = 5.0
"""Before what ran out of memory is tried again; twice as long the second time, three times the third."""

NAMED = 4
"""A message about a lost pack names so many of its members."""


class Retries:
    """Packs that are tried again.

    Args:
        retries: how often a member is.

    Attributes:
        waiting: packs for which it is time.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._failed: Counter[tuple[str, bool]] = Counter()
        self._short: Counter[str] = Counter()
        self._later: list[tuple[float, Pack]] = []
        self.waiting: deque[Pack] = deque()

    def seconds(self) -> float | None:
        """Return how long it is until the next pause is over; None if nothing waits for that."""
        return max(0.0, min(due for due, _ in self._later) - time.monotonic()) if self._later else None

    def wake(self) -> None:
        """Let those whose pause is over wait no longer."""
        now = time.monotonic()
        self.waiting += [pack for due, pack in self._later if due <= now]
        self._later = [(due, pack) for due, pack in self._later if due > now]

    def later(self, pack: Pack, due: float) -> None:
        """Queue a pack for later."""
        self._later.append((due, pack))

    def split(self, left: Pack) -> None:
        """Queue what is left of a lost pack, in halves."""
        self.waiting += [half for half in (left[: len(left) // 2], left[len(left) // 2 :]) if half]

    def told(self, outcome: Answer, pack: Pack, node_lost: bool, seconds: float) -> Answer:
        """Queue a member that failed by itself for its next attempt, if it has one; return its outcome accordingly.

        Args:
            seconds: since its pack was begun; a limit of its own holds for all attempts together.
        """
        if not isinstance(outcome, Failure) or not outcome.final or outcome.reason not in RETRIED:
            return outcome
        self._failed[outcome.task_id, node_lost] += 1
        if self._failed[outcome.task_id, node_lost] > (NODES_LOST if node_lost else self._retries):
            return outcome
        pause = 0.0
        if outcome.reason == "out_of_memory" and not node_lost:
            self._short[outcome.task_id] += 1
            pause = PAUSE_SECONDS * self._short[outcome.task_id]
        together = [task for task in pack if task.id == outcome.task_id or not task.work.divisible]
        again = [_next(task, seconds + pause) for task in together]
        if again[0].limit_seconds is not None and again[0].limit_seconds <= 0:
            return outcome
        if outcome.task_id != again[0].id:  # of a pack that is not divisible: it is tried again with its first
            return replace(outcome, final=False)
        if pause:
            self.later(again, time.monotonic() + pause)
        else:
            self.waiting.append(again)
        return replace(outcome, final=False)


def _next(task: Task, seconds: float) -> Task:
    """Return the next attempt, once so much of its time is over."""
    left = None if task.limit_seconds is None else task.limit_seconds - seconds
    return replace(task, attempt=task.attempt + 1, limit_seconds=left)


def lost(pack: Pack, reason: Reason, message: str, seconds: float, store: Store) -> tuple[Sequence[Answer], list[Task]]:
    """Return what came of a pack whose actor is gone, and what is left; a member alone counts as it is, and so do those
    of a pack that is not divisible."""
    if len(pack) == 1 or not pack[0].work.divisible:
        return [Failure(task.id, task.attempt, reason, message, seconds, "") for task in pack], []
    finished = list(finished_before(pack, store))
    done = {report.task_id for report in finished}
    left = [task for task in pack if task.id not in done]
    names = ", ".join(task.id for task in left[:NAMED]) + (", …" if len(left) > NAMED else "")
    why = f"{message} (in a pack of {len(pack)}, with {names} unfinished; they are split and tried again)"
    failures = [Failure(task.id, task.attempt, reason, why, seconds / len(pack), "", final=False) for task in left]
    return [*finished, *failures], [_next(task, seconds) for task in left]
