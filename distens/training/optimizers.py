"""Optimizers of stacked networks: torch's own steps, with each member's own learning rate, decay and schedule.

A step is a handful of operations on all weights at once. Learning rates, decays and momenta are columns (M, 1), with
one number for each member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from distens.training.loop import Recipe
from distens.training.stacked import NetworkStack

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""torch's defaults of Adam and AdamW."""


class Optimizer:
    """The base class of all optimizers: it keeps the columns and moments, and converts moments to checkpoints and back.

    Args:
        stack: the stack whose `weights` a step updates from its `gradients`.
        recipes: the members' recipes.
    """

    kept: ClassVar[tuple[str, ...]]
    """The moments' names in torch's own optimizers."""

    def __init__(self, stack: NetworkStack, recipes: Sequence[Recipe]) -> None:
        self._stack, self._done = stack, 0
        self._begin({name: torch.zeros_like(stack.weights) for name in self.kept}, recipes)

    def _begin(self, moments: dict[str, Tensor], recipes: Sequence[Recipe]) -> None:
        self._moments = moments
        self._epochs_M = np.array([recipe.epochs for recipe in recipes])
        self._cosine_M = np.array([recipe.schedule == "cosine" for recipe in recipes])
        self._first_M = np.array([recipe.learning_rate for recipe in recipes])
        self._decays_M = np.array([recipe.weight_decay for recipe in recipes])
        self._falls, self._decays = bool(self._cosine_M.any()), bool(self._decays_M.any())
        self._decay_M1, self._momentum_M1 = self._columns(self._decays_M, [recipe.momentum for recipe in recipes])
        self._alike = len({(r.learning_rate, r.weight_decay, r.schedule, r.epochs) for r in recipes}) == 1
        self._set_rates(self._first_M)
        self._weights, self._gradients = map(self._stack.flat, (self._stack.weights, self._stack.gradients))

    def _columns(self, *numbers: Any) -> Tensor:
        return torch.tensor(np.stack(numbers)[:, :, None], dtype=torch.float32, device=self._stack.device)

    def _set_rates(self, rates_M: np.ndarray[Any, Any]) -> None:
        self._rates_M = rates_M
        if not self._alike:
            self._rate_M1, self._left_M1 = self._columns(rates_M, 1 - rates_M * self._decays_M)

    def schedule(self, done: int, steps: int) -> None:
        """Set the learning rates for the next step, after `done` steps; an epoch has `steps` steps."""
        self._done = done
        if self._falls:
            fall_M = (1 + np.cos(np.pi * done / (self._epochs_M * steps))) / 2
            self._set_rates(self._first_M * np.where(self._cosine_M, fall_M, 1.0))

    def step(self) -> None:
        """Update the weights from the gradients."""
        raise NotImplementedError

    def _penalise(self) -> None:
        """Add the gradient of the L2 penalty to the gradients."""
        if self._decays:
            for weights_MK, gradients_MK in zip(self._weights, self._gradients, strict=True):
                gradients_MK.addcmul_(weights_MK, self._decay_M1)

    def keep(self, places: Sequence[int], recipes: Sequence[Recipe]) -> None:
        """Keep only the members in `places`, in the stack too; `recipes` are those of the members kept."""
        moments = {name: self._stack.select_members(moment, places) for name, moment in self._moments.items()}
        self._stack.keep(places)
        self._begin(moments, recipes)

    def state(self, place: int) -> dict[int, dict[str, Any]]:
        """Return one member's moments in the format of torch's own optimizers: parameter's number -> its state."""
        moments = {name: self._stack.named(place, moment).values() for name, moment in self._moments.items()}
        steps = {"step": torch.tensor(float(self._done + 1))} if len(moments) > 1 else {}
        parts = zip(*moments.values(), strict=True)
        return {i: {**steps, **dict(zip(moments, part, strict=True))} for i, part in enumerate(parts)}

    def load(self, states: Sequence[Mapping[int, Mapping[str, Tensor]]]) -> None:
        """Restore the moments from each member's `state`, or from states of torch's own optimizers."""
        for name, moment in self._moments.items():
            for i, block in enumerate(self._stack.blocks(moment)):
                for place, state in enumerate(states):
                    block[place] = state[i][name]


class _Sgd(Optimizer):
    kept = ("momentum_buffer",)

    def _begin(self, moments: dict[str, Tensor], recipes: Sequence[Recipe]) -> None:
        super()._begin(moments, recipes)
        self._alike = False  # so that its rates are always columns
        self._set_rates(self._first_M)
        self._buffers = self._stack.flat(moments["momentum_buffer"])

    def step(self) -> None:
        self._penalise()
        for weights_MK, gradients_MK, buffer_MK in zip(self._weights, self._gradients, self._buffers, strict=True):
            buffer_MK.mul_(self._momentum_M1).add_(gradients_MK)
            weights_MK.addcmul_(buffer_MK, self._rate_M1, value=-1)


class _Adam(Optimizer):
    """Adam, by torch's fused step.

    That step takes a single learning rate. If members differ, it writes a delta at learning rate 1, which each member's
    own learning rate then scales.
    """

    kept = ("exp_avg", "exp_avg_sq")
    decoupled = False

    def _begin(self, moments: dict[str, Tensor], recipes: Sequence[Recipe]) -> None:
        super()._begin(moments, recipes)
        self._averages = [moments["exp_avg"]], [moments["exp_avg_sq"]]
        self._steps = torch.zeros((), device=self._stack.device)
        self._delta = None if self._alike else torch.zeros_like(self._stack.weights)
        self._deltas = [] if self._delta is None else self._stack.flat(self._delta)

    def step(self) -> None:
        self._steps.fill_(self._done + 1)
        if self._delta is None:
            decay = float(self._decays_M[0])
            self._fused(self._stack.weights, float(self._rates_M[0]), decay, self.decoupled)
            return
        if not self.decoupled:
            self._penalise()
        self._fused(self._delta.zero_(), 1.0, 0.0, decoupled=False)
        for weights_MK, delta_MK in zip(self._weights, self._deltas, strict=True):
            if self.decoupled and self._decays:
                weights_MK.mul_(self._left_M1)
            weights_MK.addcmul_(delta_MK, self._rate_M1)

    def _fused(self, numbers: Tensor, rate: float, decay: float, decoupled: bool) -> None:
        # torch.optim's classes call the same function, but their bookkeeping costs more than a small network's step.
        fused = torch._fused_adamw_ if decoupled else torch._fused_adam_  # pyright: ignore[reportPrivateImportUsage]
        fused(
            [numbers],
            [self._stack.gradients],
            *self._averages,
            [],
            [self._steps],
            lr=rate,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )


class _AdamW(_Adam):
    decoupled = True


OPTIMIZERS: Mapping[str, type[Optimizer]] = {"sgd": _Sgd, "adam": _Adam, "adamw": _AdamW}
