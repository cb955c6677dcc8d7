"""Clients that have only a few classes each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.errors import DataError
from distens.partition._rows import WHERE, check_client_count, draw_rows_by_counts
from distens.partition.protocol import ColumnReader
from distens.records import Integers


@dataclass(frozen=True)
class Classes:
    """Classes per client: every client holds exactly `per_client` classes (Li et al. 2022, "#C = k").

    Every class has a holder, its holders divide its rows equally, and all rows are used. Where we differ: the authors
    give client k class k mod C and draw the others, so that a class may have any number of holders. Here the numbers of
    holders differ by one at most, except for classes that have fewer rows.

    Attributes:
        per_client: the number of classes of each client.
    """

    per_client: Annotated[int, Ge(1)] = 2

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: ColumnReader
    ) -> dict[str, Integers]:
        """Return each client's rows (see `Partitioner`)."""
        count = check_client_count(clients, len(labels_N), "classes")
        rows_C = np.bincount(labels_N, minlength=classes)
        holds_KC = _assign_classes(self._holders(rows_C, count, rng), count, self.per_client, rng)
        rank_KC = np.cumsum(holds_KC, axis=0) - 1  # a client's rank among the holders of a class
        holders_C = np.maximum(holds_KC.sum(axis=0), 1)
        counts_KC = holds_KC * (rows_C // holders_C + (rank_KC < rows_C % holders_C))
        return draw_rows_by_counts(labels_N, counts_KC, rng)

    def _holders(self, rows_C: Integers, clients: int, rng: np.random.Generator) -> Integers:
        """Return holders_C, the number of clients that hold each class: as equal as its rows allow, the rest at random.

        Raises:
            DataError: the clients have fewer places than there are classes, or more than the classes can fill.
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


def _assign_classes(holders_C: Integers, clients: int, per_client: int, rng: np.random.Generator) -> Integers:
    """Return holds_KC: 1 where a client holds a class, else 0.

    One client after the other takes the classes that lack most holders, among equal ones at random. Then no client ever
    runs short of distinct classes (Gale and Ryser's theorem).
    """
    lack_C, holds_KC = holders_C.copy(), np.zeros((clients, len(holders_C)), dtype=np.int64)
    for holds_C in holds_KC:
        taken = np.lexsort((rng.random(len(lack_C)), -lack_C))[:per_client]
        holds_C[taken], lack_C[taken] = 1, lack_C[taken] - 1
    assert not lack_C.any()
    return holds_KC
