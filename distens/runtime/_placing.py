"""Placement of actors: the nodes that a cluster has, or may bring, and the room on them."""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.util import client
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distens.errors import RunError
from distens.records import Answer, ObjectHandle, Pack, Resources
from distens.runtime import _sizes
from distens.runtime._execute import execute
from distens.runtime.protocol import RunContext

log = logging.getLogger("distens")

LARGE_MODULES = ("torch",)
"""Modules that take seconds to import. Actors import them first, so that this is not counted as a member's time."""

ROOM_SECONDS = 5.0
POLL_SECONDS = 0.5


class _Actor:
    """A process that trains one pack at a time, and keeps libraries loaded and data mapped in between."""

    def __init__(self, threads: int, search_path: list[str], modules: tuple[str, ...]) -> None:
        # For a user's own modules, beside a config.
        sys.path += [folder for folder in search_path if folder not in sys.path]
        os.environ["OMP_NUM_THREADS"] = str(threads)  # must precede the import of torch or LightGBM
        for module in modules:
            importlib.import_module(module)
        self._threads = threads

    def begin(self, shared: RunContext) -> str:
        """Keep the values that all packs need; return the id of this actor's node."""
        self._shared = shared
        return ray.get_runtime_context().get_node_id()

    def execute(self, pack: Pack) -> list[Answer]:
        return execute(pack, self._shared, self._threads, _fetch)


def _fetch(held: ObjectHandle) -> Any:
    return ray.get(held.reference)


@dataclass(eq=False)
class PlacedActor:
    """An actor that was started, and the room that it occupies.

    Attributes:
        handle: Ray's handle of the actor.
        size: the resources that it occupies, once there is room for it.
        reservation: Ray's placement group with all resources of a member of several processes, within which the actor
            runs; None for a member of one process.
        node_id: the actor's node, once it is up.
    """

    handle: Any
    size: Resources
    reservation: PlacementGroup | None = None
    node_id: str = ""

    def end(self) -> None:
        """End the actor, even if it is busy, and everything else in its reservation."""
        ray.kill(self.handle)
        if self.reservation is not None:
            remove_placement_group(self.reservation)


