"""Training of one network by several processes, each with a GPU of its own if the member asks for GPUs.

    this process ──► process 0 ─┐ each: the same network, its share of every batch, gradients averaged
                     process 1 ─┤ (DistributedDataParallel); process 0 saves checkpoints and returns the weights
                     …          ┘

The processes are actors in one reservation (a placement group of Ray's, with one bundle for each), so that no group
holds a part of its resources while it waits for the rest. Usually the runner makes the reservation, and this process is
in it too and occupies nothing more; a process outside any reservation makes one for the duration of the training. A
failure ends the group; the member's next attempt resumes from the checkpoint.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import nn

from distens.data.dataset import Examples
from distens.errors import Refused
from distens.training.context import Context, Logged
from distens.training.network import initialise, to_arrays

WAIT_SECONDS = 600.0


def fit_group(
    build: Callable[[], nn.Module],
    examples: Examples,
    context: Context,
    processes: int,
    gpus: bool,
    course: Mapping[str, Any],
    loss: Any,
    validation: Examples | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Train a network in a group of processes, from the last checkpoint if there is one.

    Args:
        build: a function that makes the untrained network; it is importable, or a partial of an importable one.
        gpus: whether each process gets a GPU; in a runner's reservation `context.gpus` decides that instead.
        course: the fields of `distens.training.lightning.TrainerOptions`.
        loss: the loss of a plain network.
        validation: see `distens.training.lightning.fit_module`; every process validates on all of these rows.

    Returns:
        The metrics of `distens.training.lightning.fit_module`, and the network's arrays; what the module logged is in
        `context.logged` then.

    Raises:
        Diverged: raised by a process.
        Refused: raised by a process, or the cluster has no room for the group.
    """
    gpus = context.gpus > 0 if context.processes > 1 else gpus
    told = {
        "build": build,
        "examples": ray.put((examples, validation)) if ray.is_initialized() else None,
        "context": replace(context, device="cuda" if gpus else "cpu", gpus=float(gpus), processes=1),
        "course": dict(course),
        "loss": loss,
        "processes": processes,
    }
    with _reserved(context, processes, gpus) as reservation:
        actors = [_actor(reservation, place) for place in range(processes)]
        try:
            told["meeting"] = ray.get(actors[0].meeting.remote())
            calls = [actor.train.remote(told, rank) for rank, actor in enumerate(actors)]
            left = list(calls)
            while left:  # the first failure ends all: the other processes would wait for the failed one
                done, left = ray.wait(left)
                ray.get(done)
            metrics, arrays, logged = ray.get(calls[0])
            context.logged.update(logged)
            return metrics, arrays
        except RayTaskError as error:
            raise getattr(error, "cause", error) from None
        finally:
            for actor in actors:
                ray.kill(actor)


@contextmanager
def _reserved(context: Context, processes: int, gpus: bool) -> Iterator[PlacementGroup]:
    """Yield the reservation around this process, or a new one, which is removed afterwards."""
    if context.processes > 1:
        given = ray.util.get_current_placement_group()
        assert given is not None, "the runner put this process into one"
        yield given
        return
    each = {"CPU": float(context.threads), **({"GPU": 1.0} if gpus else {})}
    _check_room({name: amount * processes for name, amount in each.items()})
    made = placement_group([each] * processes)
    try:
        _wait_for_room(made, each, processes)
        yield made
    finally:
        remove_placement_group(made)


def _check_room(wanted: Mapping[str, float]) -> None:
    """Refuse a group that is too large for the cluster, however long it would wait."""
    if not ray.is_initialized():
        raise Refused("processes: several processes need a Ray cluster, and this process is not connected to one")
    context = ray.get_runtime_context()
    held = context.get_assigned_resources() if context.get_actor_id() else {}
    for name, amount in wanted.items():
        room = ray.cluster_resources().get(name, 0.0) - held.get(name, 0.0)
        if amount > room:
            raise Refused(
                f"processes: the group needs {amount:g} {name}, the cluster has {room:g} besides the resources of "
                "this member's own "
                "actor holds"
            )


def _wait_for_room(
    made: PlacementGroup, each: Mapping[str, float], processes: int, wait_seconds: float = WAIT_SECONDS
) -> None:
    """Wait until a reservation has room, which others may occupy until their run ends.

    Raises:
        Refused: there was no room within `wait_seconds`.
    """
    if not made.wait(wait_seconds):
        needed = ", ".join(f"{amount * processes:g} {name}" for name, amount in each.items())
        raise Refused(
            f"processes: the group needs {needed}, and others occupied too much for {wait_seconds:g} s; a lower "
            "runtime.concurrency leaves it room"
        )


def _actor(reservation: PlacementGroup, place: int) -> Any:
    """Start a process in one part of a reservation, and return its actor."""
    part = dict(reservation.bundle_specs[place])
    options = {"num_cpus": part.pop("CPU", 0), "num_gpus": part.pop("GPU", 0), "memory": part.pop("memory", None)}
    there = PlacementGroupSchedulingStrategy(reservation, placement_group_bundle_index=place)
    remote: Any = ray.remote(_Process)  # Ray's types do not tell functions from classes
    return remote.options(**options, resources=part, scheduling_strategy=there, max_restarts=0).remote(list(sys.path))


class _Process:
    """A process of a group, as an actor."""

    def __init__(self, search_path: list[str]) -> None:
        sys.path += [folder for folder in search_path if folder not in sys.path]  # for the user's own modules

    def meeting(self) -> tuple[str, int]:
        """Return the address at which the processes meet: this process's host, and a free port of it."""
        with socket.socket() as found:
            found.bind(("", 0))
            return ray.util.get_node_ip_address(), found.getsockname()[1]

    def train(self, told: dict[str, Any], rank: int) -> tuple[dict[str, float], dict[str, Any], Logged] | None:
        """Train this process's share of every batch; rank 0 returns metrics, arrays and logged values, others None."""
        import torch

        context, processes, (host, port) = told["context"], told["processes"], told["meeting"]
        if context.device == "cuda" and not torch.cuda.is_available():
            raise Refused("processes: a GPU was reserved for each process, but torch finds none")
        # For Lightning each process is alone on its node: it has one device and sees no other.
        place = {"MASTER_ADDR": host, "MASTER_PORT": port, "WORLD_SIZE": processes, "RANK": rank, "GROUP_RANK": rank}
        os.environ |= {name: str(value) for name, value in {**place, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}.items()}
        torch.set_num_threads(context.threads)
        network = initialise(told["build"], context.seed)

        from distens.training import lightning

        group = lightning.ProcessGroup(rank, processes)
        examples, validation = ray.get(told["examples"])
        course = lightning.TrainerOptions(**told["course"])
        metrics = lightning.fit_module(network, examples, context, course, told["loss"], group, validation)
        return (metrics, to_arrays(network), context.logged) if rank == 0 else None
