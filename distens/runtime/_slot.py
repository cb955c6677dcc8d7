"""An actor with a pack: how long it may take, and what came of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, OutOfMemoryError, RayError

from distens.errors import StorageFailed
from distens.records import Answer, Failure, Pack, Reason, Resources, Task
from distens.runtime._placing import Placed
from distens.runtime._retries import lost
from distens.storage.store import Store


@dataclass(eq=False)
class Slot:
    """An actor and the pack it has: `starting` until the process is up, so that start-up is not the members' time.

    Attributes:
        ref: what it was asked last.
        since: when.
        told: how often it was said that it waits.
        node_lost: the node went, and the actor with it.
    """

    actor: Placed
    pack: Pack
    ref: Any
    starting: bool
    since: float
    told: int = 0
    node_lost: bool = False

    @property
    def needs(self) -> Resources:
        """Return what the pack occupies."""
        return self.pack[0].resources

    def limit(self, timeout_seconds: float | None) -> float:
        """Return after how many seconds the pack is ended: it has so many for each of its members, or its round's."""
        own = math.inf if timeout_seconds is None else timeout_seconds * len(self.pack)
        return min([own, *(task.limit_seconds for task in self.pack if task.limit_seconds is not None)])


@dataclass(frozen=True)
class Ended:
    """What came of a pack.

    Attributes:
        outcomes: of its tasks.
        left: those that are tried again.
        lives: whether its actor does, and can take another pack.
    """

    outcomes: Sequence[Answer]
    left: Sequence[Task] = ()
    lives: bool = False


def ended(slot: Slot, seconds: float, limit: float, lives: Callable[[str], bool], store: Store) -> Ended:
    """Return what came of a pack whose call ended, or that is late; end its actor, unless it can take another one.

    Args:
        seconds: since it began.
        limit: after so many it is late.
        lives: returns whether a node is there, by its id.
        store: where finished members of a lost pack are looked for.

    Raises:
        StorageFailed: the actor could not write.
    """
    reason: Reason
    try:
        outcomes: list[Answer] = ray.get(slot.ref, timeout=0)
    except GetTimeoutError:
        own_time_over = _own_time_over(slot.pack, seconds)
        option = slot.pack[0].work.limit_option if own_time_over else "runtime.timeout_seconds"
        reason, message = "timed_out", f"still training after {limit:g} s ({option})"
        if own_time_over:
            slot.actor.end()
            return Ended([Failure(task.id, task.attempt, reason, message, seconds, "") for task in slot.pack])
    except StorageFailed as error:  # Ray's own error and the actor's in one
        slot.actor.end()
        raise StorageFailed(str(getattr(error, "cause", error))) from None
    except RayError as error:
        reason, message = reason_of(error), _one_line(error)
        # A process that died is known to be dead at once; what cannot be reached is on a node that went.
        slot.node_lost = isinstance(error, ActorUnavailableError) or not lives(slot.actor.node_id)
        message = f"its node is lost: {message}" if slot.node_lost else message
    else:
        if all(not isinstance(o, Failure) or o.reason in ("diverged", "refused") for o in outcomes):
            return Ended(outcomes, lives=True)
        slot.actor.end()  # whatever state it is in: the next pack gets a new process
        return Ended(outcomes)
    slot.actor.end()
    return Ended(*lost(slot.pack, reason, message, seconds, store))


def reason_of(error: RayError) -> Reason:
    """Return why a process is gone."""
    # Ray's memory monitor says so itself; the kernel's only leaves a killed process.
    oom = isinstance(error, OutOfMemoryError) or "running low on memory" in str(error)
    return "out_of_memory" if oom else "crashed"


def _own_time_over(pack: Pack, seconds: float) -> bool:
    """Return whether the round that these tasks belong to has no more time, so that it makes no sense to try again."""
    return any(task.limit_seconds is not None and seconds >= task.limit_seconds for task in pack)


def _one_line(error: RayError, most: int = 300) -> str:
    """Return what Ray says of a lost process, as one line: its log shows the last line of a message."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return text if len(text) <= most else f"{text[:most]}…"
