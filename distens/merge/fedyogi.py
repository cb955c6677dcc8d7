"""Yogi on the server (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2, FedYogi)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Lt

from distens.merge._adaptive import merge_adaptively
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class FedYogi:
    """FedYogi: v = v - (1 - beta2) d^2 sign(v - d^2), like Adam, but v falls slowly if it is large (see `_adaptive`).

    So one round of large changes is not forgotten at once, and rare features keep their pace.

    Attributes:
        rate: the server's learning rate: about how far a weight moves in a round.
        beta1: decay of the running mean of changes; 0 keeps no mean.
        beta2: v changes by (1 - beta2) d^2 in a round.
        tau: keeps the divisor from zero; the smaller, the more adaptive.
    """

    rate: Annotated[float, Gt(0)] = 0.01
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.99
    tau: Annotated[float, Gt(0)] = 1e-3

    def merge(self, round: Round) -> Merged:
        """Return the new weights (see `adapted`)."""
        pace = 1 - self.beta2
        return merge_adaptively(
            round,
            self.rate,
            self.beta1,
            self.tau,
            lambda v_B, square_B: v_B - pace * square_B * np.sign(v_B - square_B),
        )
