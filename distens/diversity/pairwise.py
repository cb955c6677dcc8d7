"""How different two members are: one matrix over members per measure, from their predictions alone.

Work is done in blocks of members and examples, so that memory stays bounded whatever M, N and C are; predictions may
be memory-mapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from distens.records import Floats, Integers

_MEMBERS = 64
_NUMBERS = 4_000_000
"""How many float64 one block may hold (32 MB)."""


def diversity(probs_MNC: Floats | Sequence[Floats]) -> Floats:
    """Return div_MM, the mean distance of two members' probability vectors: in [0, 1], symmetric, 0 on the diagonal.

    Div(i, j) = mean over examples of ||p_i - p_j||_2 / sqrt(2), the largest distance there is (Shen et al. 2022,
    "DivBO", equation 3). It knows no labels, so it also rewards being wrong in a new way.

    The distances of all pairs of two blocks of members come from one product of matrices per example,
    |a|^2 + |b|^2 - 2 a.b, in float64: accurate to 1e-8 even between twins.
    """
    members = len(probs_MNC)
    examples, classes = np.shape(probs_MNC[0])
    total_MM = np.zeros((members, members))
    rows = max(1, _NUMBERS // (members * classes + min(members, _MEMBERS) ** 2))
    for start in range(0, examples, rows):
        probs_NMC = np.stack([np.asarray(p[start : start + rows], dtype=np.float64) for p in probs_MNC], axis=1)
        squares_NM = np.einsum("nmc,nmc->nm", probs_NMC, probs_NMC)
        for a, b in _block_pairs(members):
            squared = probs_NMC[:, a] @ probs_NMC[:, b].transpose(0, 2, 1)
            squared *= -2.0
            squared += squares_NM[:, a, None]
            squared += squares_NM[:, None, b]
            np.sqrt(np.maximum(squared, 0.0, out=squared), out=squared)
            total_MM[a, b] += squared.sum(axis=0)
    return _symmetric(total_MM / (examples * np.sqrt(2.0)), diagonal=0.0)


def diversity_to(probs_MNC: Floats | Sequence[Floats], chosen_K: Integers) -> Floats:
    """Return every member's mean diversity to the chosen ones, itself left out: shape (M,), 0 without another.

    Costs members times chosen, not members times members.
    """
    chosen_KNC = np.stack([np.asarray(probs_MNC[int(k)], dtype=np.float64) for k in chosen_K])
    mean_M = np.zeros(len(probs_MNC))
    for m, probs_NC in enumerate(probs_MNC):
        distance_K = np.sqrt(((chosen_KNC - probs_NC) ** 2).sum(axis=-1)).mean(axis=-1) / np.sqrt(2.0)
        others_K = chosen_K != m
        mean_M[m] = distance_K[others_K].mean() if others_K.any() else 0.0
    return mean_M


def disagreement(probs_MNC: Floats | Sequence[Floats]) -> Floats:
    """Return the share of examples on which two members name different classes: in [0, 1], 0 on the diagonal."""
    members = len(probs_MNC)
    examples, classes = np.shape(probs_MNC[0])
    agree_MM = np.zeros((members, members))
    rows = max(1, _NUMBERS // (members * classes))
    for start in range(0, examples, rows):
        named_MN = np.stack([np.argmax(p[start : start + rows], axis=1) for p in probs_MNC])
        onehot = (named_MN[:, :, None] == np.arange(classes)).reshape(members, -1).astype(np.float64)
        agree_MM += onehot @ onehot.T
    return _symmetric(1.0 - agree_MM / examples, diagonal=0.0)


def error_correlation(probs_MNC: Floats | Sequence[Floats], labels_N: Integers) -> Floats:
    """Return Pearson's correlation of two members' mistakes (1 where wrong, 0 where right): in [-1, 1], 1 on the
    diagonal. Where a member is always or never right nothing correlates with it, and 0 stands for that."""
    wrong_MN = np.stack([np.argmax(p, axis=1) != labels_N for p in probs_MNC]).astype(np.float64)
    wrong_MN -= wrong_MN.mean(axis=1, keepdims=True)
    scale_M = np.sqrt((wrong_MN**2).sum(axis=1))
    wrong_MN /= np.where(scale_M > 0, scale_M, 1.0)[:, None]
    return _symmetric(np.clip(wrong_MN @ wrong_MN.T, -1.0, 1.0), diagonal=1.0)


def mean_over_pairs(matrix_MM: Floats) -> float:
    """Return the mean off the diagonal; 0 for a single member, which has no pairs."""
    members = len(matrix_MM)
    return float(matrix_MM[np.triu_indices(members, k=1)].mean()) if members > 1 else 0.0


def _block_pairs(members: int) -> Iterator[tuple[slice, slice]]:
    """Yield pairs of blocks of members that together cover the upper triangle."""
    for a in range(0, members, _MEMBERS):
        for b in range(a, members, _MEMBERS):
            yield slice(a, a + _MEMBERS), slice(b, b + _MEMBERS)


def _symmetric(matrix_MM: Floats, diagonal: float) -> Floats:
    """Return the upper triangle mirrored, so that order cannot matter to the last bit."""
    upper = np.triu(matrix_MM, k=1)
    result = upper + upper.T
    np.fill_diagonal(result, diagonal)
    return result
