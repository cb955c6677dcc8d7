"""One network trained by several processes, each with a GPU of its own if it asks for one, through Ray Train.

    this process ── TorchTrainer ──► rank 0 ─┐ each: the same network, its share of every batch,
                                     rank 1 ─┤ gradients averaged (DistributedDataParallel);
                                     …       ┘ rank 0 saves checkpoints and returns the weights

The group is apart from the actor that asks for it: the cluster needs its CPUs and GPUs beside those that actors hold.
A failure ends the group; the member's next attempt goes on from the checkpoint.
"""

from __future__ import annotations

import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ray
from torch import nn

from distens.data.dataset import Examples
from distens.errors import Diverged, Refused
from distens.training.context import Context
from distens.training.network import initialise, to_arrays

WAIT_SECONDS = 600.0


def fit(
    build: Callable[[], nn.Module],
    examples: Examples,
    context: Context,
    processes: int,
    gpus: bool,
    course: Mapping[str, Any],
    loss: Any,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Train a network in a group of processes, from the last checkpoint if there is one.

    Args:
        build: makes the untrained network; an importable function, or a partial of one.
        gpus: whether each process gets a GPU.
        course: fields of `distens.training.lightning.Course`.
        loss: of a plain network.

    Returns:
        Metrics as `distens.training.lightning.fit` gives them, and the network's arrays.

    Raises:
        Diverged, Refused: what a process raised; or the cluster is too small for the group.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer

    each = {"CPU": float(context.threads), **({"GPU": 1.0} if gpus else {})}
    _check_room({name: amount * processes for name, amount in each.items()})
    told = {
        "build": build,
        "examples": ray.put(examples),
        "context": replace(context, device="cuda" if gpus else "cpu", gpus=float(gpus)),
        "course": dict(course),
        "loss": loss,
        "search_path": list(sys.path),
    }
    with tempfile.TemporaryDirectory(prefix="distens-group-") as folder:
        trainer = TorchTrainer(
            _process,
            train_loop_config=told,
            scaling_config=ScalingConfig(num_workers=processes, use_gpu=gpus, resources_per_worker=each),
            run_config=RunConfig(  # a name of its own: groups of one name share temporary folders
                name=f"distens-{uuid.uuid4().hex}", storage_path=folder, failure_config=FailureConfig(max_failures=0)
            ),
        )
        try:
            result = trainer.fit()
        except WorkerGroupError as error:
            for failure in error.worker_failures.values():
                cause = getattr(failure, "_base_exc", failure)
                if isinstance(cause, Diverged | Refused):
                    raise cause from error
            raise
    return result.return_value  # pyright: ignore[reportReturnType]


def _check_room(wanted: Mapping[str, float], wait_seconds: float = WAIT_SECONDS) -> None:
    """Refuse a group that no waiting would let start; wait for one that others leave no room for now."""
    if not ray.is_initialized():
        raise Refused("processes: several need a Ray cluster, and this process is connected to none")
    context = ray.get_runtime_context()
    held = context.get_assigned_resources() if context.get_actor_id() else {}
    for name, amount in wanted.items():
        room = ray.cluster_resources().get(name, 0.0) - held.get(name, 0.0)
        if amount > room:
            raise Refused(
                f"processes: the group needs {amount:g} {name}, the cluster has {room:g} beside what this member's own "
                "actor holds"
            )
    deadline = time.monotonic() + wait_seconds
    while any(amount > ray.available_resources().get(name, 0.0) for name, amount in wanted.items()):
        if time.monotonic() > deadline:  # actors of other members keep what they hold until the run ends
            needed = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
            raise Refused(
                f"processes: the group needs {needed}, and other members held too much for {wait_seconds:g} s; "
                "a lower runtime.concurrency leaves it room"
            )
        time.sleep(1.0)


def _process(told: dict[str, Any]) -> tuple[dict[str, float], dict[str, Any]] | None:
    """What each process of the group does; rank 0's result is the group's."""
    sys.path += [folder for folder in told["search_path"] if folder not in sys.path]  # the user's own modules
    import torch
    from ray.train import get_context
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer

    from distens.training import lightning

    context: Context = told["context"]
    torch.set_num_threads(context.threads)
    rank = get_context().get_world_rank()
    network = initialise(told["build"], context.seed)
    group = lightning.Group(
        rank, get_context().get_world_size(), RayDDPStrategy(), RayLightningEnvironment(), prepare_trainer
    )
    examples: Any = ray.get(told["examples"])
    metrics = lightning.fit(network, examples, context, lightning.Course(**told["course"]), told["loss"], group)
    return (metrics, to_arrays(network)) if rank == 0 else None
