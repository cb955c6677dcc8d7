"""Weights by a convex quadratic programme, after PSEO's choice of a subset, with two numbers tuned by cross-fitting."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from distens.records import Floats, Integers
from distens.select._simplex import minimise
from distens.select.protocol import deciding_metrics, fill_defaults, rank_members
from distens.targets.protocol import Target, Targets

_OMEGAS = (0.5, 0.4, 0.3)
_SIZES = (1, 3, 5, 10, 25, 50)
_FOLDS = 5
_RIDGE = 1e-5
_TOLERANCE, _SCREENING_TOLERANCE = 1e-4, 1e-3
_MIN_RELATIVE_WEIGHT = 1e-3
"""Members with less than this share of the largest weight are left out: they cost as much to deploy as any other."""

_LANCZOS_MEMBERS = 300
"""The number of members above which Lanczos' iterations find the largest eigenvalue in a sixth of the time that all
take, or less."""

_RESTARTS = 100
"""Of Lanczos' iterations. Matrices of errors need 1 to 3; with so many, all eigenvalues are the cheaper way."""

_NUMBERS = 4_194_304
"""The number of residuals, float32, that are computed at a time."""


@dataclass(frozen=True)
class Quadratic:
    """Quadratic: a joint choice of members that are good and whose errors do not move together.

    With residuals E_m (for classes onehot(label) - p_m, for numbers y - p_m) and G_ij = mean over rows of E_i . E_j
    (the diagonal holds each member's quadratic loss, for classes the Brier score; the other entries show how errors
    move together), a relaxed choice z of `size` members solves

        minimise z'Qz,  0 <= z <= 1,  sum z = size,  Q = omega offdiag(G) + (1 - omega) diag(G) + 1e-5 I

    which is convex for omega <= 1/2. Some members are left out before: those with G_ii above the third quartile by more
    than two interquartile ranges, and those worse than a prediction that knows nothing of a row. The programme is from
    PSEO (post-hoc stacking ensemble optimisation; mindware's code), which keeps the `size` largest z with equal
    weights: `weights: equal`.

    We differ. At omega = 1/2 the objective is half the quadratic loss of the mean with weights z / size: stacking by
    least squares (Breiman 1996, "Stacked Regressions") with no weight above 1 / size. So z / size is itself the best
    choice of weights, and both numbers shrink them towards each other. When the metric is the share of errors, a loss
    as smooth as this is less misled by luck on a thousand rows than the metric itself. No row judges weights that it
    was used for: the rows are cut into 5 folds, weights found without a fold are scored on it, and the pair with the
    least mean loss (the metric; the usual one if the metric is the user's own, which may have no value on few rows) is
    taken; of equals the better by the usual metric, then the larger omega, then the smaller size.

    The programme is solved to within 1/10000 of its objective (1/1000 while tuning), and weights below 1/1000 of the
    largest are left out.

    Attributes:
        omega: 0 counts the loss of each member alone, 1/2 that of the mean alone. None: tuned among 0.5, 0.4, 0.3.
        size: no weight is above 1 / size, and at least `size` members are taken, if there are as many. None: tuned
            among 1, 3, 5, 10, 25, 50.
        weights: `relaxed`, z / size; or `equal`, the same weight for the `size` largest z, among equals for the member
            that is better by itself.
    """

    omega: Annotated[float, Ge(0), Le(0.5)] | None = 0.5
    size: Annotated[int, Ge(1)] | None = None
    weights: Literal["relaxed", "equal"] = "relaxed"

    def select(
        self,
        predictions_MNK: Floats | Sequence[Floats],
        targets_N: Targets,
        metric: str = "",
        target: Target | None = None,
        importance_N: Floats | None = None,
    ) -> Floats:
        """Return weights_M (see `Selector`). Raises ValueError for an unknown metric or no members."""
        target, metric = fill_defaults(predictions_MNK, metric, target, importance_N)
        # Members are sorted, so that sums are the same, bit for bit, in whatever order members came.
        order_M = rank_members(predictions_MNK, targets_N, metric, target)
        rows = _Rows([predictions_MNK[m] for m in order_M], np.asarray(targets_N), metric, target)
        omegas = _OMEGAS if self.omega is None else (self.omega,)
        sizes = _SIZES if self.size is None else (self.size,)
        pairs = [(o, s) for o in omegas for s in sizes if s <= len(order_M)] or [(o, len(order_M)) for o in omegas]
        equal = self.weights == "equal"
        pair = rows.best(pairs, equal) if len(pairs) > 1 else pairs[0]
        weights_M = np.zeros(len(order_M))
        weights_M[order_M] = rows.weights([pair], equal)[:, 0]
        return weights_M


