"""How good predictions are, and whether one row of the table is better than another by more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distens.probabilities import FLOOR, accuracy, negative_log_likelihood
from distens.records import Floats, Integers

BINS = 15


def row(probs_NC: Floats, labels_N: Integers) -> dict[str, float]:
    """Return what the table says of predictions: accuracy, nll (nats), brier, ece, ece_width, aurc."""
    return {
        "accuracy": accuracy(probs_NC, labels_N),
        "nll": negative_log_likelihood(probs_NC, labels_N),
        "brier": brier(probs_NC, labels_N),
        "ece": calibration_error(mass_bins(probs_NC, labels_N)),
        "ece_width": calibration_error(width_bins(probs_NC, labels_N)),
        "aurc": risk_coverage_area(probs_NC, labels_N),
    }


def brier(probs_NC: Floats, labels_N: Integers) -> float:
    """Return the mean over rows of sum_c (p_c - [c is the label])^2: 0 is best, 2 is worst (Brier 1950; many others
    halve it or average over classes)."""
    probs_NC = np.asarray(probs_NC, dtype=np.float64)
    truth_NC = np.eye(probs_NC.shape[1])[labels_N]
    return float(np.mean(np.sum((probs_NC - truth_NC) ** 2, axis=1)))


@dataclass(frozen=True)
class Bin:
    """Rows of like confidence: how many, their mean confidence, the share of them that is right."""

    count: int
    confidence: float
    accuracy: float


def mass_bins(probs_NC: Floats, labels_N: Integers, bins: int = BINS) -> list[Bin]:
    """Return bins of (nearly) equal count, from least to most confident; fewer where there are fewer rows."""
    confidence_N, right_N = _by_confidence(probs_NC, labels_N)
    return _filled(np.array_split(confidence_N, bins), np.array_split(right_N, bins))


def width_bins(probs_NC: Floats, labels_N: Integers, bins: int = BINS) -> list[Bin]:
    """Return the bins ((b - 1) / bins, b / bins] that hold rows (Guo et al. 2017, section 2)."""
    confidence_N, right_N = _by_confidence(probs_NC, labels_N)
    edges = np.searchsorted(confidence_N, np.arange(1, bins) / bins, side="right")
    return _filled(np.split(confidence_N, edges), np.split(right_N, edges))


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error, sum_b n_b / N |accuracy_b - confidence_b| (Guo et al. 2017, eq. 3)."""
    total = sum(b.count for b in bins)
    return sum(b.count / total * abs(b.accuracy - b.confidence) for b in bins)


def risk_coverage_area(probs_NC: Floats, labels_N: Integers) -> float:
    """Return the mean over k = 1..N of the error among the k most confident rows; lower is better.

    This is the area under the risk-coverage curve (Geifman, Uziel and El-Yaniv 2019, "Bias-Reduced Uncertainty
    Estimation for Deep Neural Classifiers", section 2), confidence being the highest probability. For equal
    confidences it is the expectation over their orders, so the order of rows changes nothing.
    """
    _, right_N = _by_confidence(probs_NC, labels_N)
    wrong_N = 1.0 - right_N[::-1]
    return float(np.mean(np.cumsum(wrong_N) / np.arange(1, len(wrong_N) + 1)))


def _by_confidence(probs_NC: Floats, labels_N: Integers) -> tuple[Floats, Floats]:
    """Return (confidence_N ascending, right_N); rows of equal confidence share the mean of their 0s and 1s, so that
    nothing depends on which of them comes first."""
    probs_NC = np.asarray(probs_NC, dtype=np.float64)
    right_N = (np.argmax(probs_NC, axis=1) == labels_N).astype(np.float64)
    distinct, group_N = np.unique(probs_NC.max(axis=1), return_inverse=True)
    shared = np.bincount(group_N, weights=right_N) / np.bincount(group_N)
    group_N = np.sort(group_N)
    return distinct[group_N], shared[group_N]


def _filled(confidences: list[Floats], rights: list[Floats]) -> list[Bin]:
    pairs = zip(confidences, rights, strict=True)
    return [Bin(len(c), float(c.mean()), float(r.mean())) for c, r in pairs if len(c)]


@dataclass(frozen=True)
class Difference:
    """Of a over b on the same rows, a minus b, each with its standard error."""

    accuracy: float
    accuracy_error: float
    nll: float
    nll_error: float


