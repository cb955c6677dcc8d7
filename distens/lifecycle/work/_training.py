"""Shared code of the works that train members: a member's context, packs, and the files that training leaves."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distens import packing, registry
from distens.data.dataset import Dataset, Examples
from distens.data.folds import restore_model
from distens.errors import Diverged
from distens.members.protocol import LeavesParts, Member, Packable
from distens.records import Address, Failure, Floats, Part, Report, State, Task, TaskOutcome, Teacher, compact_files
from distens.runtime.protocol import RunContext, WorkContext
from distens.storage.checkpoint import Checkpoint
from distens.storage.encoding import to_json
from distens.storage.parts import Parts
from distens.training.context import Context, Logged

HELD_OUT = ("search", "combine", "test")

ONE_CALL_BYTES = 4 << 20

CURVE_POINTS = 100
"""The most points of a curve in a report, which a journal keeps for every member."""

Own = Callable[[Task, Context], tuple[Examples, Context]]
"""A task and its context -> the examples that it learns from, and its context, which names the task's own rows."""


def group(task: Task) -> Hashable:
    """Return a key that tasks share if their members can be trained as one program; else the task's own id."""
    shared = packing.make_pack_key(task.settings)
    return task.id if shared is None else (shared, task.resources)


def train_tasks(tasks: Sequence[Task], context: WorkContext, own: Own) -> Iterator[TaskOutcome]:
    """Yield the outcomes of tasks of one group: one task is trained by itself, several as one program."""
    if len(tasks) == 1:
        yield context.guarded(tasks[0], lambda: _train(tasks[0], context, own))
    else:
        yield from _train_pack(tasks, context, own)


def _train(task: Task, context: WorkContext, own: Own) -> Report:
    surrounded = make_context(task, context)
    member: Member = registry.build_member(task.settings, task.id)
    examples, surrounded = own(task, surrounded)
    return delivered(task, member, lambda: member.fit(examples, surrounded), context, surrounded)


def _train_pack(tasks: Sequence[Task], context: WorkContext, own: Own) -> Iterator[TaskOutcome]:
    members: list[Packable] = [registry.build_member(task.settings, task.id) for task in tasks]
    pairs = [own(task, make_context(task, context)) for task in tasks]
    examples, contexts = pairs[0][0], [surrounded for _, surrounded in pairs]
    started = time.perf_counter()
    for place, found in type(members[0]).fit_pack(members, examples, contexts):
        task, member, own_context = tasks[place], members[place], contexts[place]
        if isinstance(found, Diverged):
            seconds = time.perf_counter() - started
            yield Failure(task.id, task.attempt, "diverged", str(found), seconds, platform.node())
        else:
            metrics = {"seconds": (time.perf_counter() - started) / len(tasks), **found}
            yield context.guarded(
                task, lambda t=task, m=member, f=metrics, c=own_context: write_report(t, m, f, context.shared, c)
            )


def make_context(task: Task, context: WorkContext) -> Context:
    """Return the context in which a task's member is trained: all that it is given besides examples."""
    store, needs, own = context.shared.store, task.resources, f"members/{task.member}/lightning"
    checkpoint = Checkpoint(store, task.member)  # the rungs of a member share it: each resumes from it
    return Context(
        seed=task.seed,
        checkpoint=checkpoint,
        device=context.device(task),
        threads=context.threads,
        gpus=needs.gpus,
        processes=needs.processes,
        budget=task.budget,
        parts=Parts(store, task.id, task.attempt, task.member),
        folder=Path(store.path(own)) if store.local and not store.leads_out(own) else None,
    )


def load_teachers(found: Sequence[Teacher], where: str, context: WorkContext) -> list[Any]:
    """Load the trained members of teachers.

    Args:
        found: the teachers.
        where: the task's id, for messages.
        context: where the work is carried out.
    """
    members = []
    for teacher in found:
        trained = registry.build_member(teacher.settings, f"{where}: its teacher {teacher.name or teacher.state.path}")
        members.append(restore_model(trained, context.shared.store.read_state(teacher.state.path, teacher.state)))
    return members


