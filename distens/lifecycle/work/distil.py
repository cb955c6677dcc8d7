"""Train a student to predict what a weighted ensemble predicts, on the *train* split."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from distens import registry
from distens.lifecycle.work._training import delivered, load_teachers, make_context
from distens.records import Report, Task, TaskOutcome, Teacher
from distens.runtime.protocol import WorkContext


@dataclass(frozen=True)
class Distil:
    """The work of training a student from teachers (see `distens.runtime.protocol.Work`).

    Attributes:
        distiller: kind and options, one of `distens/distill`.
        teachers: the models that are distilled, with their weights.
    """

    distiller: Mapping[str, Any]
    teachers: tuple[Teacher, ...]

    packable: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    limit_option: ClassVar[str] = ""

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return the task's id: each task is carried out by itself."""
        return task.id

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return family and spec of every plug-in that the work names."""
        return [("distill", self.distiller), *(("members", teacher.settings) for teacher in self.teachers)]

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[TaskOutcome]:
        """Yield the outcomes of the tasks."""
        for task in tasks:
            yield context.guarded(task, lambda task=task: self._train(task, context))

    def _train(self, task: Task, context: WorkContext) -> Report:
        student, own = registry.build_member(task.settings, task.id), make_context(task, context)
        distiller = registry.make_plugin("distill", self.distiller, "distill")
        weights_M = np.array([teacher.weight for teacher in self.teachers])
        trained = load_teachers(self.teachers, task.id, context)
        return delivered(
            task,
            student,
            lambda: distiller.distill(trained, weights_M, student, context.shared.dataset.examples(), own),
            context,
            own,
        )
