"""Clients that differ in their number of rows, and in nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.data.splits import apportion
from distens.partition._rows import Alpha, check_client_count, name_clients, rows_by_owner
from distens.partition.protocol import ColumnReader
from distens.records import Integers


@dataclass(frozen=True)
class Quantity:
    """Quantity skew: sizes are shares from Dir(alpha), rows are dealt out at random (Li et al. 2022).

    The paper is "Federated Learning on Non-IID Data Silos". All rows are used. Where we differ: the authors draw again
    until the smallest size is large enough. Here a small size takes what it lacks from the sizes above their share,
    which ends for every alpha.

    Attributes:
        alpha: the lower it is, the more the sizes differ.
        least: the least number of rows of a client.
    """

    alpha: Alpha = 0.5
    least: Annotated[int, Ge(1)] = 10

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: ColumnReader
    ) -> dict[str, Integers]:
        """Return each client's rows (see `Partitioner`)."""
        count = check_client_count(clients, len(labels_N), "quantity", self.least)
        sizes_K = apportion(len(labels_N), rng.dirichlet(np.full(count, self.alpha)), self.least)
        return rows_by_owner(rng.permutation(np.repeat(np.arange(count), sizes_K)), name_clients(count))
