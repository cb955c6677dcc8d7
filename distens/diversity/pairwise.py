"""How different two members are: one matrix over members for each measure, from their predictions or residuals.

Except for residuals, work is done in blocks of members and examples that stay in the cache, so memory stays bounded
whatever M, N and C are; predictions may be memory-mapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from distens.records import Floats, Integers

_MEMBERS = 256
_NUMBERS = 2_000_000
"""The number of predicted probabilities in a block of examples."""

_PAIRS = 65_536
"""The number of distances that are computed at once."""

_FLOAT32_SUM_LENGTH = 32
"""Where examples come one by one, the number of distances summed in float32 before the sum is added in float64."""


def diversity(probs_MNC: Floats | Sequence[Floats]) -> Floats:
    """Return div_MM, the mean distance of two members' probability vectors: in [0, 1], symmetric, 0 on the diagonal.

    Div(i, j) = mean over examples of ||p_i - p_j||_2 / sqrt(2), the largest distance there is (Shen et al. 2022,
    "DivBO", equation 3). It does not use labels, so it also rewards being wrong in a new way.

    The squared distances of all pairs of two blocks of members come from one product of matrices per example,
    [-2a, |a|^2, 1] . [b, 1, |b|^2], in float64; their roots are float32. So means are within 1e-6 of float64's, and
    within 1e-7 between identical members.
    """
    members = len(probs_MNC)
    total_MM = np.zeros((members, members))
    for probs_NMC in _blocks(probs_MNC):
        left_NMK, right_NKM = _left_features(probs_NMC), _right_features(probs_NMC)
        for a, b in _block_pairs(members):
            total_MM[a, b] += _distances(left_NMK[:, a], right_NKM[:, :, b])
    return _symmetric(total_MM / (len(probs_MNC[0]) * np.sqrt(2.0)), diagonal=0.0)


def diversity_to(probs_MNC: Floats | Sequence[Floats], chosen_K: Integers) -> Floats:
    """Return every member's mean diversity to the chosen members other than itself: shape (M,), 0 if there is none.

    The cost grows with members times chosen members, not with the square of members.
    """
    members, chosen_K = len(probs_MNC), np.asarray(chosen_K)
    total_MK = np.zeros((members, len(chosen_K)))
    for probs_NMC in _blocks(probs_MNC):
        right_NCK = _right_features(probs_NMC[:, chosen_K])
        for start in range(0, members, _MEMBERS):
            a = slice(start, start + _MEMBERS)
            total_MK[a] += _distances(_left_features(probs_NMC[:, a]), right_NCK)
    others_MK = chosen_K != np.arange(members)[:, None]
    total_M = (total_MK * others_MK).sum(axis=1) / (len(probs_MNC[0]) * np.sqrt(2.0))
    return total_M / np.maximum(others_MK.sum(axis=1), 1)


def disagreement(probs_MNC: Floats | Sequence[Floats]) -> Floats:
    """Return the share of examples on which two members predict different classes: in [0, 1], 0 on the diagonal."""
    members = len(probs_MNC)
    examples, classes = np.shape(probs_MNC[0])
    agree_MM = np.zeros((members, members))
    named_MN = _predicted_classes(probs_MNC)
    for start, stop in _ranges(examples, members * classes):
        onehot = (named_MN[:, start:stop, None] == np.arange(classes, dtype=named_MN.dtype)).astype(np.float32)
        onehot = onehot.reshape(members, -1)
        agree_MM += onehot @ onehot.T  # whole numbers, exact in float32
    return _symmetric(1.0 - agree_MM / examples, diagonal=0.0)


def error_correlation(probs_MNC: Floats | Sequence[Floats], labels_N: Integers) -> Floats:
    """Return Pearson's correlation of two members' mistakes (1 where wrong, 0 where right): in [-1, 1].

    It is 1 on the diagonal. A member that is always or never right has the correlation 0 with all others.
    """
    wrong_MN = _predicted_classes(probs_MNC) != labels_N
    both_MM = np.zeros((len(wrong_MN), len(wrong_MN)))
    for start, stop in _ranges(len(labels_N), len(wrong_MN)):
        part = wrong_MN[:, start:stop].astype(np.float32)
        both_MM += part @ part.T  # whole numbers, exact in float32
    share_M = wrong_MN.mean(axis=1)
    scale_M = np.sqrt(share_M * (1.0 - share_M))
    scale_M[scale_M == 0] = np.inf
    covariance_MM = both_MM / len(labels_N) - np.outer(share_M, share_M)
    return _symmetric(np.clip(covariance_MM / np.outer(scale_M, scale_M), -1.0, 1.0), diagonal=1.0)


def residual_correlation(residuals_MNK: Sequence[Floats]) -> Floats:
    """Return Pearson's correlation of two members' residuals: in [-1, 1], 1 on the diagonal.

    A member whose residuals do not vary has the correlation 0 with all others.
    """
    flat_MX = np.stack([np.asarray(one, dtype=np.float64).ravel() for one in residuals_MNK])
    flat_MX -= flat_MX.mean(axis=1, keepdims=True)
    length_M = np.sqrt((flat_MX**2).sum(axis=1))
    length_M[length_M == 0] = np.inf
    return _symmetric(np.clip(flat_MX @ flat_MX.T / np.outer(length_M, length_M), -1.0, 1.0), diagonal=1.0)


def mean_over_pairs(matrix_MM: Floats) -> float:
    """Return the mean off the diagonal; 0 for a single member, which has no pairs."""
    members = len(matrix_MM)
    return float(matrix_MM[np.triu_indices(members, k=1)].mean()) if members > 1 else 0.0


def _ranges(examples: int, numbers: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of blocks of examples, where one example takes up the given count of numbers."""
    step = max(1, _NUMBERS // numbers)
    for start in range(0, examples, step):
        yield start, min(start + step, examples)


def _blocks(probs_MNC: Floats | Sequence[Floats]) -> Iterator[Floats]:
    """Yield probs_NMC, float64, a block of examples at a time."""
    examples, classes = np.shape(probs_MNC[0])
    for start, stop in _ranges(examples, len(probs_MNC) * classes):
        probs_NMC = np.empty((stop - start, len(probs_MNC), classes))
        for m, probs_NC in enumerate(probs_MNC):
            probs_NMC[:, m] = probs_NC[start:stop]
        yield probs_NMC


def _predicted_classes(probs_MNC: Floats | Sequence[Floats]) -> Integers:
    """Return the most probable class, the first of equals, of every member and example."""
    examples, classes = np.shape(probs_MNC[0])
    named_MN = np.empty((len(probs_MNC), examples), np.uint8 if classes <= 256 else np.int32)
    for named_N, probs_NC in zip(named_MN, probs_MNC, strict=True):
        named_N[:] = np.argmax(probs_NC, axis=1)
    return named_MN


def _left_features(probs_NMC: Floats) -> Floats:
    squares_NM1 = np.einsum("nmc,nmc->nm", probs_NMC, probs_NMC)[:, :, None]
    return np.concatenate([-2.0 * probs_NMC, squares_NM1, np.ones_like(squares_NM1)], axis=2)


def _right_features(probs_NMC: Floats) -> Floats:
    squares_NM1 = np.einsum("nmc,nmc->nm", probs_NMC, probs_NMC)[:, :, None]
    factors_NMK = np.concatenate([probs_NMC, np.ones_like(squares_NM1), squares_NM1], axis=2)
    return np.ascontiguousarray(factors_NMK.transpose(0, 2, 1))


def _distances(left_NAK: Floats, right_NKB: Floats) -> Floats:
    """Return the distances of all pairs, (A, B), summed over examples."""
    pairs = left_NAK.shape[1], right_NKB.shape[2]
    step = max(1, _PAIRS // (pairs[0] * pairs[1]))
    squared = np.empty((min(step, len(left_NAK)), *pairs))
    distance = np.empty(squared.shape, np.float32)
    part, total = np.zeros(pairs, np.float32), np.zeros(pairs)
    for start in range(0, len(left_NAK), step):
        left = left_NAK[start : start + step]
        found, root = squared[: len(left)], distance[: len(left)]
        np.matmul(left, right_NKB[start : start + step], out=found)
        np.copyto(root, found, casting="same_kind")
        np.abs(root, out=root)  # the square of an identical member may be rounded to just below 0
        np.sqrt(root, out=root)
        part += root.sum(axis=0) if step > 1 else root[0]
        if step > 1 or start % _FLOAT32_SUM_LENGTH == _FLOAT32_SUM_LENGTH - 1 or start + step >= len(left_NAK):
            total += part
            part[:] = 0.0
    return total


def _block_pairs(members: int) -> Iterator[tuple[slice, slice]]:
    """Yield pairs of blocks of members that together cover the upper triangle."""
    for a in range(0, members, _MEMBERS):
        for b in range(a, members, _MEMBERS):
            yield slice(a, a + _MEMBERS), slice(b, b + _MEMBERS)


def _symmetric(matrix_MM: Floats, diagonal: float) -> Floats:
    """Return the matrix with its upper triangle mirrored, so that it is symmetric to the last bit."""
    upper = np.triu(matrix_MM, k=1)
    result = upper + upper.T
    np.fill_diagonal(result, diagonal)
    return result
