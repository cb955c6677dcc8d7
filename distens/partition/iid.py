"""Clients that each have a random sample of all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distens.partition._rows import check_client_count, name_clients, rows_by_owner
from distens.partition.protocol import ColumnReader
from distens.records import Integers


@dataclass(frozen=True)
class Iid:
    """IID clients: the rows are shuffled and dealt out (McMahan et al. 2017, "IID").

    The paper is "Communication-Efficient Learning of Deep Networks from Decentralized Data". Sizes differ by one row at
    most, and all rows are used.
    """

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: ColumnReader
    ) -> dict[str, Integers]:
        """Return each client's rows (see `Partitioner`)."""
        count = check_client_count(clients, len(labels_N), "iid")
        return rows_by_owner(rng.permutation(np.arange(len(labels_N)) % count), name_clients(count))
