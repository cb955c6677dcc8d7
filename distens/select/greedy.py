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
    Section 4 of the DivBO specification; the paper keeps all additions, `cut: false`.

    Attributes:
        size: how many additions.
        cut: return the best prefix of the additions (the shortest of equals) instead of all of them.
        seed: of the order among equals.
    """

    size: Annotated[int, Ge(1)] = 25
    cut: bool = True
    seed: Annotated[int, Ge(0)] = 0

    def select(self, probs_MNC: Floats | Sequence[Floats], labels_N: Integers, metric: str = "nll") -> Floats:
        """Return weights_M (see `Selector`). Raises ValueError for an unknown metric or no members."""
        check(probs_MNC, metric)
        members = len(probs_MNC)
        order_M = np.random.default_rng(self.seed).permutation(members)
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
