"""A weight for each member and class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distens.counts import class_shares
from distens.records import Floats, Integers, State


@dataclass(frozen=True)
class Classwise:
    """p_nc is proportional to sum_m W_mc p_mnc / sum_m W_mc: of each class, those members speak who know it.

    A class-conscious weighted mean (Kuncheva 2014, "Combining Pattern Classifiers", chapter 5). In a federation W_mc is
    what the clients' rows say, w_m n_m^c (Zhang et al. 2022, "Fine-tuning Global Model via Data-Free Knowledge
    Distillation for Non-IID Federated Learning", section 3.3). Fitted, it is the selection's weight times the mean
    probability that the member gives to class c on rows that are of c, which is taken together with one row's worth of
    what it gives to the truth on all rows.
    """

    def fit(self, probs_MNC: Floats, labels_N: Integers, weights_M: Floats) -> State:
        """Keep `weights` (M, C); every class's sum to one."""
        labels_N = np.asarray(labels_N)
        rows_C = np.bincount(labels_N, minlength=np.shape(probs_MNC)[2])
        known = []
        for probs_NC, weight in zip(probs_MNC, weights_M, strict=True):
            right_N = np.asarray(probs_NC, dtype=np.float64)[np.arange(len(labels_N)), labels_N]
            right_C = np.bincount(labels_N, weights=right_N, minlength=len(rows_C))
            known.append(weight * (right_C + right_N.mean()) / (rows_C + 1))
        return State({"weights": class_shares(np.array(known))})

    def combine(self, probs_MNC: Floats, state: State) -> Floats:
        """Return probs_NC (float64); rows sum to one."""
        total_NC = np.zeros(np.shape(probs_MNC)[1:], dtype=np.float64)
        for probs_NC, weights_C in zip(probs_MNC, state.arrays["weights"], strict=True):
            total_NC += weights_C * np.asarray(probs_NC, dtype=np.float64)
        return total_NC / np.maximum(total_NC.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
