"""Measure the weighted mean of trained members' predictions on the *search* split: one loss for each row."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from distens.lifecycle.work._training import load_teachers
from distens.records import Answer, Floats, Record, Task, Teacher
from distens.runtime.protocol import WorkContext


@dataclass(frozen=True, slots=True)
class Evaluation(Record):
    """The losses of a weighted mean of members: the answer of `Evaluate`.

    Attributes:
        losses: measure -> one loss for each row of the *search* split, in order.
    """

    task_id: str
    attempt: int
    losses: Mapping[str, Floats]


@dataclass(frozen=True)
class Evaluate:
    """The work of loading members and measuring the weighted mean of their predictions (see
    `distens.runtime.protocol.Work`).

    Attributes:
        members: addresses of their states, and weights, which sum to one.
    """

    members: tuple[Teacher, ...]

    packable: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    limit_option: ClassVar[str] = ""

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return the task's id: each task is carried out by itself."""
        return task.id

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return family and spec of every plug-in that the work names."""
        return [("members", member.settings) for member in self.members]

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[Answer]:
        """Yield the losses of each task's mean."""
        dataset = context.shared.dataset
        assert not dataset.folds, "models of folds have learned from most of these rows"
        for task in tasks:
            predictions = [m.predict(dataset.inputs["search"]) for m in load_teachers(self.members, task.id, context)]
            weights_M = np.array([member.weight for member in self.members])
            losses = dataset.target.losses(dataset.target.mean(predictions, weights_M), dataset.targets["search"])
            yield Evaluation(task.id, task.attempt, losses)
