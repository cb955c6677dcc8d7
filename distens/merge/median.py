"""The coordinate-wise median (Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates", ICML).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distens.merge._weights import enough, sorted_blocks
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class Median:
    """Each number is the median of what the updates say of it, the mean of the middle two if their count is even
    (option I of the paper's algorithm 1).

    Fewer than half of the clients, whatever they send, cannot take a number beyond what the others say of it. Rows do
    not count: a client might say that it has many. The median of one or two updates is their mean, and no protection.
    """

    def merge(self, round: Round) -> Merged:
        """Return the median (see `Merger`); there are no `shares_K`."""
        enough(round.updates)
        weights_P = np.empty(len(round.start_P), dtype=np.float32)
        low, high = (len(round.updates) - 1) // 2, len(round.updates) // 2
        for place, values_BK in sorted_blocks(round.updates):
            weights_P[place] = (values_BK[:, low] + values_BK[:, high]) / 2
        return Merged(weights_P)
