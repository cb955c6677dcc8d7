"""Clients that each have a random sample of all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distens.partition._rows import counted, numbered, of_owners
from distens.partition.protocol import Column
from distens.records import Integers


@dataclass(frozen=True)
class Iid:
    """IID clients: the rows are shuffled and dealt out (McMahan et al. 2017, "IID").

    The paper is "Communication-Efficient Learning of Deep Networks from Decentralized Data". Sizes differ by one row at
    most, and all rows are used.
    """

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: Column
    ) -> dict[str, Integers]:
        """Return each client's rows (see `Partitioner`)."""
        count = counted(clients, len(labels_N), "iid")
        return of_owners(rng.permutation(np.arange(len(labels_N)) % count), numbered(count))
