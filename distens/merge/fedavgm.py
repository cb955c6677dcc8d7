"""FedAvg with momentum on the server (Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt

from distens.merge._weights import changes, remembered, shares_by_rows
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class FedAvgM:
    """FedAvgM: v = momentum v + d and w = w + rate v, where d = sum_k n_k / n (w_k - w) is FedAvg's change.

    v is 0 at first. Changes that agree from round to round add up, to d / (1 - momentum); changes that alternate, as
    clients of different classes take part in turn, cancel. In the paper the rate is 1.

    Attributes:
        momentum: the share of the last round's v that is kept.
        rate: the server's learning rate.
    """

    momentum: Annotated[float, Gt(0), Lt(1)] = 0.9
    rate: Annotated[float, Gt(0)] = 1.0

    def merge(self, round: Round) -> Merged:
        """Return the new weights (see `Merger`); `shares_K` are the n_k / n of the change. Memory: `momentum`."""
        shares_K = shares_by_rows(round.updates)
        before_P = remembered(round.memory, "momentum", len(round.start_P))
        weights_P, momentum_P = (np.empty(len(before_P), dtype=np.float32) for _ in range(2))
        for place, change_B in changes(round, shares_K):
            change_B += self.momentum * before_P[place]
            momentum_P[place] = change_B
            weights_P[place] = round.start_P[place] + self.rate * change_B
        return Merged(weights_P, {"momentum": momentum_P}, shares_K)
