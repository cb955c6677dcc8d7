"""Pieces of the rows sorted by label, a few for each client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.partition._rows import check_client_count, name_clients, rows_by_owner
from distens.partition.protocol import ColumnReader
from distens.records import Integers


@dataclass(frozen=True)
class Shards:
    """Shards of the rows sorted by label, dealt out to clients (McMahan et al. 2017, "pathological non-IID").

    The sorted rows are cut into clients * per_client shards; rows of one label stay in their order. Shards differ by
    one row at most, and all rows are used; the paper's sizes divide without remainder.

    Attributes:
        per_client: the number of shards of each client, which has about as many classes if classes are large.
    """

    per_client: Annotated[int, Ge(1)] = 2

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: ColumnReader
    ) -> dict[str, Integers]:
        """Return each client's rows (see `Partitioner`)."""
        count = check_client_count(clients, len(labels_N), "shards", self.per_client)
        owner_S = rng.permutation(np.repeat(np.arange(count), self.per_client))
        owner_N = np.empty(len(labels_N), dtype=np.int64)
        owner_N[np.argsort(labels_N, kind="stable")] = owner_S[np.arange(len(labels_N)) * len(owner_S) // len(labels_N)]
        return rows_by_owner(owner_N, name_clients(count))
