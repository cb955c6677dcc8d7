"""Measure a weighted mean of trained members, one loss a unit: what must be tried to be judged is judged by a task."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from distens.lifecycle.work._training import teachers
from distens.records import Answer, Floats, Record, Task, Teacher
from distens.runtime.protocol import WorkContext


@dataclass(frozen=True, slots=True)
class Evaluated(Record):
    """What a candidate is worth.

    Attributes:
        losses: measure -> one loss for each row of the *search* split, in order.
    """

    task_id: str
    attempt: int
    losses: Mapping[str, Floats]


@dataclass(frozen=True)
class Evaluate:
    """Members are loaded, and their weighted mean predicts the *search* split (see `distens.runtime.protocol.Work`).

    Attributes:
        members: addresses and weights, which sum to one.
    """

    members: tuple[Teacher, ...]

    packable: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    limit_option: ClassVar[str] = ""

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return the task's id: it goes alone."""
        return task.id

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return family and spec of every plug-in that it names."""
        return [("members", member.settings) for member in self.members]

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[Answer]:
        """Yield what the candidates are worth."""
        dataset = context.shared.dataset
        for task in tasks:
            predictions = [m.predict(dataset.inputs["search"]) for m in teachers(self.members, task.id, context)]
            weights_M = np.array([member.weight for member in self.members])
            losses = dataset.target.losses(dataset.target.mean(predictions, weights_M), dataset.targets["search"])
            yield Evaluated(task.id, task.attempt, losses)
