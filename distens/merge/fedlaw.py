"""Shares and a scale learned on the server's rows.

Li et al. 2023, "Revisiting Weighted Aggregation in Federated Learning with Neural Networks", ICML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt

from distens.merge._weights import blocks, shares_by_rows, weighted_sum
from distens.merge.protocol import ClientUpdate, Merged, Round
from distens.records import Floats

_BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class FedLAW:
    """FedLAW: w = gamma sum_k p_k w_k, with p = softmax(v) and gamma = exp(g) of the least loss on the server's rows.

    A gamma below 1 shrinks the weights, as weight decay would. The search begins with FedAvg, v_k = log(n_k / n) and
    g = 0, and moves v and g together by Adam (betas 0.5, 0.999). The gradient G of the loss at w gives

        dL/dp_k = gamma <G, w_k>      dL/dv_k = p_k (dL/dp_k - sum_j p_j dL/dp_j)      dL/dg = sum_j p_j dL/dp_j

    Where we differ: the loss is that of all the rows, so that steps are fewer and longer (20 epochs of minibatches at
    rate 0.01 in the paper), and the weights with the least loss that was seen are returned, which are never worse on
    these rows than FedAvg's. Buffers (of batch normalisation) are mixed like weights, not measured anew.

    Attributes:
        steps: the number of steps of Adam; each takes one gradient over the server's rows.
        rate: the learning rate of Adam.
    """

    needs_proxy: ClassVar[Literal[True]] = True

    steps: Annotated[int, Ge(1)] = 100
    rate: Annotated[float, Gt(0)] = 0.05

    def merge(self, round: Round) -> Merged:
        """Return the new weights (see `Merger`); `shares_K` are p_k, without the factor gamma, which is not returned.

        Raises:
            ValueError: there are no updates, or the server has no rows.
        """
        values = np.append(np.log(shares_by_rows(round.updates)), 0.0)
        if round.proxy is None:
            raise ValueError("needs labelled rows of the server's own, found none")
        least, best = np.inf, None
        first, second = np.zeros((2, len(values)))
        for step in range(self.steps + 1):
            shares_K, gamma = np.exp(values[:-1] - values[:-1].max()), float(np.exp(values[-1]))
            shares_K /= shares_K.sum()
            weights_P = weighted_sum(round.updates, gamma * shares_K)
            loss, slope_P = round.proxy(weights_P)
            if best is None or loss < least:
                least, best = loss, Merged(weights_P, shares_K=shares_K)
            if step == self.steps or not np.isfinite(loss):
                break
            slopes = _slopes(round.updates, slope_P, shares_K, gamma)
            for moment, of, beta in ((first, slopes, _BETAS[0]), (second, slopes**2, _BETAS[1])):
                moment += (1 - beta) * (of - moment)
            scaled = [moment / (1 - beta ** (step + 1)) for moment, beta in zip((first, second), _BETAS, strict=True)]
            values -= self.rate * scaled[0] / (np.sqrt(scaled[1]) + 1e-8)
        assert best is not None
        return best


def _slopes(updates: Sequence[ClientUpdate], slope_P: Floats, shares_K: Floats, gamma: float) -> Floats:
    """Return dL/dv_k of every update and, last, dL/dg, given dL/dw."""
    inner_K = np.zeros(len(updates))
    for place, weights_KB in blocks(updates):
        inner_K += weights_KB @ slope_P[place].astype(np.float64)
    inner_K *= gamma
    mean = shares_K @ inner_K
    return np.append(shares_K * (inner_K - mean), mean)
