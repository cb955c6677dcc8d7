"""The weighted mean of the members' predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distens.probabilities import mix
from distens.records import Floats, State
from distens.targets.classes import Classes
from distens.targets.protocol import Target, Targets


@dataclass(frozen=True)
class Average:
    """Average: the linear opinion pool, p_NK = sum_m weights_m p_mNC (Stone 1961, "The Opinion Pool").

    The weights are those of the selection. Nothing is fitted, so nothing can be over-fitted.
    """

    def fit(
        self,
        predictions_MNK: Floats,
        targets_N: Targets,
        weights_M: Floats,
        target: Target | None = None,
        inputs_N: Floats | None = None,
    ) -> State:
        """Keep the selection's weights, scaled to sum to one."""
        weights = np.asarray(weights_M, dtype=np.float64)
        return State({"weights": weights / weights.sum()})

    def combine(
        self, predictions_MNK: Floats, state: State, target: Target | None = None, inputs_N: Floats | None = None
    ) -> Floats:
        """Return predictions_NK (float64); those of classes sum to one."""
        weights_M = state.arrays["weights"]
        if target is not None and not isinstance(target, Classes):
            return target.mean(predictions_MNK, weights_M)
        mixed_NK = mix(predictions_MNK, weights_M)
        # Members predict float32, whose rows sum to one only to 1e-7.
        return mixed_NK / mixed_NK.sum(axis=1, keepdims=True)
