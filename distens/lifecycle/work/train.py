"""Train members on the *train* split's labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from distens.lifecycle.work._training import group, train_tasks
from distens.records import Task, TaskOutcome
from distens.runtime.protocol import WorkContext


@dataclass(frozen=True)
class Train:
    """The work of training a member on all rows, as far as its settings and its budget say; members of one architecture
    are trained together (see `distens.runtime.protocol.Work`)."""

    packable: ClassVar[bool] = True
    divisible: ClassVar[bool] = True
    limit_option: ClassVar[str] = ""

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return a key that tasks share if their members can be trained as one program; else the task's own id."""
        return group(task)

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return family and spec of every plug-in that the work names: none."""
        return ()

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[TaskOutcome]:
        """Yield the outcomes of the tasks."""
        examples = context.shared.dataset.examples()
        yield from train_tasks(tasks, context, lambda task, own: (examples, own))