def delivered(
    task: Task,
    member: Member,
    fit: Callable[[], Mapping[str, float]],
    context: WorkContext,
    surrounded: Context,
) -> Report:
    """Train one member by itself, write its files, and return its report."""
    started = time.perf_counter()
    metrics = dict(fit())
    metrics.setdefault("seconds", time.perf_counter() - started)
    return write_report(task, member, metrics, context.shared, surrounded)


def write_report(
    task: Task,
    member: Member,
    found: Mapping[str, float],
    shared: RunContext,
    surrounded: Context,
    made: State | None = None,
) -> Report:
    """Write a trained member's predictions and state, or those of its parts, then its report, and return the report.

    The report is written last: where it is, all other files are there.

    Args:
        found: the metrics of the training.
        made: what the training made besides the member, to be written too.
    """
    folder, metrics = folder_of(task), finite(found)
    seconds = metrics.pop("seconds")
    parts, averaged = _parts(task, member, surrounded.parts, shared)
    whole = (
        _average_parts(parts, averaged, metrics, folder, shared)
        if parts
        else _write_part(member, metrics, folder, shared)
    )
    if made is not None:
        files = {**whole.files, "made": shared.store.write_state(f"{folder}/made.safetensors", made, durable=False)}
        whole = replace(whole, files=files)
    report = finish_report(task, whole, [part for part, _ in parts], averaged, seconds, surrounded.logged, shared)
    if task.budget is None:
        surrounded.checkpoint.clear()
        surrounded.parts.clear()
    return report


def folder_of(task: Task) -> str:
    """Return the folder, in the run's, of the files of a task's attempt."""
    return f"members/{task.id}/{task.attempt}"


def finish_report(
    task: Task, whole: Part, parts: Sequence[Part], averaged: bool, seconds: float, logged: Logged, shared: RunContext
) -> Report:
    """Write a task's report, whose other files are there, and return it.

    Args:
        whole: metrics, cost and files of the task as a whole.
        logged: what the user's own code logged.
    """
    report = Report(
        task_id=task.id,
        attempt=task.attempt,
        metrics=whole.metrics,
        seconds=seconds,
        parameters=whole.parameters,
        predict_ms_per_1000=whole.predict_ms_per_1000,
        node=platform.node(),
        files=compact_files(whole.files),
        parts=tuple(parts),
        averaged=averaged,
        curves={name: _thin_out(values) for name, values in logged.items()},
    )
    content = json.dumps(to_json(report), allow_nan=False).encode()
    shared.store.write(f"{folder_of(task)}/report.json", content, durable=False)
    return report


