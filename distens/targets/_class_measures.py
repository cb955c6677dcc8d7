"""Measures of class probabilities: scores, and bins of rows of similar confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distens.records import Floats, Integers

BINS = 15


def brier(probs_NC: Floats, labels_N: Integers) -> float:
    """Return the Brier score, the mean over rows of sum_c (p_c - [c is the label])^2: 0 is best, 2 is worst.

    As in Brier 1950; many others halve it or average over classes.
    """
    probs_NC = np.asarray(probs_NC, dtype=np.float64)
    truth_NC = np.eye(probs_NC.shape[1])[labels_N]
    return float(np.mean(np.sum((probs_NC - truth_NC) ** 2, axis=1)))


@dataclass(frozen=True)
class ConfidenceBin:
    """Rows of similar confidence: their number, their mean confidence, and the share that is predicted right."""

    count: int
    confidence: float
    accuracy: float


def mass_bins(probs_NC: Floats, labels_N: Integers, bins: int = BINS) -> list[ConfidenceBin]:
    """Return bins of (nearly) equal count, from least to most confident; fewer where there are fewer rows."""
    confidence_N, right_N = _by_confidence(probs_NC, labels_N)
    return _filled(np.array_split(confidence_N, bins), np.array_split(right_N, bins))


def width_bins(probs_NC: Floats, labels_N: Integers, bins: int = BINS) -> list[ConfidenceBin]:
    """Return the bins ((b - 1) / bins, b / bins] that hold rows (Guo et al. 2017, section 2)."""
    confidence_N, right_N = _by_confidence(probs_NC, labels_N)
    edges = np.searchsorted(confidence_N, np.arange(1, bins) / bins, side="right")
    return _filled(np.split(confidence_N, edges), np.split(right_N, edges))


def calibration_error(bins: list[ConfidenceBin]) -> float:
    """Return the expected calibration error, sum_b n_b / N |accuracy_b - confidence_b| (Guo et al. 2017, eq. 3)."""
    total = sum(b.count for b in bins)
    return sum(b.count / total * abs(b.accuracy - b.confidence) for b in bins)


def risk_coverage_area(probs_NC: Floats, labels_N: Integers) -> float:
    """Return the mean over k = 1..N of the error among the k most confident rows; lower is better.

    This is the area under the risk-coverage curve (Geifman, Uziel and El-Yaniv 2019, "Bias-Reduced Uncertainty
    Estimation for Deep Neural Classifiers", section 2), where confidence is the highest probability. Among rows of
    equal confidence it is the expectation over their orders, so the order of rows changes nothing.
    """
    _, right_N = _by_confidence(probs_NC, labels_N)
    wrong_N = 1.0 - right_N[::-1]
    return float(np.mean(np.cumsum(wrong_N) / np.arange(1, len(wrong_N) + 1)))


def _by_confidence(probs_NC: Floats, labels_N: Integers) -> tuple[Floats, Floats]:
    """Return (confidence_N, right_N), by ascending confidence.

    Rows of equal confidence share the mean of their 0s and 1s, so that nothing depends on which of them comes first.
    """
    probs_NC = np.asarray(probs_NC, dtype=np.float64)
    right_N = (np.argmax(probs_NC, axis=1) == labels_N).astype(np.float64)
    distinct, group_N = np.unique(probs_NC.max(axis=1), return_inverse=True)
    shared = np.bincount(group_N, weights=right_N) / np.bincount(group_N)
    group_N = np.sort(group_N)
    return distinct[group_N], shared[group_N]


def _filled(confidences: list[Floats], rights: list[Floats]) -> list[ConfidenceBin]:
    pairs = zip(confidences, rights, strict=True)
    return [ConfidenceBin(len(c), float(c.mean()), float(r.mean())) for c, r in pairs if len(c)]
