"""Changes per local step (Wang et al. 2020, "Tackling the Objective Inconsistency Problem", FedNova)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distens.merge._weights import shares_by_rows, weighted_sum
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class FedNova:
    """FedNova: w = w - t sum_k p_k (w - w_k) / t_k, with p_k = n_k / n, t_k local steps of k, and t = sum_k p_k t_k.

    A client that makes more steps moves further, so FedAvg minimises a loss in which it counts more; here the change of
    each client is that of its mean step. If all clients make the same number of steps, it is FedAvg. This is the
    paper's rule for plain gradient descent, |a_k|_1 = t_k. With momentum on the clients, |a_k|_1 is in proportion to
    t_k only if t_k is many times 1 / (1 - momentum), and the rule is only as exact as that proportion.
    """

    def merge(self, round: Round) -> Merged:
        """Return the new weights (see `Merger`); `shares_K` are p_k / t_k, scaled to sum 1.

        Raises:
            ValueError: there are no updates, or a client made no step.
        """
        rows_K = shares_by_rows(round.updates)
        if idle := [update.client for update in round.updates if update.steps < 1]:
            raise ValueError(f"needs at least one local step of every client, found none by {', '.join(idle)}")
        steps_K = np.array([update.steps for update in round.updates], dtype=np.float64)
        parts_K = (rows_K @ steps_K) * rows_K / steps_K
        return Merged(weighted_sum(round.updates, parts_K, round.start_P), shares_K=parts_K / parts_K.sum())
