"""The loss of a growing ensemble by any function: the mean is formed anew for every member, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from distens.errors import Refused
from distens.records import Floats, Integers
from distens.targets.protocol import Pool, Targets

CANDIDATES = 25
"""After the first addition, and on samples of the rows, only the members that are best by themselves are tried, as a
function of the user's may take milliseconds. (Caruana et al. 2006, "Getting the Most Out of Ensemble Selection", prune
the library likewise.)"""

Loss = Callable[[Floats, Targets], float]
Mean = Callable[[Sequence[Floats], Floats], Floats]


class OwnPools:
    """The pools of one selection by any loss (see `distens.targets.protocol.Pools`).

    A sample of the rows on which the loss has no value, such as one without a rare class, is replaced by all rows. A
    mean of members whose loss is not finite is the worst.

    Args:
        usual: returns each member's loss by the target's usual metric, which decides between equals.

    Raises:
        ValueError: there is no member.
    """

    def __init__(
        self,
        predictions_MNK: Floats | Sequence[Floats],
        targets_N: Targets,
        loss: Loss,
        mean: Mean,
        usual: Callable[[], Floats],
    ) -> None:
        if not len(predictions_MNK):
            raise ValueError("there are no members to select from")
        self._predictions, self._targets_N, self._loss, self._mean = predictions_MNK, targets_N, loss, mean
        self._usual = usual

    def on(self, importance_N: Integers | None = None) -> Pool:
        if importance_N is None:
            return _Pool(self._predictions, self._targets_N, self._loss, self._mean, self._best)
        rows_R = np.repeat(np.arange(len(importance_N)), importance_N)
        if not self._has_value(rows_R):
            rows_R = np.arange(len(importance_N))
        sampled = {m: np.asarray(self._predictions[m])[rows_R] for m in self._candidates.tolist()}
        taken = [sampled.get(m, self._predictions[m]) for m in range(len(self._predictions))]
        return _Pool(taken, self._targets_N[rows_R], self._loss, self._mean, self._candidates)

    @cached_property
    def _candidates(self) -> Integers:
        return self._best(self.on().with_each())

    def _best(self, losses_M: Floats) -> Integers:
        return np.lexsort((self._usual_M, losses_M))[:CANDIDATES]

    @cached_property
    def _usual_M(self) -> Floats:
        return self._usual()

    def _has_value(self, rows_R: Integers) -> bool:
        one_NK = np.asarray(self._predictions[0])
        try:
            return bool(np.isfinite(self._loss(one_NK[rows_R], self._targets_N[rows_R])))
        except Refused:
            return False


class _Pool:
    """A pool in which only the candidates are tried; given a function: all members at first, then those it returns."""

    def __init__(
        self,
        predictions: Sequence[Floats] | Floats,
        targets_N: Targets,
        loss: Loss,
        mean: Mean,
        tried: Integers | Callable[[Floats], Integers],
    ) -> None:
        self._predictions, self._targets_N, self._loss, self._mean = predictions, targets_N, loss, mean
        self._tried = tried
        self._now_NK = np.asarray(predictions[0])
        self._added = 0

    def with_each(self) -> Floats:
        losses_M = np.full(len(self._predictions), np.inf)
        for m in range(len(losses_M)) if callable(self._tried) else self._tried.tolist():
            loss = self._loss(self._with(m), self._targets_N)
            losses_M[m] = loss if np.isfinite(loss) else np.inf
        if callable(self._tried):
            self._tried = self._tried(losses_M)
        return losses_M

    def add(self, member: int) -> None:
        self._now_NK = self._with(member)
        self._added += 1

    def _with(self, member: int) -> Floats:
        """Return the mean of the members added so far and this one."""
        one_NK, share = np.asarray(self._predictions[member]), 1 / (self._added + 1)
        return self._mean([self._now_NK, one_NK], np.array([1 - share, share])) if self._added else one_NK
