"""One network that predicts what the weighted members predict together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from distens.data.dataset import Examples
from distens.distill.protocol import Learns, Predicts
from distens.probabilities import apply_temperature
from distens.records import Floats
from distens.registry import Plugin
from distens.seeding import generator
from distens.training.context import Context


@dataclass(frozen=True)
class Student:
    """Student: a network trained on the weighted mean of the members' probabilities.

    It learns from soft labels alone, the mean over the teachers, after Shen and Savvides 2020, "MEAL V2: Boosting
    Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks", section 3; we leave out its discriminator and
    its pre-trained start. Softening and mixed-in labels are after Hinton, Vinyals and Dean 2015, "Distilling the
    Knowledge in a Neural Network", section 2; we differ in that the student meets the softened targets at temperature
    1, so a student of temperature > 1 is under-confident until it is calibrated.

    On the very rows they were trained on, teachers are nearly certain and so teach little more than the labels.
    Therefore the teachers also predict rows between those: mixup (Zhang et al. 2018, "mixup: Beyond Empirical Risk
    Minimization", section 2), where the targets are the teachers' predictions, not the mixed labels (as in Beyer et al.
    2022, "Knowledge distillation: A good teacher is patient and consistent").

    Attributes:
        network: the student's network, a member with fixed values; None: that of the best member that is a network,
            without its dropout (see `distens.evaluate.baselines.without_dropout`).
        temperature: above 1 softens the teachers' predictions, below 1 sharpens them.
        labels: share of the true labels in the targets; 0 is soft labels alone.
        copies: made-up rows per row of the training split. An epoch of the student is 1 + copies times as long, and
            the inputs take 1 + copies times the memory.
        mixup: a of the share lambda ~ Beta(a, a) in lambda x + (1 - lambda) x'; None: 1, which is uniform.
    """

    network: Annotated[Any, Plugin("members")] = None
    temperature: Annotated[float, Gt(0), Le(100)] = 1.0
    labels: Annotated[float, Ge(0), Lt(1)] = 0.0
    copies: Annotated[int, Ge(0), Le(1000)] = 4
    mixup: Annotated[float, Gt(0), Le(1000)] | None = None

    def __post_init__(self) -> None:
        if self.copies == 0 and self.mixup is not None:
            raise ValueError(f"mixup: {self.mixup:g} has no effect with copies: 0, which makes up no rows")

    @property
    def growth(self) -> int:
        """Return the number of rows that the student sees in an epoch, per row of the training split."""
        return 1 + self.copies

    def distill(
        self, teachers: Sequence[Predicts], weights_M: Floats, student: Learns, examples: Examples, context: Context
    ) -> Mapping[str, float]:
        """Train the student in place.

        Returns:
            The student's metrics, with `teacher_seconds` (of the teachers' predictions) and `rows` (the number
            learned from).
        """
        inputs, truth_NC = self._rows(examples, generator(context.seed, "mixup"))
        start = perf_counter()
        soft_NC = _mean(teachers, weights_M, inputs)
        teacher_seconds = perf_counter() - start
        targets_NC = apply_temperature(soft_NC, self.temperature)
        if self.labels:
            targets_NC = (1 - self.labels) * targets_NC + self.labels * truth_NC
        metrics = student.fit(Examples(inputs, targets_NC.astype(np.float32), examples.classes), context)
        return {**metrics, "teacher_seconds": teacher_seconds, "rows": float(len(inputs))}

    def _rows(self, examples: Examples, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Return the inputs (the training rows first, then the made-up ones) and their labels, mixed likewise."""
        count = len(examples.inputs)
        truth_NC = _one_hot(examples)
        inputs = np.empty((count * (1 + self.copies), *examples.inputs.shape[1:]), dtype=np.float32)
        mixed_NC = np.empty((len(inputs), examples.classes), dtype=np.float32)
        inputs[:count], mixed_NC[:count] = examples.inputs, truth_NC
        for copy in range(1, 1 + self.copies):
            place = slice(copy * count, (copy + 1) * count)
            partner_N = rng.permutation(count)
            share_N = rng.beta(self.mixup or 1.0, self.mixup or 1.0, size=count).astype(np.float32)
            inputs[place] = _between(inputs[:count], partner_N, share_N)
            mixed_NC[place] = _between(mixed_NC[:count], partner_N, share_N)
        return inputs, mixed_NC


def _between(rows: Floats, partner_N: Any, share_N: Floats) -> Floats:
    """Return share * row + (1 - share) * its partner, for rows of any shape."""
    share = share_N.reshape(-1, *[1] * (rows.ndim - 1))
    return share * rows + (1 - share) * rows[partner_N]


def _one_hot(examples: Examples) -> Floats:
    targets: Any = np.asarray(examples.targets)
    return targets if targets.ndim == 2 else np.eye(examples.classes, dtype=np.float32)[targets]


def _mean(teachers: Sequence[Predicts], weights_M: Floats, inputs: Floats) -> Floats:
    """Return the weighted mean of the teachers' predictions, held in memory one at a time; rows sum to one."""
    total_NC: Any = 0.0
    for teacher, weight in zip(teachers, weights_M, strict=True):
        total_NC = total_NC + float(weight) * np.asarray(teacher.predict(inputs), dtype=np.float64)
    return total_NC / total_NC.sum(axis=1, keepdims=True)
