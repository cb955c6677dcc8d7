"""Adam on the server (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2, FedAdam)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from distens.merge._adaptive import merge_adaptively
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class FedAdam:
    """FedAdam: v = beta2 v + (1 - beta2) d^2, so weights of small changes move as far as others (see `_adaptive`).

    Attributes:
        rate: the server's learning rate: about how far a weight moves in a round.
        beta1: decay of the running mean of changes; 0 keeps no mean.
        beta2: decay of the running mean of their squares.
        tau: keeps the divisor from zero; the smaller, the more adaptive.
    """

    rate: Annotated[float, Gt(0)] = 0.01
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.99
    tau: Annotated[float, Gt(0)] = 1e-3

    def merge(self, round: Round) -> Merged:
        """Return the new weights (see `adapted`)."""
        keep = self.beta2
        return merge_adaptively(
            round, self.rate, self.beta1, self.tau, lambda v_B, square_B: keep * v_B + (1 - keep) * square_B
        )
