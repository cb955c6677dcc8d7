"""Control variates against drift (Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging", ICML)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Gt

from distens.merge._weights import blocks, equal_shares, remembered
from distens.merge.protocol import Correction, Memory, Merged, Round
from distens.records import Floats


@dataclass(frozen=True)
class Scaffold:
    """Scaffold: each client's gradient is corrected by control variates, g - c_k + c (algorithm 1, option II).

        c_k+ = c_k - c + (w - w_k) / (sum of k's rates)   w = w + rate mean_k (w_k - w)   c = c + 1/N sum_k (c_k+ - c_k)

    over the clients that took part, N the number of all clients. (w - w_k) / (sum of rates) is the mean of the
    corrected gradients along k's path; so c_k+ is the mean of its gradients without the correction, and c is the mean
    of all clients' c_k. All are 0 at first. This holds for gradient descent without momentum. Rows do not count.

    Where we differ: the server computes c_k+ and keeps it, so that clients need no memory between rounds, and may be
    lost; this takes the memory of one network for each client. Where the learning rate changes within a round, it
    weights the gradients.

    Attributes:
        rate: the server's learning rate.
    """

    plain_steps: ClassVar[Literal[True]] = True

    rate: Annotated[float, Gt(0)] = 1.0

    def merge(self, round: Round) -> Merged:
        """Return the new weights (see `Merger`); `shares_K` are 1/K. Memory: `c`, and c_k of each client.

        Raises:
            ValueError: there are no updates, or a client made no step.
        """
        updates, size = round.updates, len(round.start_P)
        shares_K = equal_shares(updates)
        if idle := [update.client for update in updates if not update.rate_sum > 0]:
            raise ValueError(f"needs at least one local step of every client, found none by {', '.join(idle)}")
        rates_K = np.array([update.rate_sum for update in updates])
        names = [f"client/{update.client}" for update in updates]
        before_P, own_before = (
            remembered(round.memory, "c", size),
            [remembered(round.memory, name, size) for name in names],
        )
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
        return Correction(shift_P=memory["c"] - remembered(memory, f"client/{client}", len(start_P)))
