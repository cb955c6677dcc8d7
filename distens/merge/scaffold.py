"""Control variates against drift (Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging", ICML)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Gt

from distens.merge._weights import blocks, equal, kept
from distens.merge.protocol import Correction, Memory, Merged, Round
from distens.records import Floats


@dataclass(frozen=True)
class Scaffold:
    """Each client's gradient is corrected by what is known of everybody's: g - c_k + c (algorithm 1, option II).

        c_k+ = c_k - c + (w - w_k) / (sum of k's rates)   w = w + rate mean_k (w_k - w)   c = c + 1/N sum_k (c_k+ - c_k)

    over those that took part, N being all the clients. (w - w_k) / (sum of rates) is the mean of the gradients along
    k's way, correction included; so c_k+ is that of its own, and c the mean of everybody's, all 0 at first. It holds
    for gradient descent without momentum. Rows do not count.

    Where we differ: the server computes c_k+ and keeps it, so that clients need no memory between rounds, and may be
    lost; that costs as many numbers as it has clients, times the network's. Where the learning rate changes within a
    round, gradients are weighted by it.

    Attributes:
        rate: the server's learning rate.
    """

    plain_steps: ClassVar[Literal[True]] = True

    rate: Annotated[float, Gt(0)] = 1.0

    def merge(self, round: Round) -> Merged:
        """Return the new weights (see `Merger`); `shares_K` are 1/K. Memory: `c`, and c_k of each client.

        Raises:
            ValueError: there are no updates, or one that made no step.
        """
        updates, size = round.updates, len(round.start_P)
        shares_K = equal(updates)
        if idle := [update.client for update in updates if not update.rate_sum > 0]:
            raise ValueError(f"needs clients that made a step, found none by {', '.join(idle)}")
        rates_K = np.array([update.rate_sum for update in updates])
        names = [f"client/{update.client}" for update in updates]
        before_P, own_before = kept(round.memory, "c", size), [kept(round.memory, name, size) for name in names]
        memory = {name: np.empty(size, dtype=np.float32) for name in ["c", *names]}
        weights_P = np.empty(size, dtype=np.float32)
        for place, change_KB in blocks(updates):
            change_KB -= round.start_P[place]
            weights_P[place] = round.start_P[place] + self.rate * (shares_K @ change_KB)
            change_KB /= -rates_K[:, None]
            change_KB -= before_P[place]  # c_k+ - c_k
            memory["c"][place] = before_P[place] + change_KB.sum(axis=0) / round.clients
            for name, own_P, change_B in zip(names, own_before, change_KB, strict=True):
                memory[name][place] = own_P[place] + change_B
        return Merged(weights_P, {**round.memory, **memory}, shares_K)

    def correct(self, client: str, memory: Memory, start_P: Floats) -> Correction:
        """Return c - c_k as the shift; none before the first round has ended."""
        if "c" not in memory:
            return Correction()
        return Correction(shift_P=memory["c"] - kept(memory, f"client/{client}", len(start_P)))
