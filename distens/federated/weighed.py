"""The clients as an ensemble: what is averaged, and by which weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distens.combine.average import Average as Linear
from distens.combine.classwise import Classwise, of_each_class
from distens.combine.geometric import Geometric
from distens.combine.protocol import Combiner
from distens.counts import class_shares
from distens.distill.protocol import Average
from distens.records import Finished, Floats, Integers, State

ENSEMBLE = "ensemble"
KNOWN: Mapping[str, Average] = {
    "uniform_ensemble": "logits",
    "average_ensemble": "probabilities",
    "classwise_ensemble": "classwise",
}
"""Rows of the table for clients that weigh alike -> what is averaged there."""


@dataclass(frozen=True)
class Together:
    """Some of the clients, by place, and how they are combined."""

    combiner: Combiner
    places: Integers
    weights_K: Floats
    state: State


@dataclass(frozen=True)
class Weighed:
    """The clients that finished, and how the ensemble weighs them.

    Attributes:
        average: what is averaged (see `distens.distill.protocol.Average`).
        learned: whether the weights were; else they are uniform.
        counts_MC: rows of each class.
    """

    entries: Sequence[Finished]
    weights_M: Floats
    average: Average
    learned: bool
    counts_MC: Integers

    @classmethod
    def uniform(cls, entries: Sequence[Finished], average: Average, counts_MC: Integers) -> Weighed:
        """Return clients that weigh alike."""
        return cls(entries, _alike(entries), average, False, counts_MC)

    def ensembles(self) -> dict[str, Together]:
        """Return row of the table -> how clients are combined there; those without a weight are left out."""
        found = {ENSEMBLE: self._together(self.average, self.weights_M)}
        for name, average in KNOWN.items():
            if self.learned or average != self.average:
                found[name] = self._together(average, _alike(self.entries))
        return found

    def _together(self, average: Average, weights_M: Floats) -> Together:
        places = np.flatnonzero(weights_M > 0)
        weights = weights_M[places]
        combiner: Combiner = {"logits": Geometric, "probabilities": Linear, "classwise": Classwise}[average]()
        if average == "classwise":
            weights = of_each_class(weights[:, None] * class_shares(self.counts_MC[places]))
        return Together(combiner, places, weights_M[places], State({"weights": weights}))


def _alike(entries: Sequence[Finished]) -> Floats:
    return np.full(len(entries), 1 / len(entries))
