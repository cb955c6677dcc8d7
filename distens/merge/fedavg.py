"""The mean of the updates by rows (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks")."""

from __future__ import annotations

from dataclasses import dataclass

from distens.merge._weights import shares_by_rows, weighted_sum
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class FedAvg:
    """FedAvg: w = sum_k n_k / n w_k, where n is the rows of all clients that took part (algorithm 1 of the paper).

    With one local step per client it is a step of gradient descent on all their rows.
    """

    def merge(self, round: Round) -> Merged:
        """Return the weighted mean (see `Merger`); `shares_K` are n_k / n."""
        shares_K = shares_by_rows(round.updates)
        return Merged(weighted_sum(round.updates, shares_K), shares_K=shares_K)
