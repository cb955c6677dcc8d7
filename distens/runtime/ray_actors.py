"""A warm pool of Ray actors, one pack of members each at a time. The only file with Ray's actors.

    packs ──pull──► slot 1: starting ─► idle ─► busy ──► outcomes ──► yield
                    slot 2: …                    │
                                                 └─ died, timed out, out of memory ─► the actor is replaced,
                                                                                      see `_retries`

A further attempt has the same seed and the next number, and goes on from the last checkpoint.

An actor occupies what its packs say, and is used again for such packs alone. Of packs that there is no room for beside
those that run, a few wait for it while others go first; an idle actor never holds what a pack of another size needs,
and carries out one of its own size whose actor has no room.

Ray's own restarts are off (`max_restarts=0`): a restarted actor would run a task again under its old attempt number,
and a node that vanishes would burn its retries while Ray still waits for it.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import ray
from annotated_types import Ge, Gt
from ray.exceptions import ActorUnavailableError, GetTimeoutError, OutOfMemoryError, RayError

from distens import packing
from distens.errors import RunError, StorageFailed
from distens.records import Answer, Failure, Held, Pack, Reason, Resources, Task
from distens.runtime import _connection, _placing, _sizes
from distens.runtime._retries import PAUSE_SECONDS, Retries, lost
from distens.runtime.protocol import Shared
from distens.storage.store import Store

log = logging.getLogger("distens")

START_SECONDS = 60.0

PATIENCE_SECONDS = 10.0
"""After so long an actor that does not come up may lack room that is there in all, but on no one node."""

START_FAILURES = 5
"""So many actors in a row that do not come up are no accident; if it is for want of memory, so many pauses."""


@dataclass
class _Slot:
    """An actor and the pack it has: `starting` until the process is up, so that start-up is not the members' time.

    Attributes:
        said: how often it was said that it waits.
        node_id: where it is, once it is up.
        node_lost: the node went, and the actor with it.
    """

    actor: Any
    pack: Pack
    ref: Any
    starting: bool
    since: float
    said: int = 0
    node_id: str = ""
    node_lost: bool = False

    @property
    def needs(self) -> Resources:
        return self.pack[0].resources


@dataclass
class RayActors:
    """Attributes:
    address: a Ray cluster (`auto`, `host:port`, `ray://…`); without one, the cluster found by Ray, or a local Ray.
    cpus_per_member, gpus_per_member: what one member, or one pack, occupies; GPUs may be shared (`0.25`). A federation
        may say otherwise of single clients (`federated.resources`).
    memory_gib_per_member: keeps as much memory of a node for it: Ray counts, and does not enforce.
    custom_per_member: name -> amount, of what nodes were given besides (`ray start --resources`).
    node_labels: only nodes with all these labels (`ray start --labels`).
    placement: `pack` fills one node after the other, `spread` puts members on as many as there are.
    wait_seconds: how long to wait at the start for nodes that are large enough, and that autoscaling may bring. With
        `concurrency`, so many packs are asked for at once, also beyond what the nodes that there are have room for: a
        cluster scales for what waits.
    concurrency: packs at once; without it, as many of that size as the cluster's resources hold.
    pack: how many members are trained together; `1` gives each an actor of its own.
    retries: how often a member is tried again whose process died, ran out of memory (after a pause) or raised.
    timeout_seconds: a member that trains longer is ended and named; a pack has so much time for each of its members.
    """

    dispatch_seconds: ClassVar[float] = 0.002
    sized: ClassVar[bool] = True

    address: str | None = None
    cpus_per_member: Annotated[float, Gt(0)] = 1.0
    gpus_per_member: Annotated[float, Ge(0)] = 0.0
    memory_gib_per_member: Annotated[float, Ge(0)] = 0.0
    custom_per_member: Mapping[str, Annotated[float, Gt(0)]] = field(default_factory=dict)
    node_labels: Mapping[str, str] = field(default_factory=dict)
    placement: Literal["pack", "spread"] = "pack"
    wait_seconds: Annotated[float, Ge(0)] = 0.0
    concurrency: Annotated[int, Ge(1)] | None = None
    pack: packing.PackSize = "auto"
    retries: Annotated[int, Ge(0)] = 2
    timeout_seconds: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if self.gpus_per_member > 1 and not float(self.gpus_per_member).is_integer():
            raise ValueError(f"gpus_per_member: a fraction or a whole number of GPUs, found {self.gpus_per_member}")
        taken = sorted({"CPU", "GPU", "memory", "object_store_memory"} & set(self.custom_per_member))
        if taken:
            raise ValueError(
                f"custom_per_member: {taken[0]} is not custom; cpus_, gpus_ and memory_gib_per_member say it"
            )
        self._busy: list[_Slot] = []
        self._idle: list[tuple[Resources, Any, str]] = []  # and the id of its node
        self._prepared: list[Any] = []
        self._preparing: _connection.Background | None = None
        self._shared_ref: Any = None
        self._store: Store | None = None
        self._head: _connection.HeadWatch | None = None  # if it was we who connected
        self._start_failures, self._short_since, self._short_until = 0, 0.0, 0.0
        self._retries = Retries(self.retries)
        self._places = _placing.Places(
            self.usual, self.node_labels, self.placement, self.wait_seconds, self.concurrency
        )

    @property
    def usual(self) -> Resources:
        """Return what one member, or one pack, occupies."""
        custom = tuple(sorted(self.custom_per_member.items()))
        return Resources(self.cpus_per_member, self.gpus_per_member, self.memory_gib_per_member, custom)

    def prepare(self, packs: int | None) -> None:
        """Connect to Ray, and start actors for so many packs at most, where there is room; go on meanwhile."""
        if ray.is_initialized():
            self._prepare(packs)  # in this thread: whatever else it does with Ray, as in a trial of Tune, holds for it
        else:
            self._preparing = _connection.Background(lambda: self._prepare(packs))

    def _prepare(self, packs: int | None) -> None:
        if not ray.is_initialized():
            self.connect()
        if not self.wait_seconds:
            self.check()
        room = min(self.slots(), self._places.free())
        count = room if packs is None else min(packs, room)
        self._prepared += [self._places.actor(self.usual) for _ in range(count)]

    def start(self, shared: Shared, also: Mapping[str, Resources] = {}) -> None:
        """Connect to Ray, check that every member fits somewhere, and send the data once to the object store.

        Raises:
            RunError: no Ray at the address, or no node is large enough for a member.
        """
        if self._preparing is not None and (error := self._preparing.error()) is not None:
            raise error
        if not ray.is_initialized():
            self.connect()
        self.check(also)
        self._shared_ref, self._store = ray.put(shared), shared.store
        log.info("up to %d packs at once, %g CPU each", self.slots(), self.cpus_per_member)

    def check(self, also: Mapping[str, Resources] = {}) -> None:
        """See that members fit somewhere; wait for `wait_seconds` for nodes on which they do.

        Raises:
            RunError: no node is large enough for one.
        """
        self._places.check(also)

    def slots(self) -> int:
        """Return how many actors of the usual size the cluster, as it is now, has room for.

        So many packs run at once at most, also of other sizes: fewer where they are larger, no more where smaller.
        """
        return self._places.slots()

    def free(self) -> int:
        """Return how many more packs of the usual size there is room for beside those that run, one at least."""
        return max(1, self.slots() - len(self._busy))

    def connect(self) -> None:
        """Join the cluster, or start one.

        Raises:
            RunError: there is none at the address, or it turns us away.
        """
        self._head = _connection.connect(self.address)

    def hold(self, value: Any) -> Held:
        """Put a value into Ray's object store, from where each node takes one copy."""
        return Held(ray.put(value))

    def run(self, packs: Iterator[Pack]) -> Iterator[Sequence[Answer]]:
        """Pull a pack for every free actor; yield outcomes in order of arrival."""
        assert self._shared_ref is not None, "start comes first"
        again = self._retries = Retries(self.retries)
        while True:
            again.wake()
            while len(self._busy) < (slots := self.slots()) and (self._idle or time.monotonic() >= self._short_until):
                held = [slot.needs for slot in self._busy]
                pack = _sizes.next_that_fits(packs, again.waiting, held, self._places.room, slots)
                if pack is None:  # there is no more, or none before the next outcome
                    break
                self._dispatch(pack)
            self._hand_over()
            if not self._busy:
                if (pause := again.seconds()) is None:
                    return
                time.sleep(pause)
            came: list[Answer] = []
            broken: Exception | None = None
            for slot in self._ready():
                self._busy.remove(slot)
                seconds = time.monotonic() - slot.since
                try:
                    if slot.starting:
                        self._started(slot)
                        continue
                    outcomes, left = self._outcomes(slot, seconds)
                except (RunError, StorageFailed) as error:  # once the others are heard that ended with it
                    broken = error
                else:
                    again.split(left)
                    came += [again.told(outcome, slot.pack, slot.node_lost, seconds) for outcome in outcomes]
            if came:
                yield came
            if broken is not None:
                raise broken

    def _dispatch(self, pack: Pack) -> None:
        needs = pack[0].resources
        if self._begun_by_idle(pack):
            return
        if self._prepared and needs == self.usual:
            actor = self._prepared.pop(0)  # the oldest is up, if any is
        else:
            self._make_room(needs)
            actor = self._places.actor(needs)
        self._busy.append(_Slot(actor, pack, actor.begin.remote(self._shared_ref), True, time.monotonic()))

    def _begun_by_idle(self, pack: Pack) -> bool:
        for place, (size, actor, node_id) in enumerate(self._idle):
            if size == pack[0].resources:
                del self._idle[place]
                self._begin(actor, pack, node_id)
                return True
        return False

    def _begin(self, actor: Any, pack: Pack, node_id: str) -> None:
        slot = _Slot(actor, pack, actor.execute.remote(pack), False, time.monotonic(), node_id=node_id)
        self._busy.append(slot)

    def _hand_over(self) -> None:
        """Give packs whose actors are not up to actors for which there are no other packs: what waits for room may wait
        for theirs, or for a node that never comes."""
        for slot in [slot for slot in self._busy if slot.starting]:
            if self._begun_by_idle(slot.pack):
                self._busy.remove(slot)
                if slot.needs == self.usual:
                    self._prepared.append(slot.actor)
                else:
                    ray.kill(slot.actor)

    def _make_room(self, needs: Resources) -> None:
        """End actors without a pack, which are of other sizes, until there is room for one of this size."""
        spare, held = self._spare(), [needs, *(slot.needs for slot in self._busy)]
        for place in _sizes.to_end([size for size, _ in spare], held, self._places.room):
            self._end(spare[place][1])

    def _spare(self) -> list[tuple[Resources, Any]]:
        """Return actors without a pack."""
        return [
            *((size, actor) for size, actor, _ in self._idle),
            *((self.usual, actor) for actor in self._prepared),
        ]

    def _end(self, spare: Any) -> None:
        ray.kill(spare)
        self._idle = [idle for idle in self._idle if idle[1] is not spare]
        self._prepared = [actor for actor in self._prepared if actor is not spare]

    def _ready(self) -> list[_Slot]:
        """Return slots whose call ended or whose pack's time is over; wait for the first such, or until something that
        has paused can be tried again."""
        while self._busy and self._retries.seconds() != 0:
            refs = [slot.ref for slot in self._busy]
            done, _ = ray.wait(refs, num_returns=1, timeout=1.0)
            if done:  # and whoever else is: a slow search may think of all of them at once
                done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            now = time.monotonic()
            found = [slot for slot in self._busy if slot.ref in done or self._late(slot, now)]
            if found:
                return found
            for slot in (slot for slot in self._busy if slot.starting):
                waited = now - slot.since
                if waited > PATIENCE_SECONDS:
                    for _, actor in self._spare():
                        self._end(actor)
                if waited > START_SECONDS * (slot.said + 1):
                    slot.said += 1
                    log.warning("%s waits for free resources since %.0f s", slot.pack[0].id, waited)
        return []

    def _late(self, slot: _Slot, now: float) -> bool:
        return not slot.starting and now - slot.since > self._limit(slot.pack)

    def _limit(self, pack: Pack) -> float:
        own = math.inf if self.timeout_seconds is None else self.timeout_seconds * len(pack)
        return min([own, *(task.limit_seconds for task in pack if task.limit_seconds is not None)])

    def _started(self, slot: _Slot) -> None:
        try:
            node_id: Any = ray.get(slot.ref)
        except RayError as error:
            short, now = _reason(error) == "out_of_memory", time.monotonic()
            if not short:
                self._start_failures += 1
            elif slot.since >= self._short_since:  # of those that began before the last pause, one counts
                self._start_failures += 1
                self._short_since, self._short_until = now, now + PAUSE_SECONDS * self._start_failures
            if self._start_failures >= START_FAILURES:
                raise RunError(f"runtime: {START_FAILURES} actors in a row did not start; the last: {error}") from error
            if short:
                self._retries.later(slot.pack, self._short_until)
            else:
                self._dispatch(slot.pack)
            return
        self._start_failures = 0
        self._begin(slot.actor, slot.pack, node_id)

    def _outcomes(self, slot: _Slot, seconds: float) -> tuple[Sequence[Answer], list[Task]]:
        """Return what came of a pack after so many seconds, and what of it is left to be tried again."""
        reason: Reason
        try:
            outcomes: list[Answer] = ray.get(slot.ref, timeout=0)
        except GetTimeoutError:
            limit, round_over = self._limit(slot.pack), _round_over(slot.pack, seconds)
            option = "federated.deadline_seconds" if round_over else "runtime.timeout_seconds"
            reason, message = "timed_out", f"still training after {limit:g} s ({option})"
            if round_over:
                ray.kill(slot.actor)
                return [Failure(task.id, task.attempt, reason, message, seconds, "") for task in slot.pack], []
        except StorageFailed as error:  # Ray's own error and the actor's in one
            ray.kill(slot.actor)
            raise StorageFailed(str(getattr(error, "cause", error))) from None
        except RayError as error:
            reason, message = _reason(error), _one_line(error)
            # A process that died is known to be dead at once; what cannot be reached is on a node that went.
            slot.node_lost = isinstance(error, ActorUnavailableError) or not self._places.lives(slot.node_id)
            message = f"its node is lost: {message}" if slot.node_lost else message
        else:
            if any(isinstance(o, Failure) and o.reason not in ("diverged", "refused") for o in outcomes):
                ray.kill(slot.actor)  # whatever state it is in: the next pack gets a new process
            else:
                self._idle.append((slot.needs, slot.actor, slot.node_id))
            return outcomes, []
        ray.kill(slot.actor)
        assert self._store is not None
        return lost(slot.pack, reason, message, seconds, self._store)

    def stop(self) -> None:
        """End our actors, running members included; leave a Ray that was there before us."""
        if self._preparing is not None:
            self._preparing.error()  # raised by `start`, if it came so far
        if self._head is not None:
            self._head.end()
        if ray.is_initialized():
            for actor in [*(slot.actor for slot in self._busy), *(actor for _, actor in self._spare())]:
                ray.kill(actor)
            if self._head is not None:
                ray.shutdown()
        if self._preparing is not None:
            self._preparing.end()
        self._busy, self._idle, self._prepared, self._preparing = [], [], [], None
        self._shared_ref, self._store, self._head = None, None, None


def _round_over(pack: Pack, seconds: float) -> bool:
    """Return whether the round that these tasks belong to has no more time, so that it makes no sense to try again."""
    return any(task.limit_seconds is not None and seconds >= task.limit_seconds for task in pack)


def _reason(error: RayError) -> Reason:
    # Ray's memory monitor says so itself; the kernel's only leaves a killed process.
    oom = isinstance(error, OutOfMemoryError) or "running low on memory" in str(error)
    return "out_of_memory" if oom else "crashed"


def _one_line(error: RayError, most: int = 300) -> str:
    """Return what Ray says of a lost process, as one line: its log shows the last line of a message."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return text if len(text) <= most else f"{text[:most]}…"