def unit_losses(probs_NC: Floats, labels_N: Integers) -> dict[str, Floats]:
    """Return one loss for each row: `error`, 1 where the likeliest class is wrong, and `nll` (nats)."""
    probs_NC, labels_N = np.asarray(probs_NC, dtype=np.float64), np.asarray(labels_N)
    picked_N = probs_NC[np.arange(len(labels_N)), labels_N]
    wrong_N = (np.argmax(probs_NC, axis=1) != labels_N).astype(np.float64)
    return {"error": wrong_N, "nll": -np.log(np.clip(picked_N, FLOOR, None))}


def paired_difference(one: Mapping[str, Floats], other: Mapping[str, Floats]) -> Difference:
    """Return how one differs from another, unit by unit, so that what is hard for both cancels.

    The standard errors, s / sqrt(N) of the units' differences, are of the choice of test rows alone: they say nothing
    of what other seeds would train. With one unit they are infinite.

    Args:
        one, other: `unit_losses` of both, on the same rows.
    """
    right_N = np.asarray(other["error"]) - one["error"]
    loss_N = np.asarray(one["nll"]) - other["nll"]
    return Difference(float(right_N.mean()), _error(right_N), float(loss_N.mean()), _error(loss_N))


def _error(values_N: Floats) -> float:
    return float(values_N.std(ddof=1) / np.sqrt(len(values_N))) if len(values_N) > 1 else float("inf")


COMPARISONS = (
    ("ensemble", "best_single"),
    ("ensemble", "larger_single"),
    ("ensemble", "seed_ensemble"),
    ("student", "ensemble"),
    ("student", "student_on_labels"),
)
"""Who is compared with whom, where both are there."""


def verdict(
    rows: Mapping[str, Mapping[str, float]], losses: Mapping[str, Mapping[str, Floats]], units: str = "test rows"
) -> list[str]:
    """Return plain sentences that say who won, and who lost.

    Args:
        rows: the table: row name -> `accuracy`, `nll`, …
        losses: row name -> `unit_losses` on the *test* split, whose means those are.
        units: what a unit is, in the plural.
    """
    accuracy_of = {name: f"{100 * row['accuracy']:.2f} %" for name, row in rows.items()}
    nll_of = {name: f"{row['nll']:.4f}" for name, row in rows.items()}
    most, least = max(rows, key=lambda name: rows[name]["accuracy"]), min(rows, key=lambda name: rows[name]["nll"])
    lines = [f"Highest accuracy: {_level(accuracy_of, most)}. Lowest NLL: {_level(nll_of, least)}."]
    for name, other in COMPARISONS:
        if name in losses and other in losses:
            difference = paired_difference(losses[name], losses[other])
            lines.append(_sentence(name, other, rows, difference))
    if len(lines) > 1:
        count = len(next(iter(losses.values()))["nll"])
        lines.append(
            f"Each difference is given with one standard error, paired over the {count} {units}; less than "
            "two count as not distinguishable. What other seeds would have trained is not in them."
        )
    return lines


def _level(printed: Mapping[str, str], best: str) -> str:
    """Return everyone who stands where the best does, as it is printed."""
    names = [name for name, value in printed.items() if value == printed[best]]
    return f"{' and '.join(names)} ({printed[best]})"


def _sentence(name: str, other: str, rows: Mapping[str, Mapping[str, float]], found: Difference) -> str:
    one, two = rows[name], rows[other]
    accuracy_part = (
        f"{_outcome(found.accuracy, found.accuracy_error)} on accuracy ({100 * one['accuracy']:.2f} % against "
        f"{100 * two['accuracy']:.2f} %: {100 * found.accuracy:+.2f} ± {100 * found.accuracy_error:.2f} points)"
    )
    nll_part = (
        f"{_outcome(-found.nll, found.nll_error)} on NLL ({one['nll']:.4f} against {two['nll']:.4f}: "
        f"{found.nll:+.4f} ± {found.nll_error:.4f})"
    )
    return f"{name} against {other}: {accuracy_part}, {nll_part}."


def _outcome(gain: float, error: float) -> str:
    if abs(gain) < 1e-9:  # the same predictions, on two ways to the same sum
        return "level"
    if abs(gain) > 2 * error:
        return "won" if gain > 0 else "lost"
    return "not distinguishable (ahead)" if gain > 0 else "not distinguishable (behind)"
