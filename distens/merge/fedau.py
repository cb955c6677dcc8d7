"""Weights for clients whose rates of participation are unknown.

Wang and Ji 2024, "A Lightweight Method for Tackling Unknown Participation Statistics in Federated Averaging", ICLR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt

from distens.merge._weights import require_updates, weighted_sum
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class FedAU:
    """FedAU: w = w + rate / N sum_k o_k (w_k - w), over the clients that took part, N the number of all clients.

    o_k estimates 1 / (the share of rounds in which k takes part): it is the mean length, in rounds, of k's intervals so
    far from one participation to the next (algorithm 2). An interval ends, and another begins, when it is `cap` rounds
    long: a client that comes back after a long absence would otherwise outweigh all others. o_k is 1 before the first
    interval has ended, and an interval that ends in this round counts from the next round. So all clients' losses count
    the same, however often the clients take part; rows do not count. o_k is computed from the rounds that k took part
    in, and the rule keeps no memory.

    Attributes:
        cap: K in the paper; larger is less biased, and less steady.
        rate: the server's learning rate.
    """

    cap: Annotated[int, Ge(2)] = 50
    rate: Annotated[float, Gt(0)] = 1.0

    def merge(self, round: Round) -> Merged:
        """Return the new weights (see `Merger`); `shares_K` are o_k, scaled to sum 1.

        The factors of the changes, rate o_k / N, sum to more or less than 1: even if all updates are equal, the new
        weights may differ from them.
        """
        require_updates(round.updates)
        taken = [round.taken.get(update.client, ()) for update in round.updates]
        intervals_K = np.array([mean_interval(rounds, round.number, self.cap) for rounds in taken])
        parts_K = self.rate * intervals_K / round.clients
        weights_P = weighted_sum(round.updates, parts_K, round.start_P)
        return Merged(weights_P, shares_K=intervals_K / intervals_K.sum())


def mean_interval(taken: Sequence[int], number: int, cap: int) -> float:
    """Return o_k of a client in round `number`, from the rounds before it.

    Args:
        taken: the earlier rounds in which the client took part, ascending.
    """
    lengths = [after - before for before, after in zip([-1, *taken], taken, strict=False)]
    absent = number - 1 - (taken[-1] if taken else -1)
    ended = sum(-(-length // cap) for length in lengths) + absent // cap  # the last one: only its full parts
    return (sum(lengths) + absent // cap * cap) / ended if ended else 1.0
