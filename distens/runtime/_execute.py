"""Carry out one task: the only place where a member is trained, whichever runner asked for it."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from distens import probabilities, registry
from distens.data.dataset import Dataset
from distens.errors import ConfigError, Diverged, Refused, StorageError
from distens.members.protocol import Member
from distens.records import Failure, Floats, Outcome, Reason, Report, Task, report_from_json, to_json
from distens.runtime.protocol import Shared
from distens.store import Checkpoint, Store
from distens.training.work import Work


def execute(task: Task, shared: Shared, threads: int) -> Outcome:
    """Train the task's member, write its state and predictions, and return the report; or say why not.

    A task that an earlier attempt finished, but could not report, is not done again.
    """
    started = time.perf_counter()
    try:
        earlier = _earlier(task, shared.store)
        return earlier if earlier is not None else _train(task, shared, threads)
    except Diverged as error:
        reason, message = "diverged", str(error)
    except (Refused, ConfigError) as error:
        reason, message = "refused", str(error)
    except Exception as error:  # the task boundary: whatever a member does, the run goes on and names it
        reason, message = _reason(error), _last_lines(error)
    return Failure(task.id, task.attempt, reason, message, time.perf_counter() - started, platform.node())


def _reason(error: Exception) -> Reason:
    # torch's own error types exist only where it is loaded; its texts, for GPU and CPU, are the same in all versions.
    said = any(words in str(error) for words in ("out of memory", "can't allocate memory"))
    return "out_of_memory" if isinstance(error, MemoryError) or said else "crashed"


def _last_lines(error: Exception, count: int = 6) -> str:
    return "".join(traceback.format_exception(error)[-count:]).strip()


def _earlier(task: Task, store: Store) -> Report | None:
    for attempt in store.names(f"members/{task.id}"):
        name = f"members/{task.id}/{attempt}/report.json"
        if attempt.isdigit() and store.exists(name):
            try:
                return report_from_json(store.read_json(name))
            except StorageError:
                continue
    return None


def _train(task: Task, shared: Shared, threads: int) -> Report:
    from threadpoolctl import threadpool_limits

    dataset, store = shared.dataset, shared.store
    checkpoint = Checkpoint(store, task.id)
    device = _device(task.resources.gpus)
    work = Work(task.seed, checkpoint, device, threads, task.resources.gpus)
    member: Member = registry.build_member(task.settings, task.id)
    started = time.perf_counter()
    with threadpool_limits(limits=threads):
        found = dict(_fit(task, member, dataset, store, work))
        seconds = found.pop("seconds", time.perf_counter() - started)
        probs = {"search": _predict(member, dataset, "search")}  # the first call also warms up
        started = time.perf_counter()
        probs |= {split: _predict(member, dataset, split) for split in ("combine", "test")}
        rows = len(probs["combine"]) + len(probs["test"])
        predict_ms_per_1000 = 1e6 * (time.perf_counter() - started) / rows
    folder = f"members/{task.id}/{task.attempt}"
    files = {split: store.write_predictions(f"{folder}/{split}.arrow", p) for split, p in probs.items()}
    files["state"] = store.write_state(f"{folder}/state.safetensors", member.state())
    report = Report(
        task_id=task.id,
        attempt=task.attempt,
        metrics={**_finite(found), **probabilities.metrics(probs["search"], dataset.labels["search"])},
        seconds=seconds,
        parameters=int(found["parameters"]),
        predict_ms_per_1000=predict_ms_per_1000,
        node=platform.node(),
        files=files,
    )
    store.write_json(f"{folder}/report.json", to_json(report))  # the marker: all else is written
    checkpoint.clear()
    return report


def _fit(task: Task, member: Member, dataset: Dataset, store: Store, work: Work) -> Mapping[str, float]:
    if task.distill is None:
        return member.fit(dataset.examples(), work)
    teachers: list[Member] = []
    for teacher in task.teachers:
        trained: Member = registry.build_member(teacher.settings, task.id)
        trained.load(store.read_state(teacher.state.path, teacher.state))
        teachers.append(trained)
    weights_M = np.array([teacher.weight for teacher in task.teachers])
    distiller = registry.build("distill", task.distill, "distill")
    return distiller.distill(teachers, weights_M, member, dataset.examples(), work)


def _predict(member: Member, dataset: Dataset, split: str) -> Floats:
    probs_NC = member.predict(dataset.inputs[split])
    if not np.isfinite(probs_NC).all():
        raise Diverged(f"predictions on the {split} split are not finite")
    return probs_NC


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    for name, value in metrics.items():
        if not np.isfinite(value):
            raise Diverged(f"{name} is {value}")
    return {name: float(value) for name, value in metrics.items()}


def _device(gpus: float) -> str:
    if not gpus:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise Refused(f"{gpus:g} GPUs were reserved, but torch sees none on {platform.node()}")
    return "cuda"
