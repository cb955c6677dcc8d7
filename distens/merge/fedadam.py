"""Adam on the server (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2, FedAdam)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from distens.merge._adaptive import adapted
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class FedAdam:
    """v = beta2 v + (1 - beta2) d^2: numbers that move little are moved as far as the others (see `_adaptive`).

    Attributes:
        rate: the server's learning rate: about how far a number moves in a round.
        beta1: of the running mean of changes; 0 for none.
        beta2: of the running mean of their squares.
        tau: what keeps the divisor from zero; the smaller, the more adaptive.
    """

    rate: Annotated[float, Gt(0)] = 0.01
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.99
    tau: Annotated[float, Gt(0)] = 1e-3

    def merge(self, round: Round) -> Merged:
        """Return the new weights (see `adapted`)."""
        keep = self.beta2
        return adapted(round, self.rate, self.beta1, self.tau, lambda v_B, square_B: keep * v_B + (1 - keep) * square_B)
