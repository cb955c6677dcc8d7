"""The coordinate-wise median.

Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distens.merge._weights import require_updates, sorted_blocks
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class Median:
    """Median: each weight is the median of the updates' values of it (option I of the paper's algorithm 1).

    For an even number of updates it is the mean of the middle two values. Fewer than half of the clients, whatever
    they send, cannot move a weight beyond the range of the others' values. Rows do not count, since a client can claim
    any number of them. The median of one or two updates is their mean, and no protection.
    """

    def merge(self, round: Round) -> Merged:
        """Return the median (see `Merger`); there are no `shares_K`."""
        require_updates(round.updates)
        weights_P = np.empty(len(round.start_P), dtype=np.float32)
        low, high = (len(round.updates) - 1) // 2, len(round.updates) // 2
        for place, values_BK in sorted_blocks(round.updates):
            weights_P[place] = (values_BK[:, low] + values_BK[:, high]) / 2
        return Merged(weights_P)
