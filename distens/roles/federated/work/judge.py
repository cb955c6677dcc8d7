"""Measure weights on the server's own *search* rows."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from distens import probabilities
from distens.records import Answer, Task
from distens.roles.federated.answers import ServerScore
from distens.roles.federated.work._server import kept_pattern
from distens.runtime.protocol import WorkContext


@dataclass(frozen=True)
class Judge:
    """The work of measuring a round's weights on the server's rows (see `distens.runtime.protocol.Work`).

    The task is given `start`, the weights_P. The answer is `ServerScore`.

    Attributes:
        round: the round that ended with the weights, from 0.
    """

    round: int

    packable: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    limit_option: ClassVar[str] = ""

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return the task's id: each task is carried out by itself."""
        return task.id

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return family and spec of every plug-in that the work names: none."""
        return ()

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[Answer]:
        """Yield the metrics of the weights."""
        for task in tasks:
            member, dataset = kept_pattern(task, context.shared), context.shared.dataset
            member.become(context.given(task, "start"))
            probs_NC = member.predict(dataset.inputs["search"])
            metrics = probabilities.class_metrics(probs_NC, dataset.labels["search"])
            yield ServerScore(task.id, task.attempt, metrics, self.round)
