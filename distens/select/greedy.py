"""Greedy forward selection with replacement (Caruana et al. 2004, "Ensemble Selection from Libraries of Models")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.records import Floats, Integers
from distens.select.protocol import fill_defaults
from distens.targets.protocol import Pool, Target, Targets

_EQUAL = 1e-12


@dataclass(frozen=True)
class Greedy:
    """Greedy: start from nothing and add, `size` times, the member that lowers the metric of the mean prediction most.

    A member may be added again: its weight is its share of the additions. Among equals, members already added are
    preferred (as AutoGluon does), then those that come first in a random order fixed by `seed`, so that early members
    are not preferred. DivBO's paper keeps all additions, `cut: false`.

    With few rows the winner is often only lucky. So the whole selection is repeated on `bags` bootstrap samples of the
    rows, and the weights are averaged (Breiman 1996, "Bagging Predictors", applied to a selection; the paper above, in
    section 2.3, bags over members instead, which with few members leaves the best one out too often). The mean selects
    more members; `bags: 1` is the plain procedure.

    Attributes:
        size: the number of additions.
        cut: return the best prefix of the additions (the shortest of equals) instead of all of them.
        bags: the number of bootstrap samples of the rows; 1 uses the rows themselves.
        seed: the seed of the order among equals and of the samples.
    """

    size: Annotated[int, Ge(1)] = 25
    cut: bool = True
    bags: Annotated[int, Ge(1)] = 20
    seed: Annotated[int, Ge(0)] = 0

    def select(
        self,
        predictions_MNK: Floats | Sequence[Floats],
        targets_N: Targets,
        metric: str = "",
        target: Target | None = None,
        importance_N: Floats | None = None,
    ) -> Floats:
        """Return weights_M (see `Selector`). Raises ValueError for an unknown metric or no members."""
        target, metric = fill_defaults(predictions_MNK, metric, target, importance_N)
        pools = target.pools(predictions_MNK, targets_N, metric)
        rng = np.random.default_rng(self.seed)
        order_M, rows = rng.permutation(len(predictions_MNK)), len(targets_N)
        if self.bags == 1:
            return self._select(pools.on(), order_M)
        weights_M = np.zeros(len(predictions_MNK))
        for _ in range(self.bags):
            counts_N = np.bincount(rng.integers(rows, size=rows), minlength=rows)
            weights_M += self._select(pools.on(counts_N), order_M)
        return weights_M / self.bags

    def _select(self, pool: Pool, order_M: Integers) -> Floats:
        counts_M = np.zeros(len(order_M))
        best, best_counts_M = np.inf, counts_M
        for _ in range(self.size):
            losses_M = pool.with_each()
            equal = np.flatnonzero(losses_M <= losses_M.min() + _EQUAL)
            chosen = int(equal[np.lexsort((order_M[equal], counts_M[equal] == 0))[0]])
            pool.add(chosen)
            counts_M[chosen] += 1
            if losses_M[chosen] < best - _EQUAL or not self.cut:
                best, best_counts_M = losses_M[chosen], counts_M.copy()
        return best_counts_M / best_counts_M.sum()
