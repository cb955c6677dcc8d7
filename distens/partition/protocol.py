"""Whose rows are whose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distens.records import Integers

Column = Callable[[str], NDArray[Any]]
"""A column's name -> its values of the rows that are divided (a table's only).

Raises:
    DataError: there is no such column.
"""


class Partitioner(Protocol):
    """A frozen dataclass whose fields are its options.

    A federation calls it once, before its first round, and keeps what it says:

        >>> import numpy as np
        >>> from distens import registry
        >>> partitioner = registry.build("partition", "iid", "partition")
        >>> labels_N = np.array([0, 1, 0, 1])
        >>> rows = partitioner.divide(labels_N, 2, 2, np.random.default_rng(0), column=lambda name: labels_N)
        >>> sorted(rows), sorted(int(place) for places in rows.values() for place in places)
        (['c0', 'c1'], [0, 1, 2, 3])
    """

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: Column
    ) -> Mapping[str, Integers]:
        """Return client's name -> its rows' places in `labels_N`, ascending; no row twice, every client at least one.

        Names are `c00`, `c01`, … with as many digits as the last needs, but where the data name clients.

        Args:
            clients: how many; None where the partition itself says so.

        Raises:
            DataError: the rows cannot be divided so, or `clients` is missing, or has no effect.
        """
        ...


PLUGINS = (Partitioner,)
"""What a user's own plug-in of this family must be: one of these."""
