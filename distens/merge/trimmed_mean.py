"""The coordinate-wise mean without the extremes.

Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt

from distens.merge._weights import require_updates, sorted_blocks
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class TrimmedMean:
    """TrimmedMean: each weight is the mean of the updates' values of it without the largest and the smallest.

    This is option II of the paper's algorithm 1. It withstands `cut` K faulty clients or fewer, and is steadier than
    the median where there are none. Rows do not count.

    Attributes:
        cut: the share of the updates that is left out on each side, rounded down to whole updates; it must come to at
            least one, as the result would else be the plain mean.
    """

    cut: Annotated[float, Gt(0), Lt(0.5)] = 0.2

    def merge(self, round: Round) -> Merged:
        """Return the trimmed mean (see `Merger`); there are no `shares_K`.

        Raises:
            ValueError: there are so few updates that none would be left out.
        """
        count = len(round.updates)
        least = ceil(1 / self.cut - _ROUNDING)
        require_updates(round.updates, least, f" to leave out a share of {self.cut:g} on each side")
        out = floor(self.cut * count + _ROUNDING)
        kept_K = np.zeros(count)
        kept_K[out : count - out] = 1.0 / (count - 2 * out)
        weights_P = np.empty(len(round.start_P), dtype=np.float32)
        for place, values_BK in sorted_blocks(round.updates):
            weights_P[place] = values_BK[:, out : count - out] @ kept_K[out : count - out]
        return Merged(weights_P)


_ROUNDING = 1e-9
"""The tolerance of rounding: 0.29 * 100 is 28.999999999999996."""
