"""The weighted mean of the members' logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distens.probabilities import softmax
from distens.records import Floats, Integers, State

TINY = float(np.finfo(np.float32).tiny)
"""Members speak float32: what they say is less is kept at this."""


@dataclass(frozen=True)
class Geometric:
    """p_NC is proportional to prod_m p_mNC^weights_m: the logarithmic opinion pool (Genest and Zidek 1986, "Combining
    Probability Distributions", section 3). It is the softmax of the weighted mean of logits, as federated distillation
    weighs its teachers. Nothing is fitted, so nothing can be over-fitted.
    """

    def fit(self, probs_MNC: Floats, labels_N: Integers, weights_M: Floats) -> State:
        """Keep the weights, scaled to sum to one."""
        weights = np.asarray(weights_M, dtype=np.float64)
        return State({"weights": weights / weights.sum()})

    def combine(self, probs_MNC: Floats, state: State) -> Floats:
        """Return probs_NC (float64); rows sum to one."""
        total_NC = np.zeros(np.shape(probs_MNC)[1:], dtype=np.float64)
        for probs_NC, weight in zip(probs_MNC, state.arrays["weights"], strict=True):
            if weight:
                total_NC += float(weight) * np.log(np.maximum(np.asarray(probs_NC, dtype=np.float64), TINY))
        return softmax(total_NC)
