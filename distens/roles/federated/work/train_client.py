"""Train clients once, on rows of their own; their models are kept."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from distens.data.dataset import Examples
from distens.lifecycle.work._training import group, train_tasks
from distens.records import Task, TaskOutcome
from distens.roles.federated.clients import PartitionedClients
from distens.roles.federated.work._server import clients_of
from distens.runtime.protocol import WorkContext
from distens.training.context import Context


@dataclass(frozen=True)
class TrainClient:
    """The work of training a client once, in one shot (see `distens.runtime.protocol.Work`).

    Attributes:
        client: the client whose rows are learned from.
    """

    client: str

    packable: ClassVar[bool] = True
    divisible: ClassVar[bool] = True
    limit_option: ClassVar[str] = "federated.deadline_seconds"

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return a key that clients share if they can be trained as one program; else the task's own id.

        Clients with data of their own are trained one by one: their rows do not meet.
        """
        return group(task) if isinstance(clients_of(context), PartitionedClients) else task.id

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return family and spec of every plug-in that the work names: none."""
        return ()

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[TaskOutcome]:
        """Yield the outcomes of the tasks."""
        clients, dataset = clients_of(context), context.shared.dataset

        def own(task: Task, surroundings: Context) -> tuple[Examples, Context]:
            if isinstance(clients, PartitionedClients):
                return dataset.examples(), replace(surroundings, rows_N=clients.rows[task.work.client])
            return clients.examples(task.work.client, dataset), surroundings

        yield from train_tasks(tasks, context, own)
