"""Rules for trying a failed member or pack again.

- A single member that crashed is tried again at once, `retries` times.
- A member that ran out of memory is tried again as often, each time after a longer pause: whatever else used the memory
  may have ended by then.
- A member whose node was lost, which is not its fault, is tried again at once; this does not count as one of its
  `retries`.
- A pack that is not divisible (a joint group) is treated as a single member, all of it together.
- If the process of any other pack is gone, the members that had finished are reported. The rest is split in two halves
  and tried again at once, until the bad member is alone.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from distens.records import Answer, Failure, Pack, Reason, Task
from distens.runtime._execute import finished_before
from distens.storage.store import Store

RETRIED_REASONS: tuple[Reason, ...] = ("crashed", "out_of_memory")
"""Reasons for another attempt; a member that diverged, was refused or ran out of time would do so again."""

MAX_NODES_LOST = 10
"""Attempts of a member that may follow lost nodes; with more, the member is at fault: it may crash the nodes itself."""

PAUSE_SECONDS = 5.0
"""Pause before a member that ran out of memory is tried again; twice as long the second time, three times the third."""

MAX_MEMBERS_NAMED = 4
"""Members of a lost pack that its message names, at most."""


class PackRetries:
    """The packs of a run that are to be tried again.

    Args:
        retries: how often a member is tried again.

    Attributes:
        waiting: packs whose next attempt is due.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._failed: Counter[tuple[str, bool]] = Counter()
        self._short: Counter[str] = Counter()
        self._later: list[tuple[float, Pack]] = []
        self.waiting: deque[Pack] = deque()

    def seconds_to_next(self) -> float | None:
        """Return the number of seconds until the next pause is over; None if no pack is paused."""
        return max(0.0, min(due for due, _ in self._later) - time.monotonic()) if self._later else None

    def release_due(self) -> None:
        """Move the packs whose pause is over to `waiting`."""
        now = time.monotonic()
        self.waiting += [pack for due, pack in self._later if due <= now]
        self._later = [(due, pack) for due, pack in self._later if due > now]

    def pause(self, pack: Pack, due: float) -> None:
        """Pause a pack until `due`, a time of `time.monotonic`."""
        self._later.append((due, pack))

    def split(self, left: Pack) -> None:
        """Queue the unfinished tasks of a lost pack, in two halves."""
        self.waiting += [half for half in (left[: len(left) // 2], left[len(left) // 2 :]) if half]

    def queue_retry(self, outcome: Answer, pack: Pack, node_lost: bool, seconds: float) -> Answer:
        """Queue the next attempt of a failed member, if it has one; return the outcome, not final in that case.

        Args:
            pack: the pack that the member was in.
            node_lost: whether the node went, and the member with it.
            seconds: time since the pack was begun; a task's `limit_seconds` holds for all its attempts together.
        """
        if not isinstance(outcome, Failure) or not outcome.final or outcome.reason not in RETRIED_REASONS:
            return outcome
        self._failed[outcome.task_id, node_lost] += 1
        if self._failed[outcome.task_id, node_lost] > (MAX_NODES_LOST if node_lost else self._retries):
            return outcome
        pause = 0.0
        if outcome.reason == "out_of_memory" and not node_lost:
            self._short[outcome.task_id] += 1
            pause = PAUSE_SECONDS * self._short[outcome.task_id]
        together = [task for task in pack if task.id == outcome.task_id or not task.work.divisible]
        again = [_next_attempt(task, seconds + pause) for task in together]
        if again[0].limit_seconds is not None and again[0].limit_seconds <= 0:
            return outcome
        if outcome.task_id != again[0].id:  # a pack that is not divisible is queued once, with its first task
            return replace(outcome, final=False)
        if pause:
            self.pause(again, time.monotonic() + pause)
        else:
            self.waiting.append(again)
        return replace(outcome, final=False)


def _next_attempt(task: Task, seconds: float) -> Task:
    """Return a task's next attempt, after `seconds_to_next` of its time limit have passed."""
    left = None if task.limit_seconds is None else task.limit_seconds - seconds
    return replace(task, attempt=task.attempt + 1, limit_seconds=left)


def settle_lost_pack(
    pack: Pack, reason: Reason, message: str, seconds: float, store: Store
) -> tuple[Sequence[Answer], list[Task]]:
    """Return the outcomes of a pack whose actor is gone, and the next attempts of its unfinished tasks.

    A single member, or a pack that is not divisible, fails as it is: nothing is left of it here, and
    `PackRetries.queue_retry` decides whether it is tried again.
    """
    if len(pack) == 1 or not pack[0].work.divisible:
        return [Failure(task.id, task.attempt, reason, message, seconds, "") for task in pack], []
    finished = list(finished_before(pack, store))
    done = {report.task_id for report in finished}
    left = [task for task in pack if task.id not in done]
    names = ", ".join(task.id for task in left[:MAX_MEMBERS_NAMED]) + (", …" if len(left) > MAX_MEMBERS_NAMED else "")
    why = f"{message} (in a pack of {len(pack)}, with {names} unfinished; they are split and tried again)"
    failures = [Failure(task.id, task.attempt, reason, why, seconds / len(pack), "", final=False) for task in left]
    return [*finished, *failures], [_next_attempt(task, seconds) for task in left]
