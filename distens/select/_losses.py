"""What a selection minimises, for many mixtures at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distens.probabilities import FLOOR
from distens.records import Floats, Integers

METRICS = ("nll", "error")
_NUMBERS = 4_000_000


def check(probs_MNC: Floats | Sequence[Floats], metric: str) -> None:
    """Raise ValueError for a metric that is not known, or where there is nothing to select from."""
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}, found {metric!r}")
    if not len(probs_MNC):
        raise ValueError("there are no members to select from")


class Sums:
    """Losses of a running sum of predictions with each member added in turn: O(M N) for `nll`, O(M N C) for `error`.

    The mean of k members and their sum have the same most probable class, and nll needs the label's column alone.
    """

    def __init__(self, probs_MNC: Floats | Sequence[Floats], labels_N: Integers, metric: str) -> None:
        self._probs, self._labels_N, self._metric = probs_MNC, np.asarray(labels_N), metric
        self._examples = np.arange(len(labels_N))
        if metric == "nll":
            columns = [np.asarray(p)[self._examples, self._labels_N] for p in probs_MNC]
            self._label_probs_MN = np.stack(columns).astype(np.float64)
            self._sum = np.zeros(len(self._examples))
        else:
            self._sum = np.zeros(np.shape(probs_MNC[0]))
        self.count = 0

    def with_each(self) -> Floats:
        """Return losses_M: the loss of the mean of what was added so far and one more member."""
        if self._metric == "nll":
            step = max(1, _NUMBERS // max(1, len(self._examples)))
            blocks = range(0, len(self._probs), step)
            return np.concatenate([self._nll(self._label_probs_MN[b : b + step]) for b in blocks])
        named = (np.argmax(self._sum + np.asarray(p), axis=1) for p in self._probs)
        return np.array([float(np.mean(named_N != self._labels_N)) for named_N in named])

    def _nll(self, label_probs_MN: Floats) -> Floats:
        mean_MN = (self._sum + label_probs_MN) / (self.count + 1)
        return -np.log(np.clip(mean_MN, FLOOR, None)).mean(axis=1)

    def add(self, member: int) -> None:
        """Add one member to the sum."""
        self._sum += self._label_probs_MN[member] if self._metric == "nll" else np.asarray(self._probs[member])
        self.count += 1
