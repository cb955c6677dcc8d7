"""Every client has a few classes only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.errors import DataError
from distens.partition._rows import WHERE, counted, of_counts
from distens.partition.protocol import Column
from distens.records import Integers


@dataclass(frozen=True)
class Classes:
    """Every client holds exactly `per_client` classes, every class has a holder, and its holders divide its rows
    equally (Li et al. 2022, "#C = k"). All rows are used.

    The authors give client k class k mod C and draw the others, so that a class may have any number of holders. Here
    classes have equally many, but for those with fewer rows than that.

    Attributes:
        per_client: classes of each client.
    """

    per_client: Annotated[int, Ge(1)] = 2

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: Column
    ) -> dict[str, Integers]:
        """Return each client's rows (see `Partitioner`)."""
        count = counted(clients, len(labels_N), "classes")
        rows_C = np.bincount(labels_N, minlength=classes)
        holds_KC = _holds(self._holders(rows_C, count, rng), count, self.per_client, rng)
        rank_KC = np.cumsum(holds_KC, axis=0) - 1  # of a client among the holders of a class
        holders_C = np.maximum(holds_KC.sum(axis=0), 1)
        counts_KC = holds_KC * (rows_C // holders_C + (rank_KC < rows_C % holders_C))
        return of_counts(labels_N, counts_KC, rng)

    def _holders(self, rows_C: Integers, clients: int, rng: np.random.Generator) -> Integers:
        """Return how many clients are to hold each class: as equal as its rows allow, at random where one is over.

        Raises:
            DataError: clients have fewer places than there are classes, or more than classes can fill.
        """
        present, places, most_C = np.count_nonzero(rows_C), clients * self.per_client, np.minimum(rows_C, clients)
        asked = f"{WHERE}: {clients} client{'s' * (clients > 1)} with `per_client: {self.per_client}`"
        if places < present:
            raise DataError(
                f"{asked} hold {places} classes at most, and {present} have rows. Every class needs a holder: "
                f"allowed are at least {-(-present // clients)} per client, or {-(-present // self.per_client)} clients"
            )
        if self.per_client > present:
            raise DataError(f"{asked}, but only {present} classes have rows. Allowed: at most {present}")
        if places > most_C.sum():
            raise DataError(
                f"{asked} need {places} holders of classes, and a class has at most one for each of its rows: "
                f"{most_C.sum()} in all. Allowed: at most {most_C.sum() // clients} per client, or fewer clients"
            )
        holders_C = np.zeros(len(rows_C), dtype=np.int64)
        while (left := places - holders_C.sum()) > 0:
            holders_C[rng.permutation(np.flatnonzero(holders_C < most_C))[:left]] += 1
        return holders_C


def _holds(holders_C: Integers, clients: int, per_client: int, rng: np.random.Generator) -> Integers:
    """Return whether (1 or 0) each client holds each class: one client after the other takes those that lack most
    holders, equal ones at random. Then none is ever short of distinct classes (Gale and Ryser's theorem).
    """
    lack_C, holds_KC = holders_C.copy(), np.zeros((clients, len(holders_C)), dtype=np.int64)
    for holds_C in holds_KC:
        taken = np.lexsort((rng.random(len(lack_C)), -lack_C))[:per_client]
        holds_C[taken], lack_C[taken] = 1, lack_C[taken] - 1
    assert not lack_C.any()
    return holds_KC
