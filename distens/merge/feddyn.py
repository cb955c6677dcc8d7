"""Losses regularised anew every round (Acar et al. 2021, "Federated Learning Based on Dynamic Regularization")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt

from distens.merge._weights import blocks, equal_shares, remembered
from distens.merge.protocol import Correction, Memory, Merged, Round
from distens.records import Floats


@dataclass(frozen=True)
class FedDyn:
    """FedDyn: clients are pulled to the global weights and off their own minima; the server goes beyond their mean.

        client k minimises  L_k(w) + alpha <l_k, w> + alpha/2 |w - start|^2

        l_k = l_k + (w_k - start)       w = mean_k w_k + 1/N sum_(all j) l_j

    over the clients that took part, N the number of all clients; l_k is 0 at first. If client k reached its minimum,
    -alpha l_k is the gradient of L_k there. So if all clients end in one point and l no longer changes, their gradients
    sum to zero there. (Algorithm 1, in the form of the authors' code; h in the paper is -alpha times the mean of l.)

    Where we differ: the server keeps l_k, so that clients need no memory between rounds, and may be lost; this takes
    the memory of one network for each client. And alpha is the same for all clients, as in the paper; the code divides
    it by the client's share of the rows.

    Attributes:
        alpha: the strength of the pull to the global weights; a smaller one lets clients move further in a round.
    """

    alpha: Annotated[float, Gt(0)] = 0.01

    def merge(self, round: Round) -> Merged:
        """Return the new weights (see `Merger`); `shares_K` are the 1/K of the mean.

        Memory: `drift`, the mean of all l_j, and l_k of each client.
        """
        updates, size = round.updates, len(round.start_P)
        shares_K = equal_shares(updates)
        names = [f"client/{update.client}" for update in updates]
        before_P, own_before = (
            remembered(round.memory, "drift", size),
            [remembered(round.memory, name, size) for name in names],
        )
        memory = {name: np.empty(size, dtype=np.float32) for name in ["drift", *names]}
        weights_P = np.empty(size, dtype=np.float32)
        for place, change_KB in blocks(updates):
            change_KB -= round.start_P[place]
            drift_B = before_P[place] + change_KB.sum(axis=0) / round.clients
            memory["drift"][place] = drift_B
            weights_P[place] = round.start_P[place] + shares_K @ change_KB + drift_B
            for name, own_P, change_B in zip(names, own_before, change_KB, strict=True):
                memory[name][place] = own_P[place] + change_B
        return Merged(weights_P, {**round.memory, **memory}, shares_K)

    def correct(self, client: str, memory: Memory, start_P: Floats) -> Correction:
        """Return the pull alpha, and alpha l_k as the shift; no shift before the client's first update was merged."""
        own_P = memory.get(f"client/{client}")
        return Correction(self.alpha, None if own_P is None else np.float32(self.alpha) * own_P)
