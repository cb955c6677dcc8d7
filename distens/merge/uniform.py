"""The plain mean of the updates."""

from __future__ import annotations

from dataclasses import dataclass

from distens.merge._weights import equal_shares, weighted_sum
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class Uniform:
    """Uniform: w = 1/K sum_k w_k, so every client counts the same, however many rows it has.

    It aims at a low mean loss over clients, where FedAvg aims at a low mean loss over rows.
    """

    def merge(self, round: Round) -> Merged:
        """Return the mean (see `Merger`); `shares_K` are all 1/K."""
        shares_K = equal_shares(round.updates)
        return Merged(weighted_sum(round.updates, shares_K), shares_K=shares_K)
