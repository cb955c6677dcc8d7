"""Less weight for clients whose classes are unequally frequent.

Ye et al. 2023, "FedDisco: Federated Learning with Discrepancy-Aware Collaboration", ICML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt

from distens.counts import disco
from distens.merge._weights import require_updates, weighted_sum
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class FedDisco:
    """FedDisco: w = sum_k p_k w_k, with p_k in proportion to max(0, n_k / n - a d_k + b).

    d_k is the distance of k's shares of classes from equal shares (see `distens.counts.disco`, also for where we
    differ).

    Attributes:
        a: the weight of the distance.
        b: the share that is added for every client; the larger, the closer to equal shares.
        metric: the measure of distance.
    """

    a: Annotated[float, Gt(0)] = 0.5
    b: Annotated[float, Ge(0)] = 0.1
    metric: Literal["kl", "l1", "l2", "cosine"] = "kl"

    def merge(self, round: Round) -> Merged:
        """Return the weighted mean (see `Merger`); `shares_K` are p_k."""
        require_updates(round.updates)
        counts_KC = np.array([update.histogram_C for update in round.updates])
        shares_K = disco(counts_KC, self.a, self.b, self.metric)
        return Merged(weighted_sum(round.updates, shares_K), shares_K=shares_K)
