"""Arithmetic on class probabilities: probs_NC (N examples, C classes) and probs_MNC (M members)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distens.records import Floats, Integers

FLOOR = 1e-12
"""The least probability when a logarithm is taken; smaller ones are raised to it."""


PRIOR = 0.25
"""Standard deviation of the logarithm of a temperature, before any row is seen."""


def softmax(logits_NC: Floats) -> Floats:
    """Return probabilities along the last axis; safe for large logits."""
    shifted = logits_NC - logits_NC.max(axis=-1, keepdims=True)
    exp = np.exp(shifted)
    return exp / exp.sum(axis=-1, keepdims=True)


def normalise(probs_NC: Floats) -> Floats:
    """Return probabilities that are at least FLOOR and sum to one."""
    clipped = np.clip(np.asarray(probs_NC, dtype=np.float64), FLOOR, None)
    return clipped / clipped.sum(axis=-1, keepdims=True)


def mix(probs_MNC: Floats | Sequence[Floats], weights_M: Floats) -> Floats:
    """Return the weighted mean over members, in float64. Weights are non-negative and sum to one."""
    total = np.zeros(np.shape(probs_MNC[0]), dtype=np.float64)
    for probs_NC, weight in zip(probs_MNC, weights_M, strict=True):
        if weight:
            total += float(weight) * np.asarray(probs_NC, dtype=np.float64)
    return total


def accuracy(probs_NC: Floats, labels_N: Integers) -> float:
    """Return the share of rows whose most probable class is the label."""
    return float(np.mean(np.argmax(probs_NC, axis=1) == labels_N))


def negative_log_likelihood(probs_NC: Floats, labels_N: Integers) -> float:
    """Return the mean of -log p(label), in nats, at least 0; probabilities are floored at FLOOR."""
    picked_N = np.asarray(probs_NC, dtype=np.float64)[np.arange(len(labels_N)), labels_N]
    loss = float(-np.mean(np.log(np.clip(picked_N, FLOOR, None))))
    return 0.0 if loss <= 0.0 else loss  # not -0.0; and a probability that was rounded to above 1 gains nothing


def entropy(probs_NC: Floats) -> Floats:
    """Return the entropies of distributions along the last axis, in nats; 0 log 0 is 0."""
    probs_NC = np.asarray(probs_NC, dtype=np.float64)
    return -(probs_NC * np.log(np.maximum(probs_NC, FLOOR))).sum(axis=-1) + 0.0  # no -0.0


def class_metrics(probs_NC: Floats, labels_N: Integers) -> dict[str, float]:
    """Return the metrics that search minimises: `nll` and `error` (1 - accuracy)."""
    return {"nll": negative_log_likelihood(probs_NC, labels_N), "error": 1.0 - accuracy(probs_NC, labels_N)}


def apply_temperature(probs_NC: Floats, temperature: float) -> Floats:
    """Return softmax(log p / T): T > 1 softens, T < 1 sharpens, the order of classes stays."""
    if temperature == 1.0:
        return np.asarray(probs_NC, dtype=np.float64)
    return softmax(np.log(normalise(probs_NC)) / temperature)


def fit_temperature(probs_NC: Floats, labels_N: Integers) -> float:
    """Return the most probable T in [0.05, 20], given the labels and that log T ~ Normal(0, PRIOR).

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2, applied to the log probabilities of any
    model. Where we differ: the prior. Without it a split of a hundred rows, all predicted right, would make every
    prediction certain. The prior counts for less the more rows there are.
    """
    from scipy.optimize import minimize_scalar

    log_probs_NC = np.log(normalise(probs_NC))

    def loss(log_temperature: float) -> float:
        fit = negative_log_likelihood(softmax(log_probs_NC / np.exp(log_temperature)), labels_N)
        return fit + log_temperature**2 / (2 * PRIOR**2 * len(labels_N))

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    best = float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]
    return best if loss(np.log(best)) < loss(0.0) else 1.0
