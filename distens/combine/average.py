"""The weighted mean of the members' probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distens.probabilities import mix
from distens.records import Floats, Integers, State


@dataclass(frozen=True)
class Average:
    """p_NC = sum_m weights_m p_mNC: the linear opinion pool (Stone 1961, "The Opinion Pool"), with the weights that the
    selection found. Nothing is fitted, so nothing can be over-fitted.
    """

    def fit(self, probs_MNC: Floats, labels_N: Integers, weights_M: Floats) -> State:
        """Keep the selection's weights, scaled to sum to one."""
        weights = np.asarray(weights_M, dtype=np.float64)
        return State({"weights": weights / weights.sum()})

    def combine(self, probs_MNC: Floats, state: State) -> Floats:
        """Return probs_NC (float64); rows sum to one."""
        mixed_NC = mix(probs_MNC, state.arrays["weights"])
        # Members speak float32, whose rows sum to one only to 1e-7.
        return mixed_NC / mixed_NC.sum(axis=1, keepdims=True)
