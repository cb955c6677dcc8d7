"""A runner with a warm pool of Ray actors, each of which carries out one pack of members at a time.

    packs ──pull──► slot 1: starting ─► idle ─► busy ──► outcomes ──► yield
                    slot 2: …                    │
                                                 └─ died, timed out, out of memory ─► the actor is replaced,
                                                                                      see `_retries`

A further attempt has the same seed and the next number, and continues from the last checkpoint.

An actor occupies the resources of its pack, and is used again only for packs with the same resources. Packs that do not
fit beside the running ones wait for room, a few at most, while others go first. An idle actor ends if a pack of another
size needs its room. It also takes a pack of its own size whose own actor is still waiting for room.

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
from distens.config.sections import Name, ResourcesSection
from distens.errors import RunError, StorageFailed
from distens.records import Answer, ObjectHandle, Pack, Resources
from distens.runtime import _cluster_use, _connection, _placing, _sizes
from distens.runtime._placing import PlacedActor
from distens.runtime._retries import PAUSE_SECONDS, PackRetries
from distens.runtime._slot import PackOutcome, Slot, reason_of, settle_pack
from distens.runtime._spare import SpareActors
from distens.runtime.protocol import RunContext
from distens.storage.store import Store

log = logging.getLogger("distens")

START_SECONDS = 60.0

PATIENCE_SECONDS = 10.0
"""After this wait, an actor that is not up may lack room on any single node, though the nodes together have enough."""

START_FAILURES = 5
"""Actors in a row that may fail to start before the run fails; if memory is short, the number of pauses."""


@dataclass
class RayActors:
    """A runner on a Ray cluster, or on a local Ray.

    Attributes:
        address: a Ray cluster (`auto`, `host:port`, `ray://…`); without one, the cluster found by Ray, or a local Ray.
        cpus_per_member, gpus_per_member: the CPUs and GPUs that one member, or one pack, occupies; GPUs may be shared
            (`0.25`). A kind that cannot use GPUs occupies none. There is one thread for each whole CPU, and weights are
            bit-equal only for equal numbers of threads. A member of several processes divides all this among them; each
            has at least one CPU.
        memory_gib_per_member: memory that is reserved on a node for one member; Ray counts it, but does not enforce it.
        custom_per_member: name -> amount of the nodes' custom resources (`ray start --resources`).
        resources: family, or a federation's client -> resources that it occupies instead, such as
            `{boosting: {cpus: 4}, law: {gpus: 2}}`. Members with different resources are not trained together.
        node_labels: only nodes with all these labels are used (`ray start --labels`).
        placement: `pack` fills one node after the other, `spread` puts members on as many nodes as possible.
        wait_seconds: how long to wait at the start for large enough nodes, which autoscaling may bring. If it is above
            zero, as many packs as `concurrency` are requested at once, even if the present nodes have no room for them:
            a cluster scales up for waiting actors.
        concurrency: the number of packs at once; without it, as many as the cluster has room for.
        pack: the largest number of members that are trained together; `1` gives each member an actor of its own.
        retries: how often a member is tried again if its process died, ran out of memory (after a pause) or raised.
        timeout_seconds: a member that trains longer is ended and reported; a pack has this time for each of its
            members.
    """

    dispatch_seconds: ClassVar[float] = 0.002
    sized: ClassVar[bool] = True

    address: str | None = None
    cpus_per_member: Annotated[float, Gt(0)] = 1.0
    gpus_per_member: Annotated[float, Ge(0)] = 0.0
    memory_gib_per_member: Annotated[float, Ge(0)] = 0.0
    custom_per_member: Mapping[str, Annotated[float, Gt(0)]] = field(default_factory=dict)
    resources: Mapping[Name, ResourcesSection] = field(default_factory=dict)
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
                f"custom_per_member: {taken[0]} is not a custom resource; set it with cpus_per_member, "
                "gpus_per_member or memory_gib_per_member"
            )
        custom = tuple(sorted(self.custom_per_member.items()))
        self._usual = Resources(self.cpus_per_member, self.gpus_per_member, self.memory_gib_per_member, custom)
        self._own_sizes = {name: _filled(occupied, self.usual) for name, occupied in self.resources.items()}
        self._busy: list[Slot] = []
        self._spare = SpareActors()
        self._preparing: _connection.BackgroundCall | None = None
        self._shared_ref: Any = None
        self._store: Store | None = None
        self._joined = False  # True if this runner shares a connection that distens made
        self._start_failures, self._short_since, self._short_until = 0, 0.0, 0.0
        self._retries = PackRetries(self.retries)
        self._places = _placing.Placement(
            self.usual, self.node_labels, self.placement, self.wait_seconds, self.concurrency
        )

    @property
    def usual(self) -> Resources:
        """Return the resources that one member, or one pack, occupies."""
        return self._usual

    @property
    def own(self) -> Mapping[str, Resources]:
        """Return name -> resources that the members of that name occupy instead."""
        return self._own_sizes

    def prepare(self, packs: int | None, modules: Sequence[str] = _placing.LARGE_MODULES) -> None:
        """Connect to Ray in the background, and start actors for at most `packs` packs, where there is room.

        In a process that is connected already, all this is done before the call returns.

        Raises:
            RunError: the process is connected already, and no node is large enough for a member.
        """
        self._places.modules = tuple(modules)
        if ray.is_initialized():
            self._prepare(packs)  # in this thread, whose placement with Ray (in a trial of Tune) holds for the actors
        else:
            self._preparing = _connection.BackgroundCall(lambda: self._prepare(packs))

    def _prepare(self, packs: int | None) -> None:
        self.connect()
        if not self.wait_seconds:
            self.check()
        room = min(self.slots(), self._places.free())
        count = room if packs is None else min(packs, room)
        self._spare.prepared += [self._places.start_actor(self.usual) for _ in range(count)]

    def start(self, shared: RunContext, also: Mapping[str, Resources] = {}) -> None:
        """Connect to Ray, check that every member fits on some node, and send the data once to the object store.

        Raises:
            RunError: there is no Ray at the address, or no node is large enough for a member.
        """
        if self._preparing is not None and (error := self._preparing.error()) is not None:
            raise error
        self.connect()
        self.check(also)
        self._shared_ref, self._store = ray.put(shared), shared.store
        log.info("up to %d packs at once, %g CPU each", self.slots(), self.cpus_per_member)

    def check(self, also: Mapping[str, Resources] = {}) -> None:
        """Check that members of every size fit on some node; wait up to `wait_seconds` for such nodes.

        Raises:
            RunError: no node is large enough for one of them.
        """
        self._places.check(also)

    def slots(self) -> int:
        """Return the number of actors of the usual size that the cluster has room for now, or is to make room for.

        Fewer larger actors, or more smaller ones, run at once.
        """
        return self._places.slots()

    def free(self) -> int:
        """Return the number of packs of the usual size that fit beside the running ones, at least one."""
        return max(1, self.slots() - len(self._busy))

    def connect(self) -> None:
        """Join the cluster, or start one; a process that is connected already stays so.

        Raises:
            RunError: there is no cluster at the address, or it refuses the connection; or another run in this process
                is connected to another one.
        """
        self._joined = self._joined or _cluster_use.join(self.address)

    def hold(self, value: Any) -> ObjectHandle:
        """Put a value into Ray's object store, from which each node takes one copy."""
        return ObjectHandle(ray.put(value))

    def run(self, packs: Iterator[Pack]) -> Iterator[Sequence[Answer]]:
        """Pull packs while there is room for them; yield lists of answers in order of arrival."""
        assert self._shared_ref is not None, "start comes first"
        again = self._retries = PackRetries(self.retries)
        while True:
            again.release_due()
            while len(self._busy) < self._places.max_actors() and self._may_begin():
                held = [slot.needs for slot in self._busy]
                pack = _sizes.next_that_fits(packs, again.waiting, held, self._places.room, self.slots())
                if pack is None:  # there are no more packs, or none before the next outcome
                    break
                self._dispatch(pack)
            self._move_to_idle()
            if not self._busy:
                if (pause := again.seconds_to_next()) is None:
                    return
                time.sleep(pause)
            came: list[Answer] = []
            broken: Exception | None = None
            for slot in self._ready():
                self._busy.remove(slot)
                seconds = time.monotonic() - slot.since
                try:
                    if slot.starting:
                        self._begin_pack(slot)
                        continue
                    found = self._ended(slot, seconds)
                except (RunError, StorageFailed) as error:  # raised after the other slots that are ready
                    broken = error
                else:
                    again.split(found.left)
                    came += [
                        again.queue_retry(outcome, slot.pack, slot.node_lost, seconds) for outcome in found.outcomes
                    ]
            if came:
                yield came
            if broken is not None:
                raise broken

    def _may_begin(self) -> bool:
        """Return True if a pack may be dispatched: while memory is short, only to an idle actor."""
        return bool(self._spare.idle) or time.monotonic() >= self._short_until

    def _dispatch(self, pack: Pack) -> None:
        needs = pack[0].resources
        if self._begun_by_idle(pack):
            return
        if (actor := self._spare.take_prepared(needs)) is None:
            self._spare.make_room(needs, [slot.needs for slot in self._busy], self._places.room)
            actor = self._places.start_actor(needs)
        self._busy.append(Slot(actor, pack, actor.handle.begin.remote(self._shared_ref), True, time.monotonic()))

    def _begun_by_idle(self, pack: Pack) -> bool:
        if (actor := self._spare.take_idle(pack[0].resources)) is None:
            return False
        self._begin(actor, pack)
        return True

    def _begin(self, actor: PlacedActor, pack: Pack) -> None:
        self._busy.append(Slot(actor, pack, actor.handle.execute.remote(pack), False, time.monotonic()))

    def _move_to_idle(self) -> None:
        """Move packs whose actors are not up yet to idle actors of their size.

        An actor that waits for room may wait for that of an idle one, or for a node that never comes.
        """
        for slot in [slot for slot in self._busy if slot.starting]:
            if self._begun_by_idle(slot.pack):
                self._busy.remove(slot)
                if slot.needs == self.usual:
                    self._spare.prepared.append(slot.actor)
                else:
                    slot.actor.end()

    def _ready(self) -> list[Slot]:
        """Return the slots whose call ended or whose pack is late.

        Waits for the first such slot, or until a paused pack can be tried again; then the list is empty.
        """
        while self._busy and self._retries.seconds_to_next() != 0:
            refs = [slot.ref for slot in self._busy]
            done, _ = ray.wait(refs, num_returns=1, timeout=1.0)
            if done:  # and all others that are ready: a slow search may propose for all of them at once
                done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            now = time.monotonic()
            found = [slot for slot in self._busy if slot.ref in done or self._late(slot, now)]
            if found:
                return found
            for slot in (slot for slot in self._busy if slot.starting):
                waited = now - slot.since
                if waited > PATIENCE_SECONDS:
                    self._spare.end()
                if waited > START_SECONDS * (slot.warnings_logged + 1):
                    slot.warnings_logged += 1
                    log.warning("%s has been waiting for free resources for %.0f s", slot.pack[0].id, waited)
        return []

    def _late(self, slot: Slot, now: float) -> bool:
        return not slot.starting and now - slot.since > slot.limit(self.timeout_seconds)

    def _begin_pack(self, slot: Slot) -> None:
        try:
            slot.actor.node_id = ray.get(slot.ref)
        except RayError as error:
            short, now = reason_of(error) == "out_of_memory", time.monotonic()
            if not short:
                self._start_failures += 1
            elif slot.since >= self._short_since:  # of the actors begun before the last pause, only one counts
                self._start_failures += 1
                self._short_since, self._short_until = now, now + PAUSE_SECONDS * self._start_failures
            if self._start_failures >= START_FAILURES:
                raise RunError(f"runtime: {START_FAILURES} actors in a row did not start; the last: {error}") from error
            if short:
                self._retries.pause(slot.pack, self._short_until)
            else:
                self._dispatch(slot.pack)
            return
        self._start_failures = 0
        self._begin(slot.actor, slot.pack)

    def _ended(self, slot: Slot, seconds: float) -> PackOutcome:
        """Return the outcomes of a pack after `seconds`, and keep its actor for the next pack if it lives."""
        assert self._store is not None
        found = settle_pack(slot, seconds, slot.limit(self.timeout_seconds), self._places.lives, self._store)
        if found.lives:
            self._spare.idle.append(slot.actor)
        return found

    def stop(self) -> None:
        """End this runner's actors, running members included; disconnect from Ray if no other run needs it."""
        if self._preparing is not None:
            self._preparing.error()  # only waits; `start` raises the error, if it was called
        if ray.is_initialized():
            for slot in self._busy:
                slot.actor.end()
            self._spare.end()
        if self._joined:
            _cluster_use.leave()
        if self._preparing is not None:
            self._preparing.end()
        self._busy, self._spare, self._preparing = [], SpareActors(), None
        self._shared_ref, self._store, self._joined = None, None, False


def _filled(occupied: ResourcesSection, usual: Resources) -> Resources:
    given = occupied.model_dump(exclude_none=True)
    if "custom" in given:
        given["custom"] = tuple(sorted(given["custom"].items()))
    return replace(usual, **given)
