"""The loop that DENSE and Co-Boosting share: make rows up that are hard, learn from all made so far, again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distens.distill import _generator
from distens.distill._epochs import CLIP, Pupil, batches, chance
from distens.distill._losses import apart, divergence, diversified, hard
from distens.distill._pool import Pool
from distens.distill._teachers import Frozen
from distens.distill._weighing import Weighing
from distens.distill.protocol import Server
from distens.training.context import Context

_MADE_AT = 3.0
"""The temperature at which a generator tells student and ensemble apart."""


@dataclass(frozen=True)
class Plan:
    """How rows are made and learned from.

    Attributes:
        hard: rows that the ensemble is sure of count for little to the generator.
        masked: the generator sets student and ensemble apart only where they name different classes.
        perturbation: of diverse hard samples, a share of the range; 0 for none.
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
    """A `Job` (see `distens.distill._epochs`): an epoch makes one batch of rows up and passes once over all.

    Args:
        weighing: of the teachers; it may learn.
    """

    def __init__(
        self, plan: Plan, teachers: Frozen, pupil: Pupil, weighing: Weighing, server: Server, context: Context
    ) -> None:
        self._plan, self._teachers, self._pupil, self.weighing = plan, teachers, pupil, weighing
        self._server, self._context = server, context
        self._range = _generator.Range(server.low, server.high, server.input_shape, context.device)
        self.pool = Pool(self._range, teachers.logits, max(1, plan.pool // plan.batch_size))

    def epoch(self, number: int) -> Mapping[str, float]:
        """Return the generator's smallest loss and the student's mean loss."""
        inputs, labels_N, made_loss = self._make(number)
        if len(self.pool):
            self.weighing.learn(number, self.pool)
        self.pool.add(inputs, labels_N, number)
        self._distil(number)
        return {"generator_loss": made_loss, "student_loss": self._pupil.loss(), **self.weighing.watched()}

    def _make(self, number: int) -> tuple[Tensor, Tensor, float]:
        """Return the rows of the step with the smallest loss, their labels, and that loss.

        A fresh generator every epoch; its noise learns beside it (Adam, as in the code of both papers).
        """
        plan, device, rng = self._plan, self._context.device, chance(self._context.seed, "made up", number)
        noise = torch.randn((plan.batch_size, _generator.NOISE), generator=rng).to(device).requires_grad_()
        labels_N = torch.randint(self._server.classes, (plan.batch_size,), generator=rng).to(device)
        seed = int(torch.randint(2**31 - 1, (), generator=rng))
        made = _generator.make(self._server.input_shape, plan.width, seed, device)
        weights = list(made.parameters())
        optimizer = torch.optim.Adam([*weights, noise], lr=plan.generator_rate, betas=(0.5, 0.999))
        student = Frozen([self._pupil.network], device)
        best, kept = torch.full((), torch.inf, device=device), torch.zeros(0)
        for _ in range(plan.generator_steps):
            inputs = self._range.scaled(made(noise))
            ensemble_NC = self._ensemble(inputs)
            fits = hard(ensemble_NC, labels_N) if plan.hard else nn.functional.cross_entropy(ensemble_NC, labels_N)
            loss = fits + apart(student.logits(inputs)[0], ensemble_NC, _MADE_AT, plan.masked)
            if loss.detach() < best or not len(kept):
                best, kept = loss.detach(), inputs.detach()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, CLIP)
            optimizer.step()
        return kept, labels_N, best.item()

    def _ensemble(self, inputs: Tensor) -> Tensor:
        return self.weighing.say(self._teachers.logits(inputs))

    def _distil(self, number: int) -> None:
        """Pass once over the pool, each batch moved to where teachers say other things, if that is wanted."""
        plan, rng = self._plan, chance(self._context.seed, "order", number)
        self._pupil.begin(number)
        for rows in batches(len(self.pool), plan.batch_size, rng):
            directions_NC = (
                torch.rand((len(rows), self._server.classes), generator=rng).to(self._context.device) * 2 - 1
            )
            rows = rows.to(self._context.device)
            inputs = self.pool.inputs(rows)
            if plan.perturbation:
                size = plan.perturbation * self._range.span
                inputs = diversified(inputs, self._ensemble, directions_NC, size, plan.temperature)
                with torch.no_grad():
                    target_NC = self._ensemble(inputs)
            else:
                target_NC = self.weighing.say(self.pool.logits_MNC[:, rows])
            self._pupil.learn(inputs, _towards(target_NC, plan.temperature))

    def state(self) -> Any:
        """Return a tree to keep."""
        return {"pupil": self._pupil.state(), "pool": self.pool.state(), "weighing": self.weighing.state()}

    def load(self, tree: Any) -> None:
        """Be where `state` was called."""
        self._pupil.load(tree["pupil"])
        self.pool.load(tree["pool"], self._context.device)
        self.weighing.load(tree["weighing"])


def _towards(target_NC: Tensor, temperature: float) -> Callable[[Tensor], Tensor]:
    return lambda logits_NC: divergence(logits_NC, target_NC, temperature).mean()
