"""Greedy forward selection with replacement (Caruana et al. 2004, "Ensemble Selection from Libraries of Models")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.records import Floats, Integers
from distens.select._losses import Sums, check

_EQUAL = 1e-12


@dataclass(frozen=True)
class Greedy:
    """Start from nothing and add, `size` times, the member that lowers the metric of the mean prediction most.

    A member may be added again: its weight is its share of the additions. Among equals, members already in are
    preferred (as AutoGluon does), then a fixed random order, so that neither chance nor arrival decides.
    DivBO's paper keeps all additions, `cut: false`.

    With few rows the winner is often only lucky. So the whole selection is repeated on `bags` bootstrap samples of the
    rows, and the weights are averaged (Breiman 1996, "Bagging Predictors", applied to a selection; the paper above, in
    section 2.3, bags over members instead, which with few members leaves the best one out too often). That
    selects more members: `bags: 1` is the plain procedure.

    Attributes:
        size: how many additions.
        cut: return the best prefix of the additions (the shortest of equals) instead of all of them.
        bags: how many bootstrap samples of the rows; 1 uses the rows themselves.
        seed: of the order among equals, and of the samples.
    """

    size: Annotated[int, Ge(1)] = 25
    cut: bool = True
    bags: Annotated[int, Ge(1)] = 20
    seed: Annotated[int, Ge(0)] = 0

    def select(self, probs_MNC: Floats | Sequence[Floats], labels_N: Integers, metric: str = "nll") -> Floats:
        """Return weights_M (see `Selector`). Raises ValueError for an unknown metric or no members."""
        check(probs_MNC, metric)
        rng = np.random.default_rng(self.seed)
        order_M = rng.permutation(len(probs_MNC))
        if self.bags == 1:
            return self._select(probs_MNC, labels_N, metric, order_M)
        weights_M = np.zeros(len(probs_MNC))
        for _ in range(self.bags):
            rows_N = rng.integers(len(labels_N), size=len(labels_N))
            sample_MNC = [probs_NC[rows_N] for probs_NC in probs_MNC]
            weights_M += self._select(sample_MNC, labels_N[rows_N], metric, order_M)
        return weights_M / self.bags

    def _select(
        self, probs_MNC: Floats | Sequence[Floats], labels_N: Integers, metric: str, order_M: Integers
    ) -> Floats:
        members = len(probs_MNC)
        counts_M = np.zeros(members)
        best, best_counts_M = np.inf, counts_M
        sums = Sums(probs_MNC, labels_N, metric)
        for _ in range(self.size):
            losses_M = sums.with_each()
            equal = np.flatnonzero(losses_M <= losses_M.min() + _EQUAL)
            chosen = min(equal, key=lambda m: (counts_M[m] == 0, order_M[m]))
            sums.add(int(chosen))
            counts_M[chosen] += 1
            if losses_M[chosen] < best - _EQUAL or not self.cut:
                best, best_counts_M = losses_M[chosen], counts_M.copy()
        return best_counts_M / best_counts_M.sum()
