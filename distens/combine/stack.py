"""A stacker of very low capacity: one weight per member and one bias per class."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le
from scipy.optimize import minimize

from distens.probabilities import softmax
from distens.records import Floats, Integers, State

_STRENGTHS = (1000.0, 100.0, 10.0, 1.0, 0.1)
"""What cross-validation chooses from, simplest (nearest to the selection's own weights) first."""

_FOLDS = 5

_FLOOR = 1e-4
"""Under a logarithm a zero is a veto: one member of nearest neighbours or trees would overrule all the others."""


@dataclass(frozen=True)
class Stack:
    """The logarithmic opinion pool, fitted.

        p_NC = softmax(sum_m w_m log p_mNC + b_C),  w >= 0

    minimising, over the rows of the *combine* split,

        sum_n -log p_n,label(n)  +  l2 (|w - weights|^2 + |b|^2)

    The form is the logarithmic opinion pool (Genest and Zidek 1986, "Combining Probability Distributions: A Critique
    and an Annotated Bibliography"; Heskes 1998, "Selecting Weighting Factors in Logarithmic Opinion Pools"); fitting
    it on held-out predictions is stacking (Wolpert 1992), with non-negative weights after Breiman 1996, "Stacked
    Regressions"; the sum of the weights is free, so the pool also sharpens or softens, as Platt scaling does. We
    differ in pulling towards the selection's weights instead of zero. The loss is a sum, so the pull matters less the
    more rows there are, and with few rows the result is the weighted pool itself. The problem is convex and has one
    solution.

    Attributes:
        l2: strength of the pull, in rows' worth of loss. None: 5-fold cross-validation on the rows given takes the
            strongest of 1000, 100, 10, 1, 0.1 whose loss is within one standard error of the best one's; the error
            is that of the row by row difference. So extra freedom is used only where it shows.
    """

    l2: Annotated[float, Gt(0), Le(1e9)] | None = 10.0

    def fit(self, probs_MNC: Floats, labels_N: Integers, weights_M: Floats) -> State:
        """Learn `weights` (M) and `bias` (C); the l2 used is in the state's description."""
        pull_M = np.asarray(weights_M, dtype=np.float64)
        # In an order of their own, members give the same sums, bit for bit, in whatever order they came.
        order_M = np.array(_order(probs_MNC, pull_M))
        logs_MNC = np.stack([_logs(probs_MNC[m]) for m in order_M])
        l2 = self.l2 if self.l2 is not None else _choose(logs_MNC, labels_N, pull_M[order_M])
        weights, bias_C = _solve(logs_MNC, labels_N, pull_M[order_M], l2)
        weights_fitted_M = np.empty_like(weights)
        weights_fitted_M[order_M] = weights
        return State({"weights": weights_fitted_M, "bias": bias_C}, {"l2": l2})

    def combine(self, probs_MNC: Floats, state: State) -> Floats:
        """Return probs_NC (float64); rows sum to one."""
        logits_NC = np.zeros(np.shape(probs_MNC[0]), dtype=np.float64) + state.arrays["bias"]
        for probs_NC, weight in zip(probs_MNC, state.arrays["weights"], strict=True):
            if weight:
                logits_NC += weight * _logs(probs_NC)
        return softmax(logits_NC)


def _logs(probs_NC: Floats) -> Floats:
    return np.log(np.clip(np.asarray(probs_NC, dtype=np.float64), _FLOOR, None))


def _order(probs_MNC: Floats, weights_M: Floats) -> list[int]:
    def key(m: int) -> tuple[float, bytes]:
        return weights_M[m], hashlib.sha256(np.ascontiguousarray(probs_MNC[m]).tobytes()).digest()

    return sorted(range(len(weights_M)), key=key)


def _solve(logs_MNC: Floats, labels_N: Integers, pull_M: Floats, l2: float) -> tuple[Floats, Floats]:
    """Return (weights_M, bias_C) at the minimum of the class's docstring, divided by N."""
    members, rows, classes = logs_MNC.shape
    truth_NC = np.eye(classes)[labels_N]
    start = np.concatenate([pull_M, np.zeros(classes)])
    bounds = [(0, None)] * members + [(None, None)] * classes

    def loss(values: Floats) -> tuple[float, Floats]:
        logits_NC = np.tensordot(values[:members], logs_MNC, axes=1) + values[members:]
        shifted_NC = logits_NC - logits_NC.max(axis=1, keepdims=True)
        exp_NC = np.exp(shifted_NC)
        total_N = exp_NC.sum(axis=1)
        nll = np.sum(np.log(total_N)) - np.sum(shifted_NC * truth_NC)
        excess_NC = exp_NC / total_N[:, None] - truth_NC
        slope = np.concatenate([np.tensordot(logs_MNC, excess_NC, axes=2), excess_NC.sum(axis=0)])
        away = values - start
        return float(nll + l2 * away @ away) / rows, (slope + 2 * l2 * away) / rows

    options = {"maxiter": 2000, "maxfun": 5000, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return found.x[:members].copy(), found.x[members:].copy()


def _choose(logs_MNC: Floats, labels_N: Integers, pull_M: Floats) -> float:
    """Return the strongest pull whose cross-validated loss is within one standard error of the best."""
    labels_N = np.asarray(labels_N)
    rows = len(labels_N)
    if rows < 2 * _FOLDS:  # too few to tell strengths apart
        return _STRENGTHS[0]
    fold_N = np.empty(rows, dtype=np.int64)
    fold_N[np.argsort(labels_N, kind="stable")] = np.arange(rows) % _FOLDS  # every class spread over all folds
    losses_SN = np.empty((len(_STRENGTHS), rows))
    for fold in range(_FOLDS):
        seen, left = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        for row_S, l2 in enumerate(_STRENGTHS):
            weights_M, bias_C = _solve(logs_MNC[:, seen], labels_N[seen], pull_M, l2)
            probs_NC = softmax(np.tensordot(weights_M, logs_MNC[:, left], axes=1) + bias_C)
            losses_SN[row_S, left] = -np.log(probs_NC[np.arange(len(left)), labels_N[left]])
    best_N = losses_SN[np.argmin(losses_SN.mean(axis=1))]
    for l2, losses_N in zip(_STRENGTHS, losses_SN, strict=True):
        behind_N = losses_N - best_N
        if behind_N.mean() <= behind_N.std(ddof=1) / np.sqrt(rows):
            return l2
    raise AssertionError("the best strength is within one standard error of itself")
