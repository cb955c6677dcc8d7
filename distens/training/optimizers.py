"""Optimizers of stacked networks: torch's own steps, with each member's own learning rate, decay and schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from distens.training.loop import Recipe
from distens.training.stacked import Stack


class Optimizer:
    """One step for all weights; learning rate and weight decay are a column, one number a member."""

    def __init__(self, stack: Stack, recipes: Sequence[Recipe]) -> None:
        self._stack, self._done = stack, 0
        self._set(recipes)

    def _set(self, recipes: Sequence[Recipe]) -> None:
        self._epochs_M = np.array([recipe.epochs for recipe in recipes])
        self._cosine_M = np.array([recipe.schedule == "cosine" for recipe in recipes])
        self._first_M = np.array([recipe.learning_rate for recipe in recipes])
        self._decays_M = np.array([recipe.weight_decay for recipe in recipes])
        self._momentum_M, self._decay_M = self._columns([r.momentum for r in recipes], self._decays_M)
        self._set_rates(self._first_M)

    def _columns(self, *numbers: Any) -> Tensor:
        return torch.tensor(np.stack(numbers), dtype=torch.float32, device=self._stack.device)

    def _set_rates(self, rates_M: np.ndarray[Any, Any]) -> None:
        self._rate_M, self._left_M = self._columns(rates_M, 1 - rates_M * self._decays_M)

    def schedule(self, done: int, steps: int) -> None:
        """Set learning rates for the step after `done`; an epoch has `steps`."""
        self._done = done
        if self._cosine_M.any():
            fall_M = (1 + np.cos(np.pi * done / (self._epochs_M * steps))) / 2
            self._set_rates(self._first_M * np.where(self._cosine_M, fall_M, 1.0))

    def step(self) -> None:
        """Update the weights from the gradients."""
        raise NotImplementedError

    def _blocks(self, *numbers: Tensor) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(map(self._stack.flat, numbers)), strict=True)

    def _penalise(self) -> None:
        """Add the gradient of an L2 penalty."""
        if self._decays_M.any():
            for weights_MK, gradients_MK in self._blocks(self._stack.weights, self._stack.gradients):
                gradients_MK.addcmul_(weights_MK, self._decay_M[:, None])

    def _moments(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def keep(self, places: Sequence[int], recipes: Sequence[Recipe]) -> None:
        """Let all members go but those in `places`; before the stack does."""
        for name, moment in self._moments().items():
            setattr(self, name, self._stack.chosen(moment, places))
        self._set(recipes)

    def state(self, place: int) -> dict[int, dict[str, Any]]:
        """Return one member's part as torch's own optimizers write it: parameter's number -> what is kept of it."""
        moments = {name: self._stack.named(place, moment).values() for name, moment in self._moments().items()}
        steps = {"step": torch.tensor(float(self._done + 1))} if len(moments) > 1 else {}
        parts = zip(*moments.values(), strict=True)
        return {i: {**steps, **dict(zip(moments, part, strict=True))} for i, part in enumerate(parts)}

    def load(self, states: Sequence[Mapping[int, Mapping[str, Tensor]]]) -> None:
        """Go on from what `state`, or torch's own optimizers, kept."""
        for name, moment in self._moments().items():
            for i, block in enumerate(self._stack.blocks(moment)):
                for place, state in enumerate(states):
                    block[place] = state[i][name]


class _Sgd(Optimizer):
    def __init__(self, stack: Stack, recipes: Sequence[Recipe]) -> None:
        super().__init__(stack, recipes)
        self.momentum_buffer = torch.zeros_like(stack.weights)

    def _moments(self) -> dict[str, Tensor]:
        return {"momentum_buffer": self.momentum_buffer}

    def step(self) -> None:
        self._penalise()
        numbers = self._stack.weights, self._stack.gradients, self.momentum_buffer
        for weights_MK, gradients_MK, buffer_MK in self._blocks(*numbers):
            buffer_MK.mul_(self._momentum_M[:, None]).add_(gradients_MK)
            weights_MK.addcmul_(buffer_MK, self._rate_M[:, None], value=-1)


class _Adam(Optimizer):
    """torch's fused step writes into a delta, at learning rate 1, so that each member's own rate can scale it."""

    decoupled = False

    def __init__(self, stack: Stack, recipes: Sequence[Recipe]) -> None:
        super().__init__(stack, recipes)
        self.exp_avg, self.exp_avg_sq = (torch.zeros_like(stack.weights) for _ in range(2))
        self._delta = torch.zeros_like(stack.weights)

    def _moments(self) -> dict[str, Tensor]:
        return {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}

    def keep(self, places: Sequence[int], recipes: Sequence[Recipe]) -> None:
        super().keep(places, recipes)
        self._delta = torch.zeros_like(self.exp_avg)

    def step(self) -> None:
        if not self.decoupled:
            self._penalise()
        done = torch.tensor(float(self._done), device=self._stack.device)
        moments = [self.exp_avg], [self.exp_avg_sq], [], [done]
        options = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "lr": 1.0, "weight_decay": 0.0, "eps": 1e-8}
        adam([self._delta.zero_()], [self._stack.gradients], *moments, fused=True, maximize=False, **options)
        shrink = self.decoupled and self._decays_M.any()
        for weights_MK, delta_MK in self._blocks(self._stack.weights, self._delta):
            if shrink:
                weights_MK.mul_(self._left_M[:, None])
            weights_MK.addcmul_(delta_MK, self._rate_M[:, None])


class _AdamW(_Adam):
    decoupled = True


OPTIMIZERS: Mapping[str, type[Optimizer]] = {"sgd": _Sgd, "adam": _Adam, "adamw": _AdamW}