class _Rows:
    """The sums of E_i . E_j over the rows of each fold, from residuals in float32, block by block, kept in float64."""

    def __init__(self, predictions: Sequence[Floats], targets_N: Targets, metric: str, target: Target) -> None:
        self._predictions, self._targets_N, self._target = predictions, targets_N, target
        self._metrics = deciding_metrics(metric, target)
        self._fold_N = np.empty(len(targets_N), dtype=np.int64)
        by_stratum = np.argsort(target.strata(targets_N), kind="stable")  # every class spread over all folds
        self._fold_N[by_stratum] = np.arange(len(targets_N)) % _FOLDS
        self._grams_KMM = np.zeros((_FOLDS, len(predictions), len(predictions)))
        step = max(1, _NUMBERS // (len(predictions) * np.shape(predictions[0])[1]))
        for fold, gram_MM in enumerate(self._grams_KMM):
            rows_R = np.flatnonzero(self._fold_N == fold)
            for start in range(0, len(rows_R), step):
                rows_B = rows_R[start : start + step]
                of = [target.residuals(np.asarray(one)[rows_B], targets_N[rows_B]) for one in predictions]
                flat = np.stack(of).reshape(len(predictions), -1)
                gram_MM += flat @ flat.T
        self._gram_MM = self._grams_KMM.sum(axis=0)

    def weights(self, pairs: Sequence[tuple[float, int]], equal: bool, without: int | None = None) -> Floats:
        """Return weights_MJ of each pair (omega, size), from all rows except those of the fold `without`."""
        gram_MM, rows = self._gram_MM, len(self._targets_N)
        if without is not None:
            gram_MM, rows = gram_MM - self._grams_KMM[without], rows - int((self._fold_N == without).sum())
        tolerance = _TOLERANCE if without is None else _SCREENING_TOLERANCE
        unit = self._target.unit(self._targets_N)
        trivial = self._target.trivial(self._targets_N) / unit
        return _weights(gram_MM / (rows * unit), trivial, pairs, equal, tolerance)

    def best(self, pairs: Sequence[tuple[float, int]], equal: bool) -> tuple[float, int]:
        """Return the pair with the least loss on rows that were not used for its weights.

        Of equals, it is the one with the least loss by the usual metric, then the first.
        """
        losses_LJ = np.zeros((len(self._metrics), len(pairs)))
        for fold in range(_FOLDS):
            held_R = np.flatnonzero(self._fold_N == fold)
            if 0 < len(held_R) < len(self._targets_N):
                weights_MJ = self.weights(pairs, equal, without=fold)
                losses_LJ += self._losses(weights_MJ, held_R)
        return pairs[int(np.lexsort(losses_LJ[::-1])[0])]

    def _losses(self, weights_MJ: Floats, rows_R: Integers) -> Floats:
        used = np.flatnonzero(weights_MJ.any(axis=1))
        mixed_JRK = np.zeros((weights_MJ.shape[1], len(rows_R), np.shape(self._predictions[0])[1]))
        for m in used.tolist():
            mixed_JRK += weights_MJ[m][:, None, None] * np.asarray(self._predictions[m])[rows_R]
        summed, targets_R = self._target.sum_loss, self._targets_N[rows_R]
        return np.array([[summed(mixed_RK, targets_R, metric) for mixed_RK in mixed_JRK] for metric in self._metrics])


def _weights(
    gram_MM: Floats, trivial: float, pairs: Sequence[tuple[float, int]], equal: bool, tolerance: float
) -> Floats:
    alone_M = np.diag(gram_MM)
    low, high = np.quantile(alone_M, [0.25, 0.75])
    kept = np.flatnonzero((alone_M <= high + 2 * (high - low)) & (alone_M <= trivial))
    if not len(kept):
        kept = np.array([np.argmin(alone_M)])
    gram_SS, alone_S1 = gram_MM[np.ix_(kept, kept)], alone_M[kept][:, None]
    omega_J, size_J = np.array([o for o, _ in pairs]), np.array([min(s, len(kept)) for _, s in pairs])
    # Errors that all members share curve the objective most, but not between weights of the same sum.
    centred_SS = gram_SS - gram_SS.mean(axis=0) - gram_SS.mean(axis=1)[:, None] + gram_SS.mean()
    bound_J = omega_J * _largest_eigenvalue(centred_SS) + (1 - 2 * omega_J) * alone_S1.max() + _RIDGE

    def product(z_SJ: Floats) -> Floats:
        return omega_J * (gram_SS @ z_SJ) + ((1 - 2 * omega_J) * alone_S1 + _RIDGE) * z_SJ

    z_SJ = minimise(product, bound_J, size_J, np.ones((len(kept), len(pairs))), tolerance)
    weights_MJ = np.zeros((len(gram_MM), len(pairs)))
    for j, size in enumerate(size_J):
        if equal:
            weights_MJ[kept[np.argsort(-z_SJ[:, j], kind="stable")[:size]], j] = 1 / size
        else:
            share_S = np.where(z_SJ[:, j] < _MIN_RELATIVE_WEIGHT * z_SJ[:, j].max(), 0.0, z_SJ[:, j])
            weights_MJ[kept, j] = share_S / share_S.sum()
    return weights_MJ


def _largest_eigenvalue(matrix_SS: Floats) -> float:
    """Return the largest eigenvalue of a symmetric matrix, to rounding."""
    if len(matrix_SS) > _LANCZOS_MEMBERS:
        from scipy.sparse.linalg import ArpackError, eigsh  # it takes as long as some selections

        start_S = np.random.default_rng(0).normal(size=len(matrix_SS))  # the same in every call, so results repeat
        with suppress(ArpackError):  # it did not converge, or the matrix is zero
            return float(eigsh(matrix_SS, 1, which="LA", v0=start_S, maxiter=_RESTARTS, return_eigenvectors=False)[0])
    return float(np.linalg.eigvalsh(matrix_SS)[-1])
