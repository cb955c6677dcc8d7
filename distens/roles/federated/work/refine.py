"""Refine the weights that a round merged, with the server's distiller."""

from __future__ import annotations

import platform
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from distens import registry
from distens.records import Answer, Task
from distens.roles.federated.answers import Refinement
from distens.roles.federated.work._server import build_client, knowledge
from distens.runtime.protocol import WorkContext
from distens.training.context import Context


@dataclass(frozen=True)
class Refine:
    """The work of refining merged weights with the server's distiller (see `distens.runtime.protocol.Work`).

    The task is given `start`, the merged weights_P; `teachers`, the clients' weights that were merged; `counts`, the
    clients' numbers of rows of each class; and `memory`, the distiller's memory of the round before. The answer is
    `Refinement`.

    Attributes:
        distiller: kind and options, one of `distens/distill` that refines.
        round: from 0.
    """

    distiller: Mapping[str, Any]
    round: int

    packable: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    limit_option: ClassVar[str] = ""

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return the task's id: each task is carried out by itself."""
        return task.id

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return family and spec of every plug-in that the work names."""
        return [("distill", self.distiller)]

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[Answer]:
        """Yield the refined weights."""
        for task in tasks:
            start = time.perf_counter()
            member = build_client(task, context.shared)
            member.become(context.given(task, "start"))
            given_K = context.given(task, "teachers")
            teachers = [build_client(task, context.shared) for _ in given_K]
            for teacher, weights_P in zip(teachers, given_K, strict=True):
                teacher.become(weights_P)
            distiller = registry.make_plugin("distill", self.distiller, "distill")
            server = knowledge(context.shared, context.given(task, "counts"))
            own, memory = Context(task.seed, device=context.device(task)), context.given(task, "memory")
            metrics, memory = distiller.refine(member, teachers, server, own, self.round, memory)
            seconds = time.perf_counter() - start
            yield Refinement(task.id, task.attempt, member.weights(), metrics, memory, seconds, platform.node())
