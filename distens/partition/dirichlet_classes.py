"""Every class is divided among the clients by shares of its own, from a Dirichlet distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.errors import DataError
from distens.partition._rows import WHERE, Alpha, counted, of_counts
from distens.partition.protocol import Column
from distens.records import Integers

_DRAWS = 2000


@dataclass(frozen=True)
class DirichletClasses:
    """For each class in turn, shares from Dir(alpha) of the clients with fewer than N / K rows; all again until every
    client has `least` rows. All rows are used; classes and sizes differ, in contrast to `dirichlet_clients`.

    As in the code of Yurochkin et al. 2019, "Bayesian Nonparametric Federated Learning of Neural Networks", and of Li
    et al. 2022, "Federated Learning on Non-IID Data Silos". It draws shares of all clients, puts those of large ones to
    0 and scales the others up: theirs then have the same distribution, and cannot all be 0.

    Attributes:
        alpha: the lower, the fewer clients have rows of a class.
        least: rows that every client has at least.
    """

    alpha: Alpha = 0.3
    least: Annotated[int, Ge(1)] = 10

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: Column
    ) -> dict[str, Integers]:
        """Return each client's rows (see `Partitioner`)."""
        count = counted(clients, len(labels_N), "dirichlet_classes", self.least)
        rows_C = np.bincount(labels_N, minlength=classes)
        most = 0
        for _ in range(_DRAWS):
            counts_KC = self._counts(rows_C, count, rng)
            smallest = int(counts_KC.sum(axis=1).min())
            if smallest >= self.least:
                return of_counts(labels_N, counts_KC, rng)
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