def _thin_out(values: Mapping[int, float]) -> dict[int, float]:
    """Return a curve's points, or at most CURVE_POINTS of them: evenly spread ones, and the last."""
    epochs = sorted(values)
    step = -(-len(epochs) // CURVE_POINTS)
    return {epoch: values[epoch] for epoch in sorted(epochs[::-1][:: max(step, 1)])}


MeasuredPart = tuple[Part, dict[str, Floats]]
"""A part, and split -> its predictions_NK."""


def _write_part(member: Member, found: Mapping[str, float], folder: str, shared: RunContext) -> Part:
    """Write the predictions and the state of a training that leaves one model."""
    predictions, predict_ms_per_1000 = predict(member, _held_out(shared.dataset))
    files = _write_predictions(predictions, folder, shared)
    files["state"] = shared.store.write_state(f"{folder}/state.safetensors", member.state(), durable=False)
    metrics = {**found, **_score_on_search(predictions, shared.dataset)}
    return Part("", metrics, int(found["parameters"]), predict_ms_per_1000, files)


def _parts(task: Task, member: Member, found: Parts, shared: RunContext) -> tuple[list[MeasuredPart], bool]:
    """Return a training's parts, and True if they are averaged; predictions are written only of parts that are not.

    Raises:
        TypeError: there are parts, and the member's kind does not say what becomes of them.
    """
    if not len(found):
        return [], False
    if not registry.has_capability(member, LeavesParts):
        raise TypeError(f"its kind leaves parts ({', '.join(found)}) and does not say by `parts` what becomes of them")
    averaged, parts = member.parts == "averaged", list[MeasuredPart]()
    for name in found:
        state, left = found.state(name), found[name]
        model: Member = registry.build_member(task.settings, f"{task.id}/{name}")
        model.load(state)
        predictions, predict_ms_per_1000 = predict(model, _held_out(shared.dataset))
        files = {} if averaged else _write_predictions(predictions, f"{folder_of(task)}/{name}", shared)
        assert left.state is not None, "it is in the store"
        files["state"] = left.state
        metrics = {**finite(left.metrics), **_score_on_search(predictions, shared.dataset)}
        parameters = int(metrics.get("parameters", sum(array.size for array in state.arrays.values())))
        parts.append((Part(name, metrics, parameters, predict_ms_per_1000, files), predictions))
    return parts, averaged


def _average_parts(
    parts: Sequence[MeasuredPart], averaged: bool, found: Mapping[str, float], folder: str, shared: RunContext
) -> Part:
    """Return one part that represents all parts: the mean of their predictions if they are averaged, else the best."""
    if not averaged:
        usual = shared.dataset.target.minimised[0]
        best, _ = min(parts, key=lambda pair: pair[0].metrics.get(usual, 0.0))
        return replace(best, metrics={**found, **best.metrics})
    predictions = {split: np.mean([own[split] for _, own in parts], axis=0) for split in parts[0][1]}
    return make_average([part for part, _ in parts], predictions, found, folder, shared)


def make_average(
    parts: Sequence[Part],
    predictions: Mapping[str, Floats],
    found: Mapping[str, float],
    folder: str,
    shared: RunContext,
) -> Part:
    """Write the predictions of averaged parts, and return one part that represents them all.

    Args:
        predictions: split -> the mean of the parts' predictions.
        found: the metrics of the training as a whole.
    """
    return Part(
        "",
        {**found, **_score_on_search(predictions, shared.dataset)},
        sum(part.parameters for part in parts),
        sum(part.predict_ms_per_1000 for part in parts),
        _write_predictions(predictions, folder, shared),
    )


def _write_predictions(predictions: Mapping[str, Floats], folder: str, shared: RunContext) -> dict[str, Address]:
    write = shared.store.write_predictions
    return {
        split: write(f"{folder}/{split}.arrow", predictions_NK, durable=False)
        for split, predictions_NK in predictions.items()
    }


def _score_on_search(predictions: Mapping[str, Floats], dataset: Dataset) -> Mapping[str, float]:
    """Return the metrics of predictions on the *search* split.

    There are none where a federation's server has no such rows, and of a model that learned from the rows of all folds.

    Raises:
        Diverged, Refused: the user's own metric is not finite, or raised an error.
    """
    if "search" not in predictions:
        return {}
    return finite(dataset.measured.metrics(predictions["search"], dataset.targets["search"]))


def _held_out(dataset: Dataset) -> dict[str, Floats]:
    """Return split -> inputs of the splits that a model has not learned from, and that have rows."""
    splits = HELD_OUT[1:] if dataset.folds else HELD_OUT
    return {split: dataset.inputs[split] for split in splits if len(dataset.inputs[split])}


def predict(member: Any, inputs: Mapping[str, Floats]) -> tuple[dict[str, Floats], float]:
    """Return split -> predictions_NK, and milliseconds per 1,000 rows.

    Args:
        member: a trained member, or anything else that predicts.
        inputs: split -> the inputs of its rows.

    Raises:
        Diverged: a prediction is not finite.
    """
    member.predict(next(iter(inputs.values()))[:1])  # warms up
    started = time.perf_counter()
    if sum(some.nbytes for some in inputs.values()) <= ONE_CALL_BYTES:  # for few rows, one call is faster than three
        ends = np.cumsum([len(some) for some in inputs.values()])
        parts = np.split(member.predict(np.concatenate(list(inputs.values()))), ends[:-1])
        predictions = dict(zip(inputs, parts, strict=True))
    else:
        predictions = {split: member.predict(some) for split, some in inputs.items()}
    seconds = time.perf_counter() - started
    for split, predictions_NK in predictions.items():
        if not np.isfinite(predictions_NK).all():
            raise Diverged(f"predictions on the {split} split are not finite")
    return predictions, 1e6 * seconds / sum(map(len, inputs.values()))


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics as plain numbers; raise Diverged if one is not finite."""
    for name, value in metrics.items():
        if not np.isfinite(value):
            raise Diverged(f"{name} is {value}")
    return {name: float(value) for name, value in metrics.items()}
