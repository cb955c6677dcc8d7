"""Clients among whom every class is divided by shares of its own, from a Dirichlet distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.errors import DataError
from distens.partition._rows import WHERE, Alpha, check_client_count, draw_rows_by_counts
from distens.partition.protocol import ColumnReader
from distens.records import Integers

_DRAWS = 2000


@dataclass(frozen=True)
class DirichletClasses:
    """Dirichlet shares of each class: clients differ both in their classes and in their sizes.

    For each class in turn, shares are drawn from Dir(alpha) for the clients that have fewer than N / K rows so far. All
    classes are drawn again until every client has `least` rows. All rows are used. In `dirichlet_clients`, sizes do not
    depend on alpha.

    As in the code of Yurochkin et al. 2019, "Bayesian Nonparametric Federated Learning of Neural Networks", and of Li
    et al. 2022, "Federated Learning on Non-IID Data Silos". Where we differ: that code draws shares of all clients,
    sets those of large clients to 0 and scales the others up. Drawn for the others alone, shares have the same
    distribution, and cannot all be 0.

    Attributes:
        alpha: the lower it is, the fewer clients have rows of a class.
        least: the least number of rows of a client.
    """

    alpha: Alpha = 0.3
    least: Annotated[int, Ge(1)] = 10

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: ColumnReader
    ) -> dict[str, Integers]:
        """Return each client's rows (see `Partitioner`)."""
        count = check_client_count(clients, len(labels_N), "dirichlet_classes", self.least)
        rows_C = np.bincount(labels_N, minlength=classes)
        most = 0
        for _ in range(_DRAWS):
            counts_KC = self._counts(rows_C, count, rng)
            smallest = int(counts_KC.sum(axis=1).min())
            if smallest >= self.least:
                return draw_rows_by_counts(labels_N, counts_KC, rng)
            most = max(most, smallest)
        raise DataError(
            f"{WHERE}: in {_DRAWS:,} draws of 'dirichlet_classes' with alpha {self.alpha:g}, {count} clients of "
            f"{len(labels_N)} rows in {np.count_nonzero(rows_C)} classes, a client always had fewer than `least: "
            f"{self.least}` rows (at best {most}). Take a higher alpha, a lower least, or fewer clients; or "
            "`dirichlet_clients`, whose clients have equal sizes"
        )

    def _counts(self, rows_C: Integers, clients: int, rng: np.random.Generator) -> Integers:
        counts_CK = np.zeros((len(rows_C), clients), dtype=np.int64)
        size_K = np.zeros(clients, dtype=np.int64)
        for counts_K, rows in zip(counts_CK, rows_C, strict=True):
            room_K = size_K * clients < rows_C.sum()
            shares_K = np.zeros(clients)
            shares_K[room_K] = rng.dirichlet(np.full(room_K.sum(), self.alpha))
            upto_K = np.cumsum(shares_K)
            counts_K[:] = np.diff((upto_K / upto_K[-1] * rows).astype(np.int64), prepend=0)
            size_K += counts_K
        return counts_CK.T
