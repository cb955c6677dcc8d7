"""Steps that several partitioners share: the number and names of clients, and the assignment of rows to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le

from distens.errors import DataError
from distens.records import Integers

WHERE = "federated.partition"

Alpha = Annotated[float, Gt(0), Le(1e6)]
"""The parameter of a symmetric Dirichlet distribution: near 0 one share takes all, at the upper end all are equal."""


def check_client_count(clients: int | None, rows: int, kind: str, least: int = 1) -> int:
    """Return the number of clients, after a check that it is possible.

    Raises:
        DataError: `clients` is missing, or there are too few rows for `least` each.
    """
    if clients is None:
        raise DataError(f"{WHERE}: `clients` is missing; {kind!r} needs the number of clients")
    if not 1 <= clients <= rows // least:
        raise DataError(
            f"{WHERE}: {clients} clients with at least {least} row{'s' * (least > 1)} each, and {rows} rows to divide. "
            f"Allowed: from 1 to {rows // least} clients"
        )
    return clients


def refuse_client_count(clients: int | None, kind: str) -> None:
    """Refuse a number of clients that has no effect."""
    if clients is not None:
        raise DataError(f"{WHERE}: {kind!r} determines the clients itself, so `clients: {clients}` has no effect")


def name_clients(clients: int) -> list[str]:
    """Return the clients' names, with as many digits as the last needs: `c0` to `c9`, or `c00` to `c11`."""
    digits = len(str(clients - 1))
    return [f"c{k:0{digits}}" for k in range(clients)]


def rows_by_owner(owner_N: Integers, names: Sequence[str]) -> dict[str, Integers]:
    """Return client's name -> places of its rows, ascending; owner_N is each row's client, as a place in `names`."""
    order_N = np.argsort(owner_N, kind="stable").astype(np.int64)
    ends_K = np.cumsum(np.bincount(owner_N, minlength=len(names)))
    return dict(zip(names, np.split(order_N, ends_K[:-1]), strict=True))


def draw_rows_by_counts(labels_N: Integers, counts_KC: Integers, rng: np.random.Generator) -> dict[str, Integers]:
    """Return client's name -> places of its rows: counts_KC of each class, drawn at random; all rows are used."""
    clients, classes = counts_KC.shape
    assert (counts_KC.sum(axis=0) == np.bincount(labels_N, minlength=classes)).all()
    shuffled_N = rng.permutation(len(labels_N))
    by_class_N = shuffled_N[np.argsort(labels_N[shuffled_N], kind="stable")]
    owner_N = np.empty(len(labels_N), dtype=np.int64)
    owner_N[by_class_N] = np.repeat(np.tile(np.arange(clients), classes), counts_KC.T.ravel())
    return rows_by_owner(owner_N, name_clients(clients))
