"""Train a student to predict what clients predict together, without any of their rows."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from distens import registry
from distens.lifecycle.work._training import load_teachers, make_context, write_report
from distens.records import Report, State, Task, TaskOutcome, Teacher
from distens.roles.federated.work._server import knowledge
from distens.runtime.protocol import WorkContext


@dataclass(frozen=True)
class DistilBlind:
    """The work of training a student from clients without their rows (see `distens.runtime.protocol.Work`).

    The task is given `counts`, the teachers' numbers of rows of each class.

    Attributes:
        distiller: kind and options, one of `distens/distill` that needs none of the clients' rows.
        teachers: the clients' models, with the weights that the distiller begins with.
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
        """Yield the student's report."""
        for task in tasks:
            yield context.guarded(task, lambda task=task: self._train(task, context))

    def _train(self, task: Task, context: WorkContext) -> Report:
        own, student = make_context(task, context), registry.build_member(task.settings, task.id)
        started = time.perf_counter()
        server = knowledge(context.shared, context.given(task, "counts"))
        student.begin(server.input_shape, server.classes, own.seed)
        distiller = registry.make_plugin("distill", self.distiller, "distill")
        weights_M = np.array([teacher.weight for teacher in self.teachers])
        found = distiller.distill(load_teachers(self.teachers, task.id, context), weights_M, student, server, own)
        arrays = {f"curves/{name}": np.array(values, dtype=np.float64) for name, values in found.curves.items()}
        if found.weights_M is not None:
            arrays["weights_M"] = np.asarray(found.weights_M, dtype=np.float64)
        if found.images is not None:
            arrays["images"] = found.images
        metrics = {"seconds": time.perf_counter() - started, **found.metrics}
        return write_report(task, student, metrics, context.shared, own, State(arrays))
