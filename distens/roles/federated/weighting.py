"""The clients as an ensemble: what is averaged, and with which weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distens.combine.average import Average as Linear
from distens.combine.classwise import Classwise
from distens.combine.geometric import Geometric
from distens.combine.protocol import Combiner
from distens.counts import class_shares
from distens.distill.protocol import Average
from distens.records import Finished, Floats, Integers, State

ENSEMBLE = "ensemble"
UNIFORM_ENSEMBLES: Mapping[str, Average] = {
    "uniform_ensemble": "logits",
    "average_ensemble": "probabilities",
    "classwise_ensemble": "classwise",
}
"""Rows of the table for clients of equal weights -> what is averaged there."""


@dataclass(frozen=True)
class ClientEnsemble:
    """An ensemble of some of the clients: their places among all, their weights, and the combiner with its state."""

    combiner: Combiner
    places: Integers
    weights_K: Floats
    state: State

    def probs_NC(self, probs_MNC: Floats) -> Floats:
        """Return the ensemble's predictions, from those of all clients."""
        return self.combiner.combine(probs_MNC[self.places], self.state)


def combine_clients(average: Average, weights_M: Floats, counts_MC: Integers) -> ClientEnsemble:
    """Return the ensemble of the clients with a weight above zero.

    Args:
        average: what is averaged (see `distens.distill.protocol.Average`).
        weights_M: the clients' weights, which sum to one.
        counts_MC: their numbers of rows of each class.
    """
    places = np.flatnonzero(weights_M > 0)
    weights_K = weights = weights_M[places]
    combiner: Combiner = {"logits": Geometric, "probabilities": Linear, "classwise": Classwise}[average]()
    if average == "classwise":
        weights = class_shares(weights[:, None] * class_shares(counts_MC[places]))
    return ClientEnsemble(combiner, places, weights_K, State({"weights": weights}))


@dataclass(frozen=True)
class WeightedClients:
    """The clients that finished, with their weights in the ensemble.

    Attributes:
        entries: the clients' finished tasks.
        average: what is averaged (see `distens.distill.protocol.Average`).
        counts_MC: their numbers of rows of each class.
        learned_M: weights that were learned, which sum to one; None: all clients have the same weight.
    """

    entries: Sequence[Finished]
    average: Average
    counts_MC: Integers
    learned_M: Floats | None = None

    @property
    def weights_M(self) -> Floats:
        """Return the ensemble's weights."""
        return self._alike_M() if self.learned_M is None else self.learned_M

    def ensembles(self) -> dict[str, ClientEnsemble]:
        """Return row of the table -> the ensemble of clients there; clients whose weight is zero are left out."""
        found = {ENSEMBLE: combine_clients(self.average, self.weights_M, self.counts_MC)}
        for name, average in UNIFORM_ENSEMBLES.items():
            if self.learned_M is not None or average != self.average:
                found[name] = combine_clients(average, self._alike_M(), self.counts_MC)
        return found

    def _alike_M(self) -> Floats:
        return np.full(len(self.entries), 1 / len(self.entries))
