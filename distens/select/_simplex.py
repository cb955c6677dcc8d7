"""A convex quadratic over the capped simplex: minimise z'Qz with 0 <= z <= 1 and sum z = size, for many z at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distens.records import Floats, Integers

_ITERATIONS = 2000


def project(points_MK: Floats, sizes_K: Integers) -> Floats:
    """Return each column's nearest point with entries in [0, 1] and the given sum.

    It is clip(point - t, 0, 1), and the sum falls with t, in straight pieces between the points where an entry meets a
    bound. A bisection over those 2 M values of t finds the piece, and a line through its ends finds t, which is exact
    except for rounding.
    """
    knots_LK = np.sort(np.concatenate([points_MK, points_MK - 1.0]), axis=0)
    columns = np.arange(points_MK.shape[1])

    def excess(t_K: Floats) -> Floats:
        return np.clip(points_MK - t_K, 0.0, 1.0).sum(axis=0) - sizes_K

    low_K, high_K = np.zeros(len(columns), dtype=int), np.full(len(columns), len(knots_LK) - 1)
    while (high_K - low_K > 1).any():
        middle_K = (low_K + high_K) // 2
        above_K = excess(knots_LK[middle_K, columns]) >= 0
        low_K, high_K = np.where(above_K, middle_K, low_K), np.where(above_K, high_K, middle_K)
    left_K, right_K = knots_LK[low_K, columns], knots_LK[high_K, columns]
    more_K, less_K = excess(left_K), excess(right_K)
    share_K = more_K / np.maximum(more_K - less_K, np.finfo(float).tiny)
    return np.clip(points_MK - (left_K + np.clip(share_K, 0.0, 1.0) * (right_K - left_K)), 0.0, 1.0)


def minimise(
    product: Callable[[Floats], Floats], bound_K: Floats, sizes_K: Integers, start_MK: Floats, tolerance: float
) -> Floats:
    """Return z_MK, each column's objective within `tolerance`, as a share of the objective, of its minimum.

    Projected gradients with Nesterov's momentum (Beck and Teboulle 2009, "FISTA"), forgotten where it points uphill
    (O'Donoghue and Candes 2015, "Adaptive Restart"). The iterations stop by the Frank-Wolfe gap, an upper bound of the
    gain that is still possible: no other point of the set lies below the tangent at z.

    Args:
        product: Q_k z_k of every column; Q_k is symmetric and positive definite.
        bound_K: at least the largest value of u'Q_k u, u of length 1 with entries that sum to 0: sums stay as they are.
        sizes_K: the sum of each column, at most M.
        start_MK: the point to begin with, which may be any.
    """
    z_MK = project(start_MK, sizes_K)
    ahead_MK, momentum_K = z_MK, np.ones(len(sizes_K))
    columns = np.arange(len(sizes_K))
    for step in range(_ITERATIONS):
        if step % 10 == 0:
            slope_MK = product(z_MK)
            value_K = (z_MK * slope_MK).sum(axis=0)
            least_K = np.cumsum(np.sort(slope_MK, axis=0), axis=0)[sizes_K - 1, columns]
            if (2 * (value_K - least_K) <= tolerance * value_K).all():
                break
        next_MK = project(ahead_MK - product(ahead_MK) / bound_K, sizes_K)
        uphill_K = ((ahead_MK - next_MK) * (next_MK - z_MK)).sum(axis=0) > 0
        momentum_K = np.where(uphill_K, 1.0, momentum_K)
        following_K = (1 + np.sqrt(1 + 4 * momentum_K**2)) / 2
        ahead_MK = next_MK + (momentum_K - 1) / following_K * (next_MK - z_MK)
        z_MK, momentum_K = next_MK, following_K
    return z_MK
