"""Train members by folds: a member is one model for each fold, and predicts their mean (see `distens.data.folds`).

task ──► fold1 … foldK, those of a pack's tasks as one program ──► each left on disk as it is done
             ├──► predictions of held-out rows ──► out-of-fold predictions of all rows, in place of *search*
             └──► means of predictions of *combine* and *test*
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np

from distens import registry
from distens.data.dataset import Examples
from distens.data.folds import Fold, Rescaled, out_of_fold, restore_model
from distens.errors import Diverged
from distens.lifecycle.work._training import (
    HELD_OUT,
    MeasuredPart,
    finish_report,
    finite,
    folder_of,
    group,
    make_average,
    make_context,
    predict,
)
from distens.members.protocol import Member, PacksFolds
from distens.records import Part, Report, Task, TaskOutcome
from distens.runtime.protocol import WorkContext
from distens.training.context import Context

SUMMED = ("seconds", "steps")
"""Metrics of a training that folds add up; of all others a member reports the mean."""


@dataclass(frozen=True)
class CrossFit:
    """The work of training a member by the folds of the run's data; the folds of members of one architecture are
    trained together (see `distens.runtime.protocol.Work`). A fold that an earlier attempt left is not trained again."""

    packable: ClassVar[bool] = True
    divisible: ClassVar[bool] = True
    limit_option: ClassVar[str] = ""

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return a key that tasks share if their folds can be trained as one program; else the task's own id."""
        return ("folds", group(task)) if _packs_folds(task) else task.id

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return family and spec of every plug-in that the work names: none."""
        return ()

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[TaskOutcome]:
        """Yield the outcomes of the tasks."""
        examples = context.shared.dataset.examples()
        if _packs_folds(tasks[0]):
            yield from _train_together([_CrossFitted(task, context) for task in tasks], examples, context)
        else:  # a group of one
            yield context.guarded(tasks[0], lambda: _train_in_turn(_CrossFitted(tasks[0], context), examples))


def _packs_folds(task: Task) -> bool:
    cls = registry.find_plugin("members", task.settings["kind"], task.id)
    return registry.has_capability(cls, PacksFolds) and task.resources.processes == 1


class _CrossFitted:
    """A task's folds: those that are done, and those that are left to train."""

    def __init__(self, task: Task, context: WorkContext) -> None:
        self.task, self._shared, self._dataset = task, context.shared, context.shared.dataset
        self._context = make_context(task, context)
        self._done: dict[str, MeasuredPart] = {}
        for fold in self._dataset.folds:
            if fold.name in self._context.parts:
                self._read(fold)

    @property
    def left(self) -> list[Fold]:
        """Return the folds that are not done."""
        return [fold for fold in self._dataset.folds if fold.name not in self._done]

    def learner(self, fold: Fold) -> tuple[Member, Context]:
        """Return the untrained model of a fold, and its context, whose checkpoint the rungs of a member share."""
        whole = self._context.folder
        folder = None if whole is None else whole / fold.name
        own = replace(self._context.of_part(fold.name), logged={}, folder=folder)
        return registry.build_member(self.task.settings, self.task.id), own

    def keep(self, fold: Fold, member: Member, found: Mapping[str, float], own: Context) -> None:
        """Leave a fold's trained model on disk, with its metrics, and predict with it.

        Raises:
            Diverged: a metric or a prediction is not finite.
        """
        metrics, parts = finite(found), self._context.parts
        for name, values in own.logged.items():
            self._context.logged[f"{name}/{fold.name}"] = values
        measured = self._measured(fold, Rescaled(member, fold.rescaling), metrics)
        parts.leave(fold.name, fold.rescaling.add_to(member.state()), metrics)
        self._done[fold.name] = measured

    def _read(self, fold: Fold) -> None:
        """Predict with a model that an earlier attempt left."""
        model: Member = registry.build_member(self.task.settings, f"{self.task.id}/{fold.name}")
        parts = self._context.parts
        loaded = restore_model(model, parts.state(fold.name))
        self._done[fold.name] = self._measured(fold, loaded, parts[fold.name].metrics)

    def _measured(self, fold: Fold, model: Any, metrics: Mapping[str, float]) -> MeasuredPart:
        """Return a fold's part, its files left out, and its predictions; those of *search* are of its held-out rows."""
        inputs = {split: self._dataset.inputs[split] for split in HELD_OUT if len(self._dataset.inputs[split])}
        predictions, milliseconds = predict(model, {**inputs, "search": inputs["search"][fold.held_N]})
        measured = self._dataset.target.metrics(predictions["search"], self._dataset.targets["search"][fold.held_N])
        found = {**metrics, **finite(measured)}
        return Part(fold.name, found, int(metrics["parameters"]), milliseconds, {}), predictions

    def report(self) -> Report:
        """Write the member's predictions and report, once all folds are done, and return the report."""
        left = {fold.name: self._context.parts[fold.name] for fold in self._dataset.folds}
        parts, trained = list[Part](), [part.metrics for part in left.values()]
        for name, part in left.items():
            assert part.state is not None, "it is in the store"
            parts.append(replace(self._done[name][0], files={"state": part.state}))
        found = {name: self._done[name][1] for name in left}
        held_out = {name: predictions["search"] for name, predictions in found.items()}
        rows = len(self._dataset.targets["search"])
        several = {split: [own[split] for own in found.values()] for split in next(iter(found.values()))}
        several["search"] = out_of_fold(held_out, self._dataset.folds, rows)
        predictions = {split: np.mean(values, axis=0) for split, values in several.items()}
        metrics = {
            name: float((np.sum if name in SUMMED else np.mean)([one[name] for one in trained]))
            for name in trained[0]
            if name != "parameters" and all(name in one for one in trained)
        }
        seconds = metrics.pop("seconds")
        whole = make_average(parts, predictions, metrics, folder_of(self.task), self._shared)
        report = finish_report(self.task, whole, parts, True, seconds, self._context.logged, self._shared)
        if self.task.budget is None:
            self._context.parts.clear()
        return report


def _train_in_turn(run: _CrossFitted, examples: Examples) -> Report:
    """Train the folds of a task one after the other."""
    for fold in run.left:
        (member, own), started = run.learner(fold), time.perf_counter()
        found = dict(member.fit(examples.of_fold(fold), own))
        found.setdefault("seconds", time.perf_counter() - started)
        run.keep(fold, member, found, own)
    return run.report()


def _train_together(runs: Sequence[_CrossFitted], examples: Examples, context: WorkContext) -> Iterator[TaskOutcome]:
    """Train the folds of all tasks as one program, and yield each task's outcome as soon as it is known."""
    for run in runs:
        if not run.left:
            yield context.guarded(run.task, run.report)
    asked = [(run, fold, *run.learner(fold)) for run in runs for fold in run.left]
    if not asked:
        return
    members = cast("list[PacksFolds]", [member for _, _, member, _ in asked])
    contexts = [replace(own, fold=fold) for _, fold, _, own in asked]
    failed, started = set[str](), time.perf_counter()
    for place, found in type(members[0]).fit_pack(members, examples, contexts):
        run, fold, member, own = asked[place]
        if run.task.id in failed:
            continue
        try:
            if isinstance(found, Diverged):
                raise found
            run.keep(fold, member, {"seconds": (time.perf_counter() - started) / len(asked), **found}, own)
            if not run.left:
                yield run.report()
        except Exception as error:
            failed.add(run.task.id)
            yield context.failure(run.task, error, time.perf_counter() - started)
