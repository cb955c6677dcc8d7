"""Adagrad on the server (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2, FedAdagrad)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Lt

from distens.merge._adaptive import merge_adaptively
from distens.merge.protocol import Merged, Round


@dataclass(frozen=True)
class FedAdagrad:
    """FedAdagrad: v = v + d^2, so steps only shrink, and more for weights that have moved more (see `_adaptive`).

    Attributes:
        rate: the server's learning rate: about how far a weight moves in the first round.
        beta1: decay of the running mean of changes; 0, plain Adagrad, keeps no mean.
        tau: keeps the divisor from zero; the smaller, the more adaptive.
    """

    rate: Annotated[float, Gt(0)] = 0.01
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.0
    tau: Annotated[float, Gt(0)] = 1e-3

    def merge(self, round: Round) -> Merged:
        """Return the new weights (see `adapted`)."""
        return merge_adaptively(round, self.rate, self.beta1, self.tau, np.add)
