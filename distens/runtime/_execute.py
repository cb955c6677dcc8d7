"""Carry out one pack of tasks: the only place where members are trained, whichever runner asked for it.

pack ──► finished by an earlier attempt? ──► its report
     ──► of one architecture, more than one ──► trained together ─┬─► each, as it finishes: predictions, state,
     ──► any other ──► trained alone ─────────────────────────────┘   and last its report: then it is never lost
"""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from distens import packing, probabilities, registry
from distens.credentials import redact
from distens.data.dataset import Dataset, Examples
from distens.data.federation import Clients, Partitioned
from distens.distill.protocol import DataFree
from distens.errors import ConfigError, DataError, Diverged, Refused, StorageError, StorageFailed, damage
from distens.members.protocol import Member, Packable
from distens.records import Answer, Failure, Files, Floats, Held, Outcome, Pack, Reason, Report, State, Task
from distens.runtime import _rounds
from distens.runtime.protocol import Shared
from distens.storage.encoding import report_from_json, to_json
from distens.storage.store import Checkpoint, Store
from distens.training.work import Work

HELD_OUT = ("search", "combine", "test")

ONE_CALL_BYTES = 4 << 20


def execute(
    pack: Pack, shared: Shared, threads: int, fetch: Callable[[Held], Any] = lambda held: held.reference
) -> list[Answer]:
    """Train the tasks' members, write their states and predictions, and return reports; or say why not.

    A task that an earlier attempt finished, but could not report, is not done again.

    Args:
        fetch: returns what a runner holds.
    """
    from threadpoolctl import threadpool_limits

    if pack[0].round is not None:
        with threadpool_limits(limits=threads):
            outcomes = _rounds.carry_out(pack, shared, _device(pack[0].resources.gpus), fetch, _failed)
            made = {outcome.task_id: outcome for outcome in outcomes}
        return [made[task.id] for task in pack]
    again = (task for task in pack if task.attempt > 1)
    found: dict[str, Answer] = {report.task_id: report for report in finished_before(again, shared.store)}
    rest = [task for task in pack if task.id not in found]
    rest = [
        replace(task, given={k: Held(fetch(v)) for k, v in task.given.items()}) if task.given else task for task in rest
    ]
    with threadpool_limits(limits=threads):  # once a pack: it looks at every library that is loaded
        for tasks in _together(rest, shared.clients):
            for outcome in _carry_out(tasks, shared, threads):
                found[outcome.task_id] = outcome
    return [found[task.id] for task in pack]


def finished_before(pack: Iterable[Task], store: Store) -> Iterator[Report]:
    """Yield the reports of tasks that an earlier attempt, or a lost one, finished."""
    for task in pack:
        for attempt in store.names(f"members/{task.id}"):
            name = f"members/{task.id}/{attempt}/report.json"
            if attempt.isdigit():
                try:
                    with damage(name):
                        report = report_from_json(store.read_json(name))
                except StorageError:  # it is not there, or damaged
                    continue
                if all(map(store.holds, report.files.values())):
                    yield report
                    break


def _together(tasks: Sequence[Task], clients: Clients | None) -> Iterator[Pack]:
    """Yield groups of tasks that can be trained as one program, in order of their first. Clients with data of their own
    are not: their rows do not meet."""
    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        apart = task.distill is not None or (task.client and not isinstance(clients, Partitioned))
        shared = packing.key(task.settings) if len(tasks) > 1 and not apart else None
        groups.setdefault(task.id if shared is None else (shared, task.resources), []).append(task)
    yield from groups.values()


