"""Greedy forward selection with replacement (Caruana et al. 2004, "Ensemble Selection from Libraries of Models")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.records import Floats, Integers
from distens.select.protocol import fill_defaults, ranking_pools
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
        pools = ranking_pools(predictions_MNK, targets_N, metric, target)
        rng = np.random.default_rng(self.seed)
        order_M, rows = rng.permutation(len(predictions_MNK)), len(targets_N)
        if self.bags == 1:
            return self._select([one.on() for one in pools], order_M)
        weights_M = np.zeros(len(predictions_MNK))
        for _ in range(self.bags):
            counts_N = np.bincount(rng.integers(rows, size=rows), minlength=rows)
            weights_M += self._select([one.on(counts_N) for one in pools], order_M)
        return weights_M / self.bags

    def _select(self, pools: Sequence[Pool], order_M: Integers) -> Floats:
        """Return weights_M, by a pool of each of the `deciding_metrics`."""
        counts_M = np.zeros(len(order_M))
        best_L, best_counts_M = [np.inf] * len(pools), counts_M
        for _ in range(self.size):
            losses_LM = [pool.with_each() for pool in pools]
            equal = np.arange(len(order_M))
            for losses_M in losses_LM:
                equal = equal[losses_M[equal] <= losses_M[equal].min() + _EQUAL]
            chosen = int(equal[np.lexsort((order_M[equal], counts_M[equal] == 0))[0]])
            for pool in pools:
                pool.add(chosen)
            counts_M[chosen] += 1
            losses_L = [float(losses_M[chosen]) for losses_M in losses_LM]
            if _is_lower(losses_L, best_L) or not self.cut:
                best_L, best_counts_M = losses_L, counts_M.copy()
        return best_counts_M / best_counts_M.sum()


def _is_lower(one_L: Sequence[float], other_L: Sequence[float]) -> bool:
    """Return True if the first loss in which they differ is lower in the first."""
    return next((one < other for one, other in zip(one_L, other_L, strict=True) if abs(one - other) > _EQUAL), False)
