"""FedAvg's change as the gradient of an adaptive optimizer (Reddi et al. 2021, "Adaptive Federated Optimization").

Algorithm 2 of the paper:

    d = sum_k p_k (w_k - w)      m = beta1 m + (1 - beta1) d      v = …d^2…      w = w + rate m / (sqrt v + tau)

The three rules differ in v alone. v begins at tau^2, the least that the algorithm allows, and m at 0. There is no bias
correction, as in the paper. Where we differ: p_k are n_k / n, where the algorithm is written with 1/K.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distens.merge._weights import changes, remembered, shares_by_rows
from distens.merge.protocol import Merged, Round
from distens.records import Floats


def merge_adaptively(
    round: Round, rate: float, beta1: float, tau: float, second: Callable[[Floats, Floats], Floats]
) -> Merged:
    """Return the new weights; `shares_K` are the n_k / n of the change. Memory: `second`, and `first` if beta1 > 0.

    Args:
        second: (v, d^2) -> the new v.
    """
    shares_K, size = shares_by_rows(round.updates), len(round.start_P)
    before_P, second_P = remembered(round.memory, "first", size), round.memory.get("second")
    if second_P is None:
        second_P = np.broadcast_to(np.float32(tau**2), size)
    memory = {name: np.empty(size, dtype=np.float32) for name in ["second"] + ["first"] * (beta1 > 0)}
    weights_P = np.empty(size, dtype=np.float32)
    for place, change_B in changes(round, shares_K):
        second_B = second(second_P[place].astype(np.float64), change_B**2)
        memory["second"][place] = second_B
        if beta1:
            change_B = beta1 * before_P[place] + (1 - beta1) * change_B
            memory["first"][place] = change_B
        weights_P[place] = round.start_P[place] + rate * change_B / (np.sqrt(second_B) + tau)
    return Merged(weights_P, memory, shares_K)
