"""The clients of another run, so that two methods see the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import MinLen

from distens.errors import DataError, StorageError
from distens.partition._rows import WHERE, refuse_client_count
from distens.partition.protocol import ColumnReader, Partition, digest_labels
from distens.records import Integers
from distens.storage.store import Store


@dataclass(frozen=True)
class Stored:
    """The partition of another run, read from its folder; only for the same rows in the same order.

    Attributes:
        path: the run's folder, local or any pyarrow address.
    """

    path: Annotated[str, MinLen(1)]

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: ColumnReader
    ) -> dict[str, Integers]:
        """Return each client's rows (see `Partitioner`)."""
        refuse_client_count(clients, "stored")
        where = f"{WHERE}.path {self.path!r}"
        try:
            found = Partition.read(Store(self.path))
        except StorageError as error:
            raise DataError(f"{where}: {error}") from error
        if found.total != len(labels_N):
            raise DataError(
                f"{where}: divides the {found.total} rows of another train split; this one has {len(labels_N)}. "
                "Take the same data section and seed as that run"
            )
        if found.labels_sha256 != digest_labels(labels_N):
            raise DataError(
                f"{where}: the labels differ: the number of rows is the same ({found.total}), but the data or the "
                "order of rows is not. "
                "Take the same data section and seed as that run"
            )
        return dict(found.rows)
