"""The loop that DENSE and Co-Boosting share: make up hard rows, learn from all rows made so far, and repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distens.distill import _generator
from distens.distill._epochs import MAX_GRADIENT_NORM, StudentTrainer, batches, cpu_generator
from distens.distill._losses import disagreement_loss, divergence, diversify, hard_loss
from distens.distill._pool import SyntheticRows
from distens.distill._teachers import FrozenTeachers
from distens.distill._weighing import EnsembleWeights
from distens.distill.protocol import Knowledge
from distens.training.context import Context

_GENERATOR_TEMPERATURE = 3.0
"""The temperature of the divergence of student and ensemble in the generator's loss."""


@dataclass(frozen=True)
class SynthesisOptions:
    """The options of a `Synthesis`: how rows are made and learned from.

    Attributes:
        pool: the largest number of rows that are kept, at least one batch of them.
        hard: rows that the ensemble is sure of count for little in the generator's loss.
        masked: the divergence of student and ensemble counts, in the generator's loss, only for rows for which they
            predict different classes.
        perturbation: the length of the move that makes diverse hard samples, as a share of the range; 0 for none.
    """

    batch_size: int
    generator_steps: int
    width: int
    generator_rate: float
    temperature: float
    pool: int
    hard: bool
    masked: bool
    perturbation: float


class Synthesis:
    """The training of DENSE and Co-Boosting: a `EpochLoop` (see `distens.distill._epochs`).

    An epoch makes up one batch of rows and passes once over all rows made so far.

    Args:
        weighing: the teachers' weights, which may learn.
    """

    def __init__(
        self,
        plan: SynthesisOptions,
        teachers: FrozenTeachers,
        pupil: StudentTrainer,
        weighing: EnsembleWeights,
        server: Knowledge,
        context: Context,
    ) -> None:
        self._plan, self._teachers, self._pupil, self.weighing = plan, teachers, pupil, weighing
        self._server, self._context = server, context
        self._range = _generator.InputBounds(server.low, server.high, server.input_shape, context.device)
        self.pool = SyntheticRows(self._range, teachers.logits, max(1, plan.pool // plan.batch_size))

    def epoch(self, number: int) -> Mapping[str, float]:
        """Train for one epoch; return the generator's least loss, the student's mean loss and
        `EnsembleWeights.curve_values`."""
        inputs, labels_N, made_loss = self._make(number)
        if len(self.pool):
            self.weighing.learn(number, self.pool)
        self.pool.add(inputs, labels_N, number)
        self._distil(number)
        return {"generator_loss": made_loss, "student_loss": self._pupil.loss(), **self.weighing.curve_values()}

    def _make(self, number: int) -> tuple[Tensor, Tensor, float]:
        """Return the rows of the step with the smallest loss, their labels, and that loss.

        The generator is fresh in every epoch; its noise learns with it (Adam, as in the code of both papers).
        """
        plan, device, rng = self._plan, self._context.device, cpu_generator(self._context.seed, "made up", number)
        noise = torch.randn((plan.batch_size, _generator.NOISE), generator=rng).to(device).requires_grad_()
        labels_N = torch.randint(self._server.classes, (plan.batch_size,), generator=rng).to(device)
        seed = int(torch.randint(2**31 - 1, (), generator=rng))
        made = _generator.make_generator(self._server.input_shape, plan.width, seed, device)
        weights = list(made.parameters())
        optimizer = torch.optim.Adam([*weights, noise], lr=plan.generator_rate, betas=(0.5, 0.999))
        student = FrozenTeachers([self._pupil.network], device)
        best, kept = torch.full((), torch.inf, device=device), torch.zeros(0)
        for _ in range(plan.generator_steps):
            inputs = self._range.scaled(made(noise))
            ensemble_NC = self._ensemble(inputs)
            fits = hard_loss(ensemble_NC, labels_N) if plan.hard else nn.functional.cross_entropy(ensemble_NC, labels_N)
            loss = fits + disagreement_loss(student.logits(inputs)[0], ensemble_NC, _GENERATOR_TEMPERATURE, plan.masked)
            if loss.detach() < best or not len(kept):
                best, kept = loss.detach(), inputs.detach()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, MAX_GRADIENT_NORM)
            optimizer.step()
        return kept, labels_N, best.item()

    def _ensemble(self, inputs: Tensor) -> Tensor:
        return self.weighing.ensemble_logits(self._teachers.logits(inputs))

    def _distil(self, number: int) -> None:
        """Pass once over the pool; `perturbation` first moves each batch to where the ensemble predicts otherwise."""
        plan, rng = self._plan, cpu_generator(self._context.seed, "order", number)
        self._pupil.begin(number)
        for rows in batches(len(self.pool), plan.batch_size, rng):
            directions_NC = (
                torch.rand((len(rows), self._server.classes), generator=rng).to(self._context.device) * 2 - 1
            )
            rows = rows.to(self._context.device)
            inputs = self.pool.inputs(rows)
            if plan.perturbation:
                size = plan.perturbation * self._range.span
                inputs = diversify(inputs, self._ensemble, directions_NC, size, plan.temperature)
                with torch.no_grad():
                    target_NC = self._ensemble(inputs)
            else:
                target_NC = self.weighing.ensemble_logits(self.pool.logits_MNC[:, rows])
            self._pupil.learn(inputs, _towards(target_NC, plan.temperature))

    def state(self) -> Any:
        """Return the student, the pool and the weights, as a tree for a checkpoint."""
        return {"pupil": self._pupil.state(), "pool": self.pool.state(), "weighing": self.weighing.state()}

    def load(self, tree: Any) -> None:
        """Restore a state that `state` returned."""
        self._pupil.load(tree["pupil"])
        self.pool.load(tree["pool"], self._context.device)
        self.weighing.load(tree["weighing"])


def _towards(target_NC: Tensor, temperature: float) -> Callable[[Tensor], Tensor]:
    return lambda logits_NC: divergence(logits_NC, target_NC, temperature).mean()
