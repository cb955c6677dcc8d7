"""The mean of the members' predictions with a weight for each member and class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from distens.counts import class_shares
from distens.records import Floats, State
from distens.targets.protocol import Target, Targets


@dataclass(frozen=True)
class Classwise:
    """Classwise: a mean with a weight for each member and class, large for members that know the class.

    p_nc is in proportion to sum_m W_mc p_mnc / sum_m W_mc, a class-conscious weighted mean (Kuncheva 2014, "Combining
    Pattern Classifiers", chapter 5). In a federation W_mc is w_m n_m^c, where n_m^c are the client's rows of class c
    (Zhang et al. 2022, "Fine-tuning Global Model via Data-Free Knowledge Distillation for Non-IID Federated Learning",
    section 3.3). Fitted, W_mc is the selection's weight times the mean probability that the member predicts for class c
    on rows of c; one more row counts in this mean, with the mean probability that the member predicts for the true
    class on all rows.
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
        """Learn `weights` (M, C); those of each class sum to one."""
        targets_N = np.asarray(targets_N)
        rows_C = np.bincount(targets_N, minlength=np.shape(predictions_MNK)[2])
        known = []
        for probs_NC, weight in zip(predictions_MNK, weights_M, strict=True):
            right_N = np.asarray(probs_NC, dtype=np.float64)[np.arange(len(targets_N)), targets_N]
            right_C = np.bincount(targets_N, weights=right_N, minlength=len(rows_C))
            known.append(weight * (right_C + right_N.mean()) / (rows_C + 1))
        return State({"weights": class_shares(np.array(known))})

    def combine(
        self, predictions_MNK: Floats, state: State, target: Target | None = None, inputs_N: Floats | None = None
    ) -> Floats:
        """Return probs_NC (float64); rows sum to one."""
        total_NC = np.zeros(np.shape(predictions_MNK)[1:], dtype=np.float64)
        for probs_NC, weights_C in zip(predictions_MNK, state.arrays["weights"], strict=True):
            total_NC += weights_C * np.asarray(probs_NC, dtype=np.float64)
        return total_NC / np.maximum(total_NC.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
