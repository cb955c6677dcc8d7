"""The update with the nearest neighbours, or the mean of a few of them.

Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.merge._weights import blocks, require_updates, weighted_sum
from distens.merge.protocol import ClientUpdate, Merged, Round
from distens.records import Floats


@dataclass(frozen=True)
class Krum:
    """Krum: the update with the nearest neighbours, or the mean of the first `keep` by this measure (multi-Krum).

    Each update's score is the sum of its squared distances to the K - faulty - 2 updates that are nearest to it. The
    updates with the least scores are taken; of equals, the first by client's name. Rows do not count.

    With `keep` 1 the work of all other clients in a round is lost: the price of protection is noise. The proofs need
    K >= 2 faulty + 3 (the paper's 2 f + 2 < n), and for the mean of several keep <= K - faulty - 2 (Damaskinos et al.
    2019, "AggregaThor"); fewer updates are refused.

    Attributes:
        faulty: the number of clients of a round that may send anything at all; f in the paper.
        keep: the number of updates that are averaged; m in the paper.
    """

    faulty: Annotated[int, Ge(1)] = 1
    keep: Annotated[int, Ge(1)] = 1

    def merge(self, round: Round) -> Merged:
        """Return the chosen update, or the mean of several (see `Merger`); `shares_K` are 1 / keep, or 0.

        Raises:
            ValueError: there are fewer updates than the proofs need.
        """
        updates, near = round.updates, len(round.updates) - self.faulty - 2
        least = max(2 * self.faulty + 3, self.keep + self.faulty + 2)
        require_updates(updates, least, f" (faulty: {self.faulty}, keep: {self.keep})")
        scores_K = np.sort(_squared_distances(updates, round.start_P), axis=1)[:, :near].sum(axis=1)
        ranks = np.lexsort(([update.client for update in updates], scores_K))
        shares_K = np.zeros(len(updates))
        shares_K[ranks[: self.keep]] = 1.0 / self.keep
        chosen = np.flatnonzero(shares_K)
        return Merged(weighted_sum([updates[int(k)] for k in chosen], shares_K[chosen]), shares_K=shares_K)


def _squared_distances(updates: Sequence[ClientUpdate], start_P: Floats) -> Floats:
    """Return |w_j - w_k|^2 as a matrix, float64; infinite from an update to itself.

    |a|^2 + |b|^2 - 2 ab, which is one product of matrices, loses the digits that a and b have in common: so the global
    weights, where all clients began, are subtracted first. The updates' mean is not, as one update can move it far.
    """
    products_KK = np.zeros((len(updates), len(updates)))
    for place, weights_KB in blocks(updates):
        weights_KB -= start_P[place]
        products_KK += weights_KB @ weights_KB.T
    squares_K = np.diag(products_KK)
    distances_KK = np.maximum(0.0, squares_K[:, None] + squares_K - 2 * products_KK)
    np.fill_diagonal(distances_KK, np.inf)
    return distances_KK
