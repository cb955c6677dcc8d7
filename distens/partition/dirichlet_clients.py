"""Clients that each have a class prior of their own, from a Dirichlet distribution; of equal size by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from distens.data.splits import apportion
from distens.partition._rows import Alpha, check_client_count, draw_rows_by_counts
from distens.partition.protocol import ColumnReader
from distens.records import Floats, Integers


@dataclass(frozen=True)
class DirichletClients:
    """Dirichlet priors of clients: every client draws a prior over classes from Dir(alpha).

    Rows are dealt out one by one, in random order of clients. The class of a row is drawn from the client's prior,
    among the classes that have rows left.

    As in the code of Acar et al. 2021, "Federated Learning Based on Dynamic Regularization", of FedFTG and of
    Co-Boosting. In `dirichlet_classes`, sizes depend on alpha too. Where we differ: that code draws again while a class
    is exhausted, for ever if a prior has mass on exhausted classes alone; here the other classes then have equal
    probabilities. With `sigma: 0` sizes differ by one row at most. All rows are used.

    Attributes:
        alpha: the lower it is, the fewer classes a client has.
        sigma: the standard deviation of the logarithm of sizes, which are log-normal (at least one row); 0 for equal
            sizes.
    """

    alpha: Alpha = 0.3
    sigma: Annotated[float, Ge(0), Le(10)] = 0.0

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: ColumnReader
    ) -> dict[str, Integers]:
        """Return each client's rows (see `Partitioner`)."""
        count = check_client_count(clients, len(labels_N), "dirichlet_clients")
        sizes_K = apportion(len(labels_N), rng.lognormal(0.0, self.sigma, count), least=1)
        priors_KC = rng.dirichlet(np.full(classes, self.alpha), count)
        rows_C = np.bincount(labels_N, minlength=classes)
        return draw_rows_by_counts(labels_N, _deal_rows(priors_KC, sizes_K, rows_C, rng), rng)


def _deal_rows(priors_KC: Floats, sizes_K: Integers, rows_C: Integers, rng: np.random.Generator) -> Integers:
    """Return counts_KC, the number of rows of each class that are dealt to each client.

    All deals are drawn at once and hold up to the first one whose class is exhausted; the rest are drawn anew without
    that class. That is the same as drawing one by one, in at most C + 1 turns.
    """
    left_C, counts_KC = rows_C.copy(), np.zeros(priors_KC.shape, dtype=np.int64)
    client_D = rng.permutation(np.repeat(np.arange(len(sizes_K)), sizes_K))
    while len(client_D):
        class_D = _draw_classes(priors_KC, left_C > 0, client_D, rng)
        held = _until_exhausted(class_D, left_C)
        np.add.at(counts_KC, (client_D[:held], class_D[:held]), 1)
        left_C -= np.bincount(class_D[:held], minlength=len(left_C))
        client_D = client_D[held:]
    return counts_KC


def _draw_classes(
    priors_KC: Floats, open_C: NDArray[np.bool_], client_D: Integers, rng: np.random.Generator
) -> Integers:
    """Return class_D, the class of each deal, drawn from its client's prior over the open classes."""
    mass_KC = priors_KC * open_C
    mass_KC = np.where(mass_KC.sum(axis=1, keepdims=True) > 0, mass_KC, open_C)
    upto_KC = np.cumsum(mass_KC, axis=1)
    upto_KC /= upto_KC[:, -1:]
    # One sorted list for all clients: client k's part of it lies between k and k + 1. The factor keeps rounding from
    # bringing a draw to k + 1.
    draw_D = client_D + rng.random(len(client_D)) * (1 - 1e-9)
    list_KC = upto_KC + np.arange(len(upto_KC))[:, None]
    return np.searchsorted(list_KC.ravel(), draw_D, side="right") - client_D * len(open_C)


def _until_exhausted(class_D: Integers, left_C: Integers) -> int:
    """Return the number of draws before the first one whose class earlier draws have used up."""
    order_D = np.argsort(class_D, kind="stable")
    counts_C = np.bincount(class_D, minlength=len(left_C))
    start_C = np.cumsum(counts_C) - counts_C
    over_C = np.flatnonzero(counts_C > left_C)
    return int(order_D[start_C[over_C] + left_C[over_C]].min(initial=len(class_D)))
