"""An actor with a pack: the pack's time limit, and its outcomes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, OutOfMemoryError, RayError

from distens.credentials import redact
from distens.errors import StorageFailed
from distens.records import Answer, Failure, Pack, Reason, Resources, Task
from distens.runtime._placing import PlacedActor
from distens.runtime._retries import settle_lost_pack
from distens.storage.store import Store


@dataclass(eq=False)
class Slot:
    """An actor and its pack.

    Attributes:
        ref: Ray's reference of the actor's last call.
        starting: whether that call starts the process, so that the start is not counted as the members' time.
        since: when the call was made, a time of `time.monotonic`.
        told: the number of log messages so far that the slot waits for resources.
        node_lost: whether the node went, and the actor with it.
    """

    actor: PlacedActor
    pack: Pack
    ref: Any
    starting: bool
    since: float
    warnings_logged: int = 0
    node_lost: bool = False

    @property
    def needs(self) -> Resources:
        """Return the resources that the pack occupies."""
        return self.pack[0].resources

    def limit(self, timeout_seconds: float | None) -> float:
        """Return the pack's time limit: `timeout_seconds` for each of its members, or a task's own limit if less."""
        own = math.inf if timeout_seconds is None else timeout_seconds * len(self.pack)
        return min([own, *(task.limit_seconds for task in self.pack if task.limit_seconds is not None)])


@dataclass(frozen=True)
class PackOutcome:
    """The outcomes of a pack, and what is left of it.

    Attributes:
        outcomes: the outcomes of its tasks.
        left: the next attempts of the tasks that are tried again.
        lives: whether its actor lives and can take another pack.
    """

    outcomes: Sequence[Answer]
    left: Sequence[Task] = ()
    lives: bool = False


def settle_pack(slot: Slot, seconds: float, limit: float, lives: Callable[[str], bool], store: Store) -> PackOutcome:
    """Return the outcomes of a pack whose call ended or that is late; end its actor unless it can take another pack.

    Args:
        seconds: time since the pack began.
        limit: the pack's time limit; with more it is late.
        lives: returns True if the node with an id is alive.
        store: the folder in which finished members of a lost pack are looked for.

    Raises:
        StorageFailed: the actor could not write.
    """
    reason: Reason
    try:
        outcomes: list[Answer] = ray.get(slot.ref, timeout=0)
    except GetTimeoutError:
        own_time_over = _task_limit_passed(slot.pack, seconds)
        option = slot.pack[0].work.limit_option if own_time_over else "runtime.timeout_seconds"
        reason, message = "timed_out", f"still training after {limit:g} s ({option})"
        if own_time_over:
            slot.actor.end()
            return PackOutcome([Failure(task.id, task.attempt, reason, message, seconds, "") for task in slot.pack])
    except StorageFailed as error:  # Ray's own error and the actor's in one
        slot.actor.end()
        raise StorageFailed(str(getattr(error, "cause", error))) from None
    except RayError as error:
        reason, message = reason_of(error), _one_line(error)
        # Ray knows at once that a process died; an actor that cannot be reached is on a lost node.
        slot.node_lost = isinstance(error, ActorUnavailableError) or not lives(slot.actor.node_id)
        message = f"its node is lost: {message}" if slot.node_lost else message
    else:
        if all(not isinstance(o, Failure) or o.reason in ("diverged", "refused") for o in outcomes):
            return PackOutcome(outcomes, lives=True)
        slot.actor.end()  # it may be in any state: the next pack gets a new process
        return PackOutcome(outcomes)
    slot.actor.end()
    return PackOutcome(*settle_lost_pack(slot.pack, reason, message, seconds, store))


def reason_of(error: RayError) -> Reason:
    """Return the reason of a process's end: `out_of_memory` or `crashed`."""
    # Only Ray's memory monitor names the cause; the kernel's leaves a killed process.
    oom = isinstance(error, OutOfMemoryError) or "running low on memory" in str(error)
    return "out_of_memory" if oom else "crashed"


def _task_limit_passed(pack: Pack, seconds: float) -> bool:
    """Return True if a task's own limit has passed: its round has no more time, so another attempt makes no sense."""
    return any(task.limit_seconds is not None and seconds >= task.limit_seconds for task in pack)


def _one_line(error: RayError, most: int = 300) -> str:
    """Return Ray's message about a lost process as one line, since our log shows only the last line of a message."""
    text = redact(" ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split()))
    return text if len(text) <= most else f"{text[:most]}…"
