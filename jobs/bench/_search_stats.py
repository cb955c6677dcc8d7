"""Comparison of methods over tables (Demšar 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution
from scipy.stats import rankdata, studentized_range

from distens.records import Floats

ALPHA = 0.05


def average_ranks(losses_BM: Floats) -> Floats:
    """Return the mean over blocks (rows) of each method's rank; 1 is the lowest loss, ties share their ranks."""
    return rankdata(losses_BM, axis=1).mean(axis=0)


def wilcoxon(differences_N: Floats) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test, exactly, whatever ties there are.

    Differences of zero are left out, as Wilcoxon did; p is 1 if none remain. Twice the mean ranks are whole numbers, so
    the distribution of their signed sum is computed by adding one difference after the other. Differences that are
    equal when rounded to 12 decimals tie.
    """
    differences_N = np.round(np.asarray(differences_N, dtype=np.float64), 12)
    differences_N = differences_N[differences_N != 0]
    ranks_N = np.rint(2 * rankdata(np.abs(differences_N))).astype(int)
    chance_S = np.ones(1)
    for rank in ranks_N:
        longer_S = np.zeros(len(chance_S) + rank)
        longer_S[: len(chance_S)] += chance_S / 2
        longer_S[rank:] += chance_S / 2
        chance_S = longer_S
    positive = int(ranks_N[differences_N > 0].sum())
    return float(min(1.0, 2 * min(chance_S[: positive + 1].sum(), chance_S[positive:].sum())))


@dataclass(frozen=True)
class Counts:
    """The numbers of tables on which one method is better than another, no different, or worse."""

    better: int
    same: int
    worse: int

    def __str__(self) -> str:
        return f"{self.better}/{self.same}/{self.worse}"


def by_table(losses_TRA: Floats, losses_TRB: Floats) -> Counts:
    """Return better/same/worse of the first against the second, by Wilcoxon's test over the repetitions of each table.

    Args:
        losses_TRA, losses_TRB: (tables, repetitions), paired.
    """
    counts = {"better": 0, "same": 0, "worse": 0}
    for differences_R in losses_TRA - losses_TRB:
        if wilcoxon(differences_R) > ALPHA:
            counts["same"] += 1
        else:  # the test is on the signed ranks, not on the mean
            signed = rankdata(np.abs(differences_R)) * np.sign(differences_R)
            counts["better" if signed.sum() < 0 else "worse"] += 1
    return Counts(**counts)


def holm(p_values: Floats) -> Floats:
    """Return Holm's adjusted p-values, in the order given: reject those at or below alpha."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def friedman(losses_BM: Floats) -> tuple[float, float]:
    """Return (F, p) of Friedman's test with Iman and Davenport's correction (Demšar 2006, 3.2.2), ties included.

    With ranks r_bm, F = (B - 1) S / (E - S), where S = B sum over m of (mean rank - (M + 1) / 2)^2 and E = sum of
    r_bm^2 - B M (M + 1)^2 / 4; without ties that is (B - 1) chi2 / (B (M - 1) - chi2).
    """
    ranks_BM = rankdata(losses_BM, axis=1)
    blocks, methods = ranks_BM.shape
    middle = (methods + 1) / 2
    between = blocks * ((ranks_BM.mean(axis=0) - middle) ** 2).sum()
    total = (ranks_BM**2).sum() - blocks * methods * middle**2
    if total - between < 1e-12:  # all blocks agree, or nothing differs anywhere
        return (float("inf"), 0.0) if between > 1e-12 else (0.0, 1.0)
    value = (blocks - 1) * between / (total - between)
    return float(value), float(f_distribution.sf(value, methods - 1, (methods - 1) * (blocks - 1)))


def critical_difference(methods: int, blocks: int, alpha: float = ALPHA) -> float:
    """Return the critical difference of two average ranks (Nemenyi): q sqrt(M (M + 1) / (6 B)).

    q is the studentized range over sqrt(2).
    """
    q = float(studentized_range.ppf(1 - alpha, methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def cliques(ranks_M: Floats, difference: float) -> list[tuple[int, int]]:
    """Return (first, last) places, by rank, of the largest groups of methods that the test does not separate."""
    ordered = np.sort(ranks_M)
    spans = [(i, int(np.searchsorted(ordered, rank + difference)) - 1) for i, rank in enumerate(ordered)]
    return [
        (first, last)
        for i, (first, last) in enumerate(spans)
        if last > first and not any(other >= last for _, other in spans[:i])
    ]
