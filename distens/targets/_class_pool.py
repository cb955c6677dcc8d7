"""The loss that a selection minimises: of a growing ensemble with each member added in turn, on rows with weights.

The mean of k members and their sum predict the same class, and the negative log-likelihood needs the label's column
alone; so only a running sum of the ensemble is kept. Sums are float64, whatever the predictions are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distens.probabilities import FLOOR
from distens.records import Floats, Integers
from distens.targets.protocol import Pool

METRICS = ("nll", "error")
_BLOCK_VALUES = 131_072
"""The number of float64 values in a block of members: so many stay in the processor's cache."""

_PRODUCT = 16
"""The number of probabilities that are multiplied before one logarithm is taken: FLOOR ** 16 is a normal float64."""


class ClassPools:
    """The pools of one selection (see `distens.targets.protocol.Pools`): all samples of rows share the predictions.

    Raises:
        ValueError: the metric is not known, or there is nothing to select from.
    """

    def __init__(self, probs_MNC: Floats | Sequence[Floats], labels_N: Integers, metric: str) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric: expected one of {', '.join(METRICS)}, found {metric!r}")
        if not len(probs_MNC):
            raise ValueError("there are no members to select from")
        self._probs, self._labels_N = probs_MNC, np.asarray(labels_N)
        examples = np.arange(len(self._labels_N))
        dtype = np.result_type(np.asarray(probs_MNC[0]).dtype, np.float32)
        self._label_probs_MN = np.empty((len(probs_MNC), len(examples) + 1), dtype)  # the last row is a filler
        for column_N, probs_NC in zip(self._label_probs_MN, probs_MNC, strict=True):
            column_N[:-1], column_N[-1] = np.asarray(probs_NC)[examples, self._labels_N], 1.0
        self._metric = metric

    def on(self, importance_N: Integers | None = None) -> Pool:
        """Return an empty pool, where row n counts importance_N[n] times (each once by default)."""
        counts_N = np.ones(len(self._labels_N), dtype=np.int64) if importance_N is None else importance_N
        if self._metric == "nll":
            return _Nll(self._label_probs_MN, counts_N)
        return _Error(self._probs, self._labels_N, self._label_probs_MN, counts_N)


class _Nll:
    """A pool whose loss is the mean of -log p(label).

    Rows that count equally often lie in groups of 16, and one logarithm is taken of each group's product.
    """

    def __init__(self, label_probs_MN: Floats, counts_N: Integers) -> None:
        members, certain = len(label_probs_MN), len(counts_N)
        groups, counts = [], []
        for count in np.unique(counts_N[counts_N > 0]):
            rows = np.flatnonzero(counts_N == count)
            size = -(-len(rows) // _PRODUCT)
            groups.append(np.append(rows, np.full(size * _PRODUCT - len(rows), certain)).reshape(_PRODUCT, size))
            counts.append(np.full(size, float(count)))
        rows_PG, self._counts_G = np.concatenate(groups, axis=1), np.concatenate(counts)
        self._probs_MPG = label_probs_MN.take(rows_PG.ravel(), axis=1).reshape(members, *rows_PG.shape)
        self._sum_PG, self._rows = np.zeros(rows_PG.shape), counts_N.sum()
        self._step = max(1, _BLOCK_VALUES // rows_PG.size)
        self._block = np.empty((min(self._step, members), *rows_PG.shape))
        self._added = 0

    def with_each(self) -> Floats:
        size = self._added + 1
        floor, low = FLOOR * size, bool((self._sum_PG < FLOOR * size).any())
        logs_M = np.empty(len(self._probs_MPG))
        for start in range(0, len(logs_M), self._step):
            probs_BPG = self._probs_MPG[start : start + self._step]
            block = np.add(probs_BPG, self._sum_PG, out=self._block[: len(probs_BPG)])
            if low:
                np.maximum(block, floor, out=block)
            half = _PRODUCT // 2
            while half:
                block[:, :half] *= block[:, half : 2 * half]
                half //= 2
            logs_M[start : start + self._step] = np.log(block[:, 0]) @ self._counts_G
        whole = np.log(size) * _PRODUCT * self._counts_G.sum()  # of a sum of certain members, in all rows and fillers
        return (whole - logs_M) / self._rows

    def add(self, member: int) -> None:
        self._sum_PG += self._probs_MPG[member]
        self._added += 1


class _Error:
    """A pool whose loss is the share of rows whose most probable class, the first of equals, is not the label.

    A member moves the label's lead over another class by 1 at most, so only rows with a smaller lead are evaluated:
    ever fewer as the sum grows. They are compared in float32, with classes along the rows of the array, and where that
    is too close to decide (rounding is below 1e-6 of the largest possible sum) in float64.
    """

    def __init__(
        self, probs_MNC: Floats | Sequence[Floats], labels_N: Integers, label_probs_MN: Floats, counts_N: Integers
    ) -> None:
        self._probs, self._labels_N, self._label_probs_MN, self._counts_N = (
            probs_MNC,
            labels_N,
            label_probs_MN,
            counts_N,
        )
        self._sum_NC = np.zeros(np.shape(probs_MNC[0]))
        self._examples = np.arange(len(labels_N))
        self._added = 0

    def with_each(self) -> Floats:
        size = self._added + 1
        label_N = self._sum_NC[self._examples, self._labels_N]
        others_NC = self._sum_NC.copy()
        others_NC[self._examples, self._labels_N] = -np.inf
        lead_N = label_N - others_NC.max(axis=1)
        open_N = np.abs(lead_N) <= 1.0 + 1e-6
        rows = np.flatnonzero(open_N & (self._counts_N > 0))
        label_R = label_N[rows].astype(np.float32)
        others_CR = others_NC[rows].T.astype(np.float32)
        counts_R = self._counts_N[rows].astype(np.float64)
        lost = float(self._counts_N[(lead_N < 0) & ~open_N].sum())
        members, step = len(self._probs), max(1, _BLOCK_VALUES // max(1, others_CR.size))
        block_BRC = np.zeros((min(step, members), *others_CR.T.shape), np.float32)  # numpy casts what was there before
        block_BCR = np.empty((min(step, members), *others_CR.shape), np.float32)
        wrong_M = np.empty(members)
        for start in range(0, members, step):
            stop = min(start + step, members)
            taken, sums = block_BRC[: stop - start], block_BCR[: stop - start]
            for m in range(start, stop):
                np.take(self._probs[m], rows, axis=0, out=taken[m - start], mode="clip")
            np.add(taken.transpose(0, 2, 1), others_CR, out=sums)
            lead_BR = self._label_probs_MN[start:stop].take(rows, axis=1).astype(np.float32, copy=False)
            lead_BR += label_R
            lead_BR -= sums.max(axis=1)
            wrong_BR = lead_BR < 0
            close_BR = np.abs(lead_BR) <= 1e-6 * size
            for m in (start + np.flatnonzero(close_BR.any(axis=1))).tolist():
                close = rows[close_BR[m - start]]
                named = np.argmax(self._sum_NC[close] + self._probs[m][close], axis=1)
                wrong_BR[m - start, close_BR[m - start]] = named != self._labels_N[close]
            wrong_M[start:stop] = wrong_BR @ counts_R
        return (wrong_M + lost) / self._counts_N.sum()

    def add(self, member: int) -> None:
        self._sum_NC += np.asarray(self._probs[member])
        self._added += 1