@dataclass
class Placement:
    """The nodes on which a run's actors may be placed.

    Attributes:
        usual: the usual size of an actor.
        labels, placement, wait_seconds, concurrency: see `distens.runtime.ray_actors.RayActors`.
        modules: the modules that actors import as soon as they are up.
    """

    usual: Resources
    labels: Mapping[str, str]
    placement: Literal["pack", "spread"]
    wait_seconds: float
    concurrency: int | None
    modules: tuple[str, ...] = field(default=LARGE_MODULES, init=False)
    _others: Sequence[Resources] = field(default=(), init=False)
    _seen: tuple[float, int, int, _sizes.Node] = field(default=(-math.inf, 0, 0, {}), init=False)

    def check(self, also: Mapping[str, Resources]) -> None:
        """Check that actors of every size fit on some node; wait for such nodes for up to `wait_seconds`.

        Args:
            also: key of the config -> size of the actors that it sets.

        Raises:
            RunError: an actor of some size fits on no node.
        """
        self._others, self._seen = list(dict.fromkeys(also.values())), (-math.inf, 0, 0, {})
        deadline, asked = time.monotonic() + self.wait_seconds, list[PlacedActor]()
        try:
            while (error := self._missing(also)) is not None:
                if time.monotonic() >= deadline:
                    raise RunError(f"{error}, after {self.wait_seconds:g} s") if asked else error
                if not asked:
                    log.warning("%s; waiting up to %g s for one", error, self.wait_seconds)
                    asked = [self.start_actor(needs) for needs in dict.fromkeys([self.usual, *self._others])]
                time.sleep(POLL_SECONDS)
        finally:
            for actor in asked:  # they were only to wait: a cluster scales up for waiting actors
                actor.end()

    def _missing(self, also: Mapping[str, Resources]) -> RunError | None:
        nodes = self._nodes()
        if self.labels and not nodes:
            return RunError(f"runtime.node_labels: no node has {', '.join(f'{k}={v}' for k, v in self.labels.items())}")
        try:
            _sizes.check_room(nodes, self.usual, also)
        except RunError as error:
            if not _held_by_caller()[1]:
                return error
            try:
                _sizes.check_room([node["Resources"] for node in self._alive()], self.usual, also)
            except RunError as whole:  # not even if this process held nothing
                return whole
            return RunError(
                f"{error}, beside what the Ray actor or task holds in which this run was started. Give that one fewer "
                "resources (`num_cpus=0`), give members fewer (runtime.cpus_per_member), or add a node; with "
                "runtime.wait_seconds the run waits for one"
            )
        return None

    def _alive(self) -> list[dict[str, Any]]:
        wanted = self.labels.items()
        return [node for node in ray.nodes() if node["Alive"] and wanted <= node.get("Labels", {}).items()]

    def _nodes(self) -> list[dict[str, float]]:
        """Return the resources of the nodes for members, without what this process holds as long as the run takes."""
        own, held = _held_by_caller()
        return [
            {kind: amount - held.get(kind, 0.0) * (node["NodeID"] == own) for kind, amount in node["Resources"].items()}
            for node in self._alive()
        ]

    def slots(self) -> int:
        """Return the number of actors of the usual size that the cluster has room for now, or is to make room for."""
        return self._measure_room()[1]

    def max_actors(self) -> int:
        """Return the number of actors of the smallest size that the cluster has room for now, at most `concurrency`."""
        return self._measure_room()[2]

    @property
    def room(self) -> _sizes.Node:
        """Return the sum of the nodes' resources; if `concurrency` actors need more than that, what they need."""
        return self._measure_room()[3]

    def _measure_room(self) -> tuple[float, int, int, _sizes.Node]:
        now = time.monotonic()
        if now - self._seen[0] > ROOM_SECONDS:  # nodes come and go, but a look costs a call to the head
            nodes = self._nodes()
            slots, room = max(1, _sizes.count_all(nodes, self.usual)), _sizes.total_amounts(nodes)
            most = max([slots, *(_sizes.count_all(nodes, needs) for needs in self._others)])
            if self.concurrency is not None and (self.wait_seconds or self.concurrency < slots):
                if slots < self.concurrency:
                    room = {kind: amount * self.concurrency for kind, amount in _sizes.ray_amounts(self.usual).items()}
                slots = self.concurrency
            if self.concurrency is not None:
                most = min(max(most, slots), self.concurrency)
            self._seen = (now, slots, most, room)
        return self._seen

    def lives(self, node_id: str) -> bool:
        """Return True if a node is alive as far as the head knows, which gives up a node that is silent for seconds."""
        return any(node["Alive"] and node["NodeID"] == node_id for node in ray.nodes())

    def free(self) -> int:
        """Return the number of actors of the usual size that fit now beside everything else on the cluster."""
        return _sizes.count_actors(ray.available_resources(), self.usual)

    def start_actor(self, needs: Resources) -> PlacedActor:
        """Start an actor of a size, which may have to wait for room, and return it."""
        remote: Any = ray.remote(_Actor)  # Ray's types do not tell functions from classes
        options: dict[str, Any] = {"max_restarts": 0}
        reservation = self._reservation(needs) if needs.processes > 1 else None
        if reservation is not None:
            there = PlacementGroupSchedulingStrategy(reservation, placement_group_bundle_index=0)
            options |= {"num_cpus": 0, "num_gpus": 0, "scheduling_strategy": there}
        else:
            options |= {"num_cpus": needs.cpus, "num_gpus": needs.gpus}
            options |= {"memory": int(needs.memory_gib * _sizes.GIB) or None, "resources": dict(needs.custom)}
            if self.labels:
                options["label_selector"] = dict(self.labels)
            if self.placement == "spread":
                options["scheduling_strategy"] = "SPREAD"
            elif _in_trial_without_cpus():
                options["scheduling_strategy"] = "DEFAULT"
        threads = max(1, int(needs.part().cpus))
        return PlacedActor(remote.options(**options).remote(threads, list(sys.path), self.modules), needs, reservation)

    def _reservation(self, needs: Resources) -> PlacementGroup:
        """Return a reservation for all processes of a member at once, which may have to wait for room."""
        parts = [_sizes.ray_amounts(needs.part())] * needs.processes
        labels: Any = [dict(self.labels)] * needs.processes if self.labels else None  # Ray's default is None, too
        return placement_group(parts, self.placement.upper(), bundle_label_selector=labels)


def _held_by_caller() -> tuple[str, Mapping[str, float]]:
    """Return this process's node and the resources that it holds while members train there; a driver holds none.

    A task gives its CPUs back to Ray while it waits for others, an actor does not.
    """
    if client.ray.is_connected():
        return "", {}
    here = ray.get_runtime_context()
    if here.worker.mode != ray.WORKER_MODE:
        return "", {}
    held = here.get_assigned_resources()
    return here.get_node_id(), held if here.get_actor_id() else {k: v for k, v in held.items() if k != "CPU"}


def _in_trial_without_cpus() -> bool:
    """Return True if this process is in a placement group that reserves no CPUs for members, as a trial of Tune may be.

    Members are then placed outside the group, as those of a run that is no trial. If the group reserves CPUs for them,
    they use these.
    """
    group = ray.util.get_current_placement_group()
    return group is not None and not any("CPU" in bundle for bundle in group.bundle_specs)
