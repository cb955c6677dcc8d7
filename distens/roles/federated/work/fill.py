"""Make a member of the server's weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from distens.lifecycle.work._training import make_context, write_report
from distens.records import Report, Task, TaskOutcome
from distens.roles.federated.work._server import build_client
from distens.runtime.protocol import WorkContext


@dataclass(frozen=True)
class Fill:
    """The work of making a member of given weights, which predicts and leaves its state (see
    `distens.runtime.protocol.Work`).

    The task is given `start`, the weights_P.
    """

    packable: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    limit_option: ClassVar[str] = ""

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return the task's id: each task is carried out by itself."""
        return task.id

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return family and spec of every plug-in that the work names: none."""
        return ()

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[TaskOutcome]:
        """Yield the member's report."""
        for task in tasks:
            yield context.guarded(task, lambda task=task: _fill(task, context))


def _fill(task: Task, context: WorkContext) -> Report:
    own, member = make_context(task, context), build_client(task, context.shared)
    weights_P = context.given(task, "start")
    member.become(weights_P)
    return write_report(task, member, {"seconds": 0.0, "parameters": len(weights_P)}, context.shared, own)