def _carry_out(tasks: Sequence[Task], shared: Shared, threads: int) -> Iterator[Outcome]:
    if len(tasks) == 1:
        yield _guarded(tasks[0], lambda: _train(tasks[0], shared, threads))
        return
    left, broken = {task.id: task for task in tasks}, None
    try:
        for outcome in _train_pack(tasks, shared, threads):
            del left[outcome.task_id]
            yield outcome
    except Exception as error:  # whatever one member does: below, the others finish and it is found
        broken = _reason(error)  # not the error itself, which would hold on to the pack's memory
    rest = list(left.values())
    parts = [rest[: len(rest) // 2], rest[len(rest) // 2 :]] if broken == "out_of_memory" else [[t] for t in rest]
    for part in filter(None, parts):
        yield from _carry_out(part, shared, threads)


def _guarded(task: Task, train: Callable[[], Report]) -> Outcome:
    """The task boundary: whatever a member does, the run goes on and names it."""
    started = time.perf_counter()
    try:
        return train()
    except Exception as error:
        return _failed(task, error, time.perf_counter() - started)


def _failed(task: Task, error: Exception, seconds: float) -> Failure:
    if isinstance(error, StorageFailed):  # no task's fault, and the next would fare no better
        raise error
    reason: Reason
    if isinstance(error, Diverged):
        reason, message = "diverged", str(error)
    elif isinstance(error, Refused | ConfigError | DataError):
        reason, message = "refused", str(error)
    else:
        reason, message = _reason(error), _last_lines(error)
    return Failure(task.id, task.attempt, reason, redact(message), seconds, platform.node())


def _reason(error: Exception) -> Reason:
    # torch's own error types exist only where it is loaded; its texts, for GPU and CPU, are the same in all versions.
    said = any(words in str(error) for words in ("out of memory", "can't allocate memory"))
    return "out_of_memory" if isinstance(error, MemoryError) or said else "crashed"


def _last_lines(error: Exception, count: int = 6) -> str:
    return "".join(traceback.format_exception(error)[-count:]).strip()


def _train(task: Task, shared: Shared, threads: int) -> Report:
    work = _work(task, shared.store, threads)
    if "start" in task.given:
        return _deliver_whole(task, shared, work.checkpoint)
    member: Member = registry.build_member(task.settings, task.id)
    started = time.perf_counter()
    made = None
    if task.distill is not None and registry.able(registry.find("distill", task.distill["kind"], ""), DataFree):
        metrics, made = _distil(task, member, shared, work)
    else:
        metrics = dict(_fit(task, member, shared, work))
    metrics.setdefault("seconds", time.perf_counter() - started)
    return deliver(task, member, metrics, shared, work.checkpoint, made)


def _deliver_whole(task: Task, shared: Shared, checkpoint: Checkpoint) -> Report:
    """Deliver a member whose weights the server made."""
    member = _rounds.pattern(task, shared)
    weights_P = task.given["start"].reference
    member.become(weights_P)
    return deliver(task, member, {"seconds": 0.0, "parameters": len(weights_P)}, shared, checkpoint)


def _teachers(task: Task, shared: Shared) -> list[Any]:
    teachers = []
    for teacher in task.teachers:
        trained = registry.build_member(teacher.settings, task.id)
        trained.load(shared.store.read_state(teacher.state.path, teacher.state))
        teachers.append(trained)
    return teachers


def _distil(task: Task, student: Any, shared: Shared, work: Work) -> tuple[dict[str, Any], State]:
    """Train a student without the clients' rows; return its metrics, and what else was made on the way."""
    server = _rounds.knowledge(shared, task.given["counts"].reference)
    student.begin(server.input_shape, server.classes, work.seed)
    distiller = registry.build("distill", task.distill, "distill")
    weights_M = np.array([teacher.weight for teacher in task.teachers])
    found = distiller.distill(_teachers(task, shared), weights_M, student, server, work)
    arrays = {f"curves/{name}": np.array(values, dtype=np.float64) for name, values in found.curves.items()}
    if found.weights_M is not None:
        arrays["weights_M"] = np.asarray(found.weights_M, dtype=np.float64)
    if found.images is not None:
        arrays["images"] = found.images
    return dict(found.metrics), State(arrays)


def _train_pack(tasks: Sequence[Task], shared: Shared, threads: int) -> Iterator[Outcome]:
    members: list[Packable] = [registry.build_member(task.settings, task.id) for task in tasks]
    works = [_work(task, shared.store, threads) for task in tasks]
    pairs = [_own(task, work, shared) for task, work in zip(tasks, works, strict=True)]
    examples, works = pairs[0][0], [work for _, work in pairs]
    started = time.perf_counter()
    for place, found in type(members[0]).fit_pack(members, examples, works):
        task, member, checkpoint = tasks[place], members[place], works[place].checkpoint
        if isinstance(found, Diverged):
            seconds = time.perf_counter() - started
            yield Failure(task.id, task.attempt, "diverged", str(found), seconds, platform.node())
        else:
            metrics = {"seconds": (time.perf_counter() - started) / len(tasks), **found}
            yield _guarded(task, lambda t=task, m=member, f=metrics, c=checkpoint: deliver(t, m, f, shared, c))


def _work(task: Task, store: Store, threads: int) -> Work:
    gpus = task.resources.gpus
    checkpoint = Checkpoint(store, task.member)  # the rungs of a member share it: each goes on where one ended
    return Work(task.seed, checkpoint, _device(gpus), threads, gpus, task.budget)


def _own(task: Task, work: Work, shared: Shared) -> tuple[Examples, Work]:
    """Return what a task learns from, and its surroundings, which say which of these rows are its client's."""
    if not task.client:
        return shared.dataset.examples(), work
    assert shared.clients is not None, "a client has rows"
    if isinstance(shared.clients, Partitioned):
        return shared.dataset.examples(), replace(work, rows_N=shared.clients.rows[task.client])
    return shared.clients.examples(task.client, shared.dataset), work


def _fit(task: Task, member: Member, shared: Shared, work: Work) -> Mapping[str, float]:
    examples, work = _own(task, work, shared)
    if task.distill is None:
        return member.fit(examples, work)
    teachers = _teachers(task, shared)
    weights_M = np.array([teacher.weight for teacher in task.teachers])
    distiller = registry.build("distill", task.distill, "distill")
    return distiller.distill(teachers, weights_M, member, examples, work)


def deliver(
    task: Task,
    member: Member,
    found: Mapping[str, float],
    shared: Shared,
    checkpoint: Checkpoint,
    made: State | None = None,
) -> Report:
    """Write a trained member's predictions and state, and last its report, which says that all else is there.

    Args:
        made: what came of its training besides.
    """
    dataset, store = shared.dataset, shared.store
    metrics = _finite(found)
    probs, predict_ms_per_1000 = _predict(member, dataset)
    folder = f"members/{task.id}/{task.attempt}"
    files = {s: store.write_predictions(f"{folder}/{s}.arrow", p, durable=False) for s, p in probs.items()}
    files["state"] = store.write_state(f"{folder}/state.safetensors", member.state(), durable=False)
    if made is not None:
        files["made"] = store.write_state(f"{folder}/made.safetensors", made, durable=False)
    seconds = metrics.pop("seconds")
    report = Report(
        task_id=task.id,
        attempt=task.attempt,
        metrics={**metrics, **_judged(probs, dataset)},
        seconds=seconds,
        parameters=int(metrics["parameters"]),
        predict_ms_per_1000=predict_ms_per_1000,
        node=platform.node(),
        files=Files(files),
    )
    store.write(f"{folder}/report.json", json.dumps(to_json(report), allow_nan=False).encode(), durable=False)
    if task.budget is None:
        checkpoint.clear()
    return report


def _judged(probs: Mapping[str, Floats], dataset: Dataset) -> Mapping[str, float]:
    """Return what predictions are worth on the *search* split; nothing where a federation's server has no such rows."""
    return probabilities.metrics(probs["search"], dataset.labels["search"]) if "search" in probs else {}


def _predict(member: Member, dataset: Dataset) -> tuple[dict[str, Floats], float]:
    """Return split -> probs_NC of the splits that have rows, and milliseconds per 1,000 rows."""
    inputs = {split: dataset.inputs[split] for split in HELD_OUT if len(dataset.inputs[split])}
    member.predict(next(iter(inputs.values()))[:1])  # warms up
    started = time.perf_counter()
    if sum(some.nbytes for some in inputs.values()) <= ONE_CALL_BYTES:  # few rows take less time than three calls
        ends = np.cumsum([len(some) for some in inputs.values()])
        parts = np.split(member.predict(np.concatenate(list(inputs.values()))), ends[:-1])
        probs = dict(zip(inputs, parts, strict=True))
    else:
        probs = {split: member.predict(some) for split, some in inputs.items()}
    seconds = time.perf_counter() - started
    for split, probs_NC in probs.items():
        if not np.isfinite(probs_NC).all():
            raise Diverged(f"predictions on the {split} split are not finite")
    return probs, 1e6 * seconds / sum(map(len, inputs.values()))


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
