"""Where actors go: the nodes that a cluster has, or is to bring, and the room on them."""

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
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distens.errors import RunError
from distens.records import Answer, Held, Pack, Resources
from distens.runtime import _sizes
from distens.runtime._execute import execute
from distens.runtime.protocol import Shared

log = logging.getLogger("distens")

LARGE = ("torch",)
"""What takes seconds to import. It is not to be a member's own time, so actors do it first, unless nobody needs it."""

ROOM_SECONDS = 5.0
POLL_SECONDS = 0.5


class _Actor:
    """Trains one pack at a time; keeps libraries loaded and data mapped in between."""

    def __init__(self, threads: int, search_path: list[str], modules: tuple[str, ...]) -> None:
        sys.path += [folder for folder in search_path if folder not in sys.path]  # a user's own module, beside a config
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch or LightGBM is loaded, now or when it is needed
        for module in modules:
            importlib.import_module(module)
        self._threads = threads

    def begin(self, shared: Shared) -> str:
        """Take what all packs need; return the id of the node that this is on."""
        self._shared = shared
        return ray.get_runtime_context().get_node_id()

    def execute(self, pack: Pack) -> list[Answer]:
        return execute(pack, self._shared, self._threads, _fetch)


def _fetch(held: Held) -> Any:
    return ray.get(held.reference)


@dataclass(eq=False)
class Placed:
    """An actor that was started, and what it occupies.

    Attributes:
        handle: Ray's.
        size: what it occupies, once there is room for it.
        reservation: of all that a member of several processes needs; the actor itself occupies nothing more.
        node_id: where it is, once it is up.
    """

    handle: Any
    size: Resources
    reservation: PlacementGroup | None = None
    node_id: str = ""

    def end(self) -> None:
        """End the actor, whatever it does, and whatever else is in its reservation."""
        ray.kill(self.handle)
        if self.reservation is not None:
            remove_placement_group(self.reservation)


@dataclass
class Places:
    """Where a run's actors may go.

    Attributes:
        usual: the size of most of them.
        labels, placement, wait_seconds, concurrency: see `distens.runtime.ray_actors.RayActors`.
        modules: what actors import as soon as they are up.
    """

    usual: Resources
    labels: Mapping[str, str]
    placement: Literal["pack", "spread"]
    wait_seconds: float
    concurrency: int | None
    modules: tuple[str, ...] = field(default=LARGE, init=False)
    _others: Sequence[Resources] = field(default=(), init=False)
    _seen: tuple[float, int, int, _sizes.Node] = field(default=(-math.inf, 0, 0, {}), init=False)

    def check(self, also: Mapping[str, Resources]) -> None:
        """See that actors of every size fit on some node; wait for such nodes as long as they may take to come.

        Raises:
            RunError: there is none for one of them.
        """
        self._others, self._seen = list(dict.fromkeys(also.values())), (-math.inf, 0, 0, {})
        deadline, asked = time.monotonic() + self.wait_seconds, list[Placed]()
        try:
            while (error := self._missing(also)) is not None:
                if time.monotonic() >= deadline:
                    raise RunError(f"{error}, after {self.wait_seconds:g} s") if asked else error
                if not asked:
                    log.warning("%s; waiting up to %g s for one", error, self.wait_seconds)
                    asked = [self.actor(needs) for needs in dict.fromkeys([self.usual, *self._others])]
                time.sleep(POLL_SECONDS)
        finally:
            for actor in asked:  # they only waited: a cluster scales for what waits
                actor.end()

    def _missing(self, also: Mapping[str, Resources]) -> RunError | None:
        nodes = self._nodes()
        if self.labels and not nodes:
            return RunError(f"runtime.node_labels: no node has {', '.join(f'{k}={v}' for k, v in self.labels.items())}")
        try:
            _sizes.check(nodes, self.usual, also)
        except RunError as error:
            return error
        return None

    def _nodes(self) -> list[dict[str, float]]:
        wanted = self.labels.items()
        return [n["Resources"] for n in ray.nodes() if n["Alive"] and wanted <= n.get("Labels", {}).items()]

    def slots(self) -> int:
        """Return how many actors of the usual size the cluster, as it is now, has room for; or is to make room for."""
        return self._look()[1]

    def most(self) -> int:
        """Return how many actors of the smallest size there is room for in the cluster, as it is now."""
        return self._look()[2]

    @property
    def room(self) -> _sizes.Node:
        """Return what nodes have together, as far as it is for us."""
        return self._look()[3]

    def _look(self) -> tuple[float, int, int, _sizes.Node]:
        now = time.monotonic()
        if now - self._seen[0] > ROOM_SECONDS:  # nodes come and go, but asking costs a call to the head
            nodes = self._nodes()
            slots, room = max(1, _sizes.count_all(nodes, self.usual)), _sizes.total(nodes)
            most = max([slots, *(_sizes.count_all(nodes, needs) for needs in self._others)])
            if self.concurrency is not None and (self.wait_seconds or self.concurrency < slots):
                if slots < self.concurrency:
                    room = {kind: amount * self.concurrency for kind, amount in _sizes.amounts(self.usual).items()}
                slots = self.concurrency
            if self.concurrency is not None:
                most = min(max(most, slots), self.concurrency)
            self._seen = (now, slots, most, room)
        return self._seen

    def lives(self, node_id: str) -> bool:
        """Return whether a node is there, as far as the head knows: it gives one up that is silent for some seconds."""
        return any(node["Alive"] and node["NodeID"] == node_id for node in ray.nodes())

    def free(self) -> int:
        """Return how many actors of the usual size have room now, beside what else runs on the cluster."""
        return _sizes.count(ray.available_resources(), self.usual)

    def actor(self, needs: Resources) -> Placed:
        """Return a new actor, which may wait for room."""
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
            elif _beside():
                options["scheduling_strategy"] = "DEFAULT"
        threads = max(1, int(needs.part().cpus))
        return Placed(remote.options(**options).remote(threads, list(sys.path), self.modules), needs, reservation)

    def _reservation(self, needs: Resources) -> PlacementGroup:
        """Return room for all processes of a member at once, which may have to be waited for."""
        parts = [_sizes.amounts(needs.part())] * needs.processes
        labels: Any = [dict(self.labels)] * needs.processes if self.labels else None  # Ray's default is no list, either
        return placement_group(parts, self.placement.upper(), bundle_label_selector=labels)


def _beside() -> bool:
    """Return whether this process is a trial of Tune, or the like, for whose members nothing is kept.

    They go beside it then, as those of a run that is no trial. What is kept for them, they take.
    """
    group = ray.util.get_current_placement_group()
    return group is not None and not any("CPU" in bundle for bundle in group.bundle_specs)
