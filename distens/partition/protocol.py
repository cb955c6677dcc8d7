"""The division of rows among clients: the protocol of partitioners, and the partition that a run stores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distens.errors import DataError, StorageError, report_damage
from distens.records import Address, Integers, State
from distens.storage.store import Store

ColumnReader = Callable[[str], NDArray[Any]]
"""A function from a column's name to its values in the rows that are divided (of a table only).

Raises:
    DataError: there is no such column.
"""


class Partitioner(Protocol):
    """A rule that divides rows among clients: a frozen dataclass whose fields are its options.

    A federation calls it once, before its first round, and stores the result:

        >>> import numpy as np
        >>> from distens import registry
        >>> partitioner = registry.make_plugin("partition", "iid", "partition")
        >>> labels_N = np.array([0, 1, 0, 1])
        >>> rows = partitioner.divide(labels_N, 2, 2, np.random.default_rng(0), column=lambda name: labels_N)
        >>> sorted(rows), sorted(int(place) for places in rows.values() for place in places)
        (['c0', 'c1'], [0, 1, 2, 3])
    """

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: ColumnReader
    ) -> Mapping[str, Integers]:
        """Return client's name -> places of its rows in `labels_N`, ascending; no row twice, each client at least one.

        Names are `c00`, `c01`, … with as many digits as the last needs, except where the data name the clients.

        Args:
            clients: the number of clients; None where the partitioner's options determine it.

        Raises:
            DataError: the rows cannot be divided as the options ask, or `clients` is missing, or has no effect.
        """
        ...


PLUGINS = (Partitioner,)
"""The protocols of this family; a user's own plug-in must fulfil one of them."""


FILE = "partition.safetensors"


@dataclass(frozen=True, eq=False)
class Partition:
    """The division of a *train* split among clients. Two partitions are the same if their `hash` is.

    Attributes:
        rows: client's name -> places of its rows in the *train* split, int64, ascending; the order of clients is kept.
        rule: kind and options of the partitioner, every default filled in.
        seed: the seed of the generator that the partitioner drew from.
        fingerprint: the fingerprint of the data.
        labels_sha256: `digest_labels` of the split's labels, by which the same rows in the same order are recognised.
        total: N, the number of rows in the split; a partitioner may leave some to no client.
    """

    rows: Mapping[str, Integers]
    rule: Mapping[str, Any]
    seed: int
    fingerprint: str
    labels_sha256: str
    total: int

    @classmethod
    def of(
        cls, rows: Mapping[str, Integers], labels_N: Integers, rule: Mapping[str, Any], seed: int, fingerprint: str
    ) -> Partition:
        """Return the partition of the rows with these labels, as a rule divided them.

        Raises:
            DataError: a client has no rows, its rows are not ascending, or a row is another's too or does not exist.
        """
        taken_N = np.zeros(len(labels_N), dtype=bool)
        for name, places in rows.items():
            where = f"federated.partition: {rule.get('kind')!r} gave client {name!r}"
            if not len(places):
                raise DataError(f"{where} no rows; every client needs at least one")
            if (np.diff(places) <= 0).any() or places[0] < 0 or places[-1] >= len(labels_N):
                raise DataError(f"{where} rows that are not ascending places from 0 to {len(labels_N) - 1}")
            if taken_N[places].any():
                raise DataError(f"{where} {int(taken_N[places].sum())} rows that another client has too")
            taken_N[places] = True
        kept = {name: np.ascontiguousarray(places, dtype=np.int64) for name, places in rows.items()}
        return cls(kept, dict(rule), seed, fingerprint, digest_labels(labels_N), len(labels_N))

    @property
    def hash(self) -> str:
        """Return the SHA-256 of clients, their rows and the data.

        The rule is left out, since it is another in a run that reads a stored partition.
        """
        lengths = {name: len(places) for name, places in self.rows.items()}
        found = hashlib.sha256(json.dumps([self.fingerprint, list(lengths.items())]).encode())
        for places in self.rows.values():
            found.update(np.ascontiguousarray(places, dtype="<i8").tobytes())
        return found.hexdigest()

    def histograms(self, labels_N: Integers, classes: int) -> Integers:
        """Return counts_KC, the number of rows of each class that each client has, in the order of `rows`."""
        return np.array([np.bincount(labels_N[places], minlength=classes) for places in self.rows.values()])

    def to_state(self) -> State:
        """Return the partition as arrays and JSON: clients' rows one after the other, and where each client's lie."""
        ends_K = np.cumsum([len(places) for places in self.rows.values()], dtype=np.int64)
        arrays = {"rows": np.concatenate(list(self.rows.values())), "offsets": np.concatenate([[0], ends_K])}
        values = ("rule", "seed", "fingerprint", "labels_sha256", "total", "hash")
        return State(arrays, {"names": list(self.rows), **{name: getattr(self, name) for name in values}})

    @classmethod
    def from_state(cls, state: State) -> Partition:
        """Rebuild the partition from `to_state`'s value.

        Raises:
            StorageError: the state lacks something, or the partition's hash is not the recorded one.
        """
        with report_damage("a partition"):
            values = dict(state.meta)
            names, recorded = values.pop("names"), values.pop("hash")
            rows, offsets = state.arrays["rows"], state.arrays["offsets"]
            pieces = [rows[start:end] for start, end in pairwise(offsets.tolist())]
            found = cls(dict(zip(names, pieces, strict=True)), **values)
            if rows.dtype.kind not in "iu" or (rows < 0).any() or (rows >= found.total).any():
                raise ValueError(f"its rows are not places from 0 to {found.total - 1}")
            if found.hash != recorded:
                raise ValueError(f"the clients' rows hash to {found.hash[:12]}…, recorded is {str(recorded)[:12]}…")
        return found

    def save(self, store: Store, name: str = FILE) -> Address:
        """Write the partition into a run's folder."""
        return store.write_state(name, self.to_state())

    @classmethod
    def read(cls, store: Store, name: str = FILE) -> Partition:
        """Return the partition that `save` wrote.

        Raises:
            StorageError: there is no partition in the folder, or it is damaged.
        """
        state = store.read_state(name)
        try:
            return cls.from_state(state)
        except StorageError as error:
            raise StorageError(f"{store.url}, {name}: {error}") from error


def digest_labels(labels_N: Integers) -> str:
    """Return the SHA-256 of labels, which is equal only for the same labels in the same order."""
    return hashlib.sha256(np.ascontiguousarray(labels_N, dtype="<i8").tobytes()).hexdigest()
