"""The weighted mean of the members' logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from distens.probabilities import softmax
from distens.records import Floats, State
from distens.targets.protocol import Target, Targets

TINY = float(np.finfo(np.float32).tiny)
"""Members predict float32: smaller probabilities are raised to this."""


@dataclass(frozen=True)
class Geometric:
    """Geometric: the logarithmic opinion pool, p_NC in proportion to prod_m p_mNC^weights_m.

    See Genest and Zidek 1986, "Combining Probability Distributions", section 3. It is the softmax of the weighted mean
    of logits, as federated distillation weighs its teachers. Nothing is fitted, so nothing can be over-fitted.
    """

    needs: ClassVar[Literal["classes"]] = "classes"

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
        """Return probs_NC (float64); rows sum to one."""
        total_NC = np.zeros(np.shape(predictions_MNK)[1:], dtype=np.float64)
        for probs_NC, weight in zip(predictions_MNK, state.arrays["weights"], strict=True):
            if weight:
                total_NC += float(weight) * np.log(np.maximum(np.asarray(probs_NC, dtype=np.float64), TINY))
        return softmax(total_NC)
