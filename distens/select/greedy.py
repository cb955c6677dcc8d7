"""Greedy forward selection with replacement (Caruana et al. 2004, "Ensemble Selection from Libraries of Models")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.records import Floats, Integers
from distens.select.protocol import fill_defaults, tie_pools
from distens.targets.protocol import Pool, Target, Targets

_EQUAL = 1e-12


@dataclass(frozen=True)
class Greedy:
    """Greedy: start from nothing and add, `size` times, the member that lowers the metric of the mean prediction most.

    A member may be added again: its weight is its share of the additions. Among equals, those are preferred whose mean
    is better by the target's usual metric (among equal shares of errors, by negative log-likelihood), then members
    already added (as AutoGluon does), then those that come first in a random order fixed by `seed`, so that early
    members are not preferred. DivBO's paper keeps all additions, `cut: false`.

    With few rows the winner is often only lucky. So the whole selection is repeated on `bags` bootstrap samples of the
    rows, and the weights are averaged (Breiman 1996, "Bagging Predictors", applied to a selection; the paper above, in
    section 2.3, bags over members instead, which with few members leaves the best one out too often). The mean selects
    more members; `bags: 1` is the plain procedure.

    Attributes:
        size: the number of additions.
        cut: return the best prefix of the additions (of equals the better by the usual metric, then the shortest)
            instead of all of them.
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
        ties = tie_pools(predictions_MNK, targets_N, metric, target)
        rng = np.random.default_rng(self.seed)
        order_M, rows = rng.permutation(len(predictions_MNK)), len(targets_N)
        if self.bags == 1:
            return self._select(pools.on(), None if ties is None else ties.on(), order_M)
        weights_M = np.zeros(len(predictions_MNK))
        for _ in range(self.bags):
            counts_N = np.bincount(rng.integers(rows, size=rows), minlength=rows)
            tied = None if ties is None else ties.on(counts_N)
            weights_M += self._select(pools.on(counts_N), tied, order_M)
        return weights_M / self.bags

    def _select(self, pool: Pool, ties: Pool | None, order_M: Integers) -> Floats:
        counts_M = np.zeros(len(order_M))
        best, best_tied, best_counts_M = np.inf, np.inf, counts_M
        for _ in range(self.size):
            losses_M = pool.with_each()
            tied_M = np.zeros(len(order_M)) if ties is None else ties.with_each()
            equal = np.flatnonzero(losses_M <= losses_M.min() + _EQUAL)
            equal = equal[tied_M[equal] <= tied_M[equal].min() + _EQUAL]
            chosen = int(equal[np.lexsort((order_M[equal], counts_M[equal] == 0))[0]])
            pool.add(chosen)
            if ties is not None:
                ties.add(chosen)
            counts_M[chosen] += 1
            loss, tied = losses_M[chosen], tied_M[chosen]
            if loss < best - _EQUAL or (loss <= best + _EQUAL and tied < best_tied - _EQUAL) or not self.cut:
                best, best_tied, best_counts_M = loss, tied, counts_M.copy()
        return best_counts_M / best_counts_M.sum()
