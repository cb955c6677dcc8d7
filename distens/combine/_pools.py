"""Logarithmic opinion pools of three capacities, and their fit: logits of a class from the members' log-probabilities.

| form        | weights   | logit of class d                                  |
|-------------|-----------|---------------------------------------------------|
| `constant`  | (M)       | sum_m w_m log p_md + b_d,  w >= 0                 |
| `per_class` | (M, C)    | sum_m w_md log p_md + b_d,  w >= 0                |
| `linear`    | (M, C, C) | sum_m sum_c w_mcd log p_mc + b_d, of either sign  |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from distens.records import Floats, Integers

FORMS = ("constant", "per_class", "linear")

_FLOOR = 1e-4
"""Smaller probabilities are raised to this: under a logarithm a zero of one member would overrule all the others."""


@dataclass(frozen=True)
class OpinionPool:
    """One fitted pool; the shape of its weights is its form."""

    weights: Floats
    bias_C: Floats

    def logits(self, logs_MNC: Floats) -> Floats:
        """Return logits_NC."""
        if self.weights.ndim == 3:
            return _rows(logs_MNC) @ self.weights.reshape(-1, len(self.bias_C)) + self.bias_C
        return np.einsum("mnc,mc->nc", logs_MNC, _per_class(self.weights, len(self.bias_C))) + self.bias_C


def logs(probs_NC: Floats) -> Floats:
    """Return log p, and log 1e-4 where p is smaller."""
    return np.log(np.clip(np.asarray(probs_NC, dtype=np.float64), _FLOOR, None))


def start(form: str, weights_M: Floats, classes: int) -> OpinionPool:
    """Return the pool of a form that predicts what the weighted pool predicts."""
    shapes = {"constant": np.ones(()), "per_class": np.ones(classes), "linear": np.eye(classes)}
    return OpinionPool(np.multiply.outer(weights_M, shapes[form]), np.zeros(classes))


def fit_pool(
    logs_MNC: Floats,
    labels_N: Integers,
    pull: OpinionPool,
    l2: float,
    begin: OpinionPool | None = None,
    tolerance: float = 1e-15,
) -> OpinionPool:
    """Return the pool, of the form of `pull`, with the least loss over the given rows.

        sum_n -log p_n,label(n)  +  l2 (|w - pull's w|^2 + |b - pull's b|^2)

    The problem is convex and has one solution, wherever the iterations begin; they end where a step gains less than
    `tolerance`, as a share of the loss.
    """
    rows, classes = len(labels_N), len(pull.bias_C)
    shape, size = pull.weights.shape, pull.weights.size
    truth_NC = np.eye(classes)[labels_N]
    across_NF = _rows(logs_MNC) if len(shape) == 3 else None
    away_from = np.concatenate([pull.weights.ravel(), pull.bias_C])

    def loss(values: Floats) -> tuple[float, Floats]:
        weights, bias_C = values[:size].reshape(shape), values[size:]
        if across_NF is None:
            logits_NC = OpinionPool(weights, bias_C).logits(logs_MNC)
        else:
            logits_NC = across_NF @ weights.reshape(-1, classes) + bias_C
        logits_NC -= logits_NC.max(axis=1, keepdims=True)
        exp_NC = np.exp(logits_NC)
        total_N = exp_NC.sum(axis=1)
        nll = np.sum(np.log(total_N)) - np.sum(logits_NC * truth_NC)
        excess_NC = exp_NC / total_N[:, None] - truth_NC
        if across_NF is None:
            slope = np.einsum("mnc,nc->mc", logs_MNC, excess_NC)
            slope = slope.sum(axis=1) if len(shape) == 1 else slope
        else:
            slope = across_NF.T @ excess_NC
        away = values - away_from
        slopes = np.concatenate([slope.ravel(), excess_NC.sum(axis=0)])
        return float(nll + l2 * away @ away) / rows, (slopes + 2 * l2 * away) / rows

    lowest = 0 if across_NF is None else None
    bounds = [(lowest, None)] * size + [(None, None)] * classes
    options = {"maxiter": 2000, "maxfun": 5000, "ftol": tolerance, "gtol": 1e-9}
    first = away_from if begin is None else np.concatenate([begin.weights.ravel(), begin.bias_C])
    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return OpinionPool(found.x[:size].reshape(shape).copy(), found.x[size:].copy())


def _rows(logs_MNC: Floats) -> Floats:
    """Return the log-probabilities of all members side by side for each row: (N, M * C)."""
    return np.ascontiguousarray(np.transpose(logs_MNC, (1, 0, 2))).reshape(logs_MNC.shape[1], -1)


def _per_class(weights: Floats, classes: int) -> Floats:
    return weights if weights.ndim == 2 else np.repeat(weights[:, None], classes, axis=1)
