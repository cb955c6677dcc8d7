"""Students that learn an ensemble's predictions of given rows, without a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distens.distill._ensemble import TeacherEnsemble
from distens.distill._epochs import StudentTrainer
from distens.distill._losses import divergence
from distens.distill._teachers import FrozenTeachers
from distens.records import Floats

Loss = Callable[[Tensor, Tensor], Tensor]
"""(student's logits_NC, teachers' logits_MNC) -> the mean loss."""


class Teaching:
    """The training of a student on given rows: a `EpochLoop` (see `distens.distill._epochs`) with a step for each
    batch.

    Args:
        batches: epoch -> its batches of inputs.
    """

    def __init__(
        self, pupil: StudentTrainer, teachers: FrozenTeachers, batches: Callable[[int], Iterable[Tensor]], loss: Loss
    ) -> None:
        self._pupil, self._teachers, self._batches, self._loss = pupil, teachers, batches, loss

    def epoch(self, number: int) -> Mapping[str, float]:
        """Train for one epoch; return the student's mean loss."""
        self._pupil.begin(number)
        for inputs in self._batches(number):
            with torch.no_grad():
                logits_MNC = self._teachers.logits(inputs)
            self._pupil.learn(inputs, lambda logits_NC, said=logits_MNC: self._loss(logits_NC, said))
        return {"student_loss": self._pupil.loss()}

    def state(self) -> Any:
        """Return the student, as a tree for a checkpoint."""
        return self._pupil.state()

    def load(self, tree: Any) -> None:
        """Restore a state that `state` returned."""
        self._pupil.load(tree)


def towards(ensemble: TeacherEnsemble, weights_M: Floats, temperature: float, device: str) -> Loss:
    """Return the loss mean KL_T(student, A_w), A_w the logits of the weighted teachers together."""
    shares_M = torch.tensor(np.asarray(weights_M), dtype=torch.float32).to(device)
    return lambda student_NC, said_MNC: divergence(student_NC, ensemble(said_MNC, shares_M), temperature).mean()
