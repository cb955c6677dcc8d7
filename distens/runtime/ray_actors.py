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
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import ray
from annotated_types import Ge, Gt
from ray.exceptions import RayError

from distens import packing
from distens.config.sections import Name, Occupied
from distens.errors import RunError, StorageFailed
from distens.records import Answer, Held, Pack, Resources
from distens.runtime import _connection, _placing, _sizes
from distens.runtime._placing import Placed
from distens.runtime._retries import PAUSE_SECONDS, Retries
from distens.runtime._slot import Ended, Slot, ended, reason_of
from distens.runtime._spare import Spare
from distens.runtime.protocol import Shared
from distens.storage.store import Store

log = logging.getLogger("distens")

START_SECONDS = 60.0

PATIENCE_SECONDS = 10.0
"""After so long an actor that does not come up may lack room that is there in all, but on no one node."""

START_FAILURES = 5
"""So many actors in a row that do not come up are no accident; if it is for want of memory, so many pauses."""


@dataclass
class RayActors:
    """Attributes:
    address: a Ray cluster (`auto`, `host:port`, `ray://…`); without one, the cluster found by Ray, or a local Ray.
    cpus_per_member, gpus_per_member: what one member, or one pack, occupies; GPUs may be shared (`0.25`). A kind to
        which GPUs are of no use occupies none. Threads are as many as whole CPUs, and weights are the same bits only
        with as many threads. A member of several processes divides all this among them; each has one CPU at least.
    memory_gib_per_member: keeps as much memory of a node for it: Ray counts, and does not enforce.
    custom_per_member: name -> amount, of what nodes were given besides (`ray start --resources`).
    resources: family, or a federation's client -> what it occupies instead: `{boosting: {cpus: 4}, law: {gpus: 2}}`.
        Members that occupy different things are not trained together.
    node_labels: only nodes with all these labels (`ray start --labels`).
    placement: `pack` fills one node after the other, `spread` puts members on as many as there are.
    wait_seconds: how long to wait at the start for nodes that are large enough, and that autoscaling may bring. With
        `concurrency`, so many packs are asked for at once, also beyond what the nodes that there are have room for: a
        cluster scales for what waits.
    concurrency: packs at once; without it, as many as the cluster's resources hold.
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
    resources: Mapping[Name, Occupied] = field(default_factory=dict)
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
        self._own = {name: _filled(occupied, self.usual) for name, occupied in self.resources.items()}
        self._busy: list[Slot] = []
        self._spare = Spare()
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

    @property
    def own(self) -> Mapping[str, Resources]:
        """Return name -> what members of that name occupy instead."""
        return self._own

    def prepare(self, packs: int | None, modules: Sequence[str] = _placing.LARGE) -> None:
        """Connect to Ray, and start actors for so many packs at most, where there is room; go on meanwhile."""
        self._places.modules = tuple(modules)
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
        self._spare.prepared += [self._places.actor(self.usual) for _ in range(count)]

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

        Of other sizes fewer run at once where they are larger, and more where they are smaller.
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
            while len(self._busy) < self._places.most() and self._may_begin():
                held = [slot.needs for slot in self._busy]
                pack = _sizes.next_that_fits(packs, again.waiting, held, self._places.room, self.slots())
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
                    found = self._ended(slot, seconds)
                except (RunError, StorageFailed) as error:  # once the others are heard that ended with it
                    broken = error
                else:
                    again.split(found.left)
                    came += [again.told(outcome, slot.pack, slot.node_lost, seconds) for outcome in found.outcomes]
            if came:
                yield came
            if broken is not None:
                raise broken

    def _may_begin(self) -> bool:
        """Return whether a pack may go to an actor: to a new one not while memory is short."""
        return bool(self._spare.idle) or time.monotonic() >= self._short_until

    def _dispatch(self, pack: Pack) -> None:
        needs = pack[0].resources
        if self._begun_by_idle(pack):
            return
        if (actor := self._spare.take_prepared(needs)) is None:
            self._spare.make_room(needs, [slot.needs for slot in self._busy], self._places.room)
            actor = self._places.actor(needs)
        self._busy.append(Slot(actor, pack, actor.handle.begin.remote(self._shared_ref), True, time.monotonic()))

    def _begun_by_idle(self, pack: Pack) -> bool:
        if (actor := self._spare.take_idle(pack[0].resources)) is None:
            return False
        self._begin(actor, pack)
        return True

    def _begin(self, actor: Placed, pack: Pack) -> None:
        self._busy.append(Slot(actor, pack, actor.handle.execute.remote(pack), False, time.monotonic()))

    def _hand_over(self) -> None:
        """Give packs whose actors are not up to actors for which there are no other packs: what waits for room may wait
        for theirs, or for a node that never comes."""
        for slot in [slot for slot in self._busy if slot.starting]:
            if self._begun_by_idle(slot.pack):
                self._busy.remove(slot)
                if slot.needs == self.usual:
                    self._spare.prepared.append(slot.actor)
                else:
                    slot.actor.end()

    def _ready(self) -> list[Slot]:
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
                    self._spare.end()
                if waited > START_SECONDS * (slot.told + 1):
                    slot.told += 1
                    log.warning("%s waits for free resources since %.0f s", slot.pack[0].id, waited)
        return []

    def _late(self, slot: Slot, now: float) -> bool:
        return not slot.starting and now - slot.since > slot.limit(self.timeout_seconds)

    def _started(self, slot: Slot) -> None:
        try:
            slot.actor.node_id = ray.get(slot.ref)
        except RayError as error:
            short, now = reason_of(error) == "out_of_memory", time.monotonic()
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
        self._begin(slot.actor, slot.pack)

    def _ended(self, slot: Slot, seconds: float) -> Ended:
        """Return what came of a pack after so many seconds; keep its actor for the next, if it lives."""
        assert self._store is not None
        found = ended(slot, seconds, slot.limit(self.timeout_seconds), self._places.lives, self._store)
        if found.lives:
            self._spare.idle.append(slot.actor)
        return found

    def stop(self) -> None:
        """End our actors, running members included; leave a Ray that was there before us."""
        if self._preparing is not None:
            self._preparing.error()  # raised by `start`, if it came so far
        if self._head is not None:
            self._head.end()
        if ray.is_initialized():
            for slot in self._busy:
                slot.actor.end()
            self._spare.end()
            if self._head is not None:
                ray.shutdown()
        if self._preparing is not None:
            self._preparing.end()
        self._busy, self._spare, self._preparing = [], Spare(), None
        self._shared_ref, self._store, self._head = None, None, None


def _filled(occupied: Occupied, usual: Resources) -> Resources:
    given = occupied.model_dump(exclude_none=True)
    if "custom" in given:
        given["custom"] = tuple(sorted(given["custom"].items()))
    return replace(usual, **given)
