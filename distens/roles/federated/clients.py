"""The rows of a federation's clients: where they lie, and how an actor reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from distens.config.sections import DataSection
from distens.data import source
from distens.data.dataset import Dataset, Examples
from distens.data.preprocessing import Preprocessing
from distens.errors import DataError
from distens.records import Integers

_IS_EMPTY = re.compile(r"has no rows|there are no rows|the file is empty|found shape \(0[,)]")


class ClientData(Protocol):
    """A source of clients' rows. It travels to the actors; the rows that it returns do not leave them.

    Example:
        The driver makes one, and sends it along with the dataset; a client's work reads the client's rows::

            clients = PartitionedClients({"c0": np.array([0, 2]), "c1": np.array([1, 3])})
            examples = clients.examples("c0", dataset)
            assert len(examples.inputs) == 2    # rows 0 and 2 of the *train* split
    """

    def examples(self, client: str, dataset: Dataset) -> Examples:
        """Return a client's rows and labels.

        Args:
            dataset: the data that all actors have.

        Raises:
            DataError: the rows cannot be read, or do not fit the server's model.
        """
        ...


@dataclass(frozen=True)
class PartitionedClients:
    """Clients that divide the *train* split of a data set among them: a federation simulated on one cluster.

    Attributes:
        rows: client -> places of its rows in the split.
    """

    rows: Mapping[str, Integers]

    def examples(self, client: str, dataset: Dataset) -> Examples:
        """Return a client's rows (see `ClientData`)."""
        whole, rows_N = dataset.examples(), self.rows[client]
        return replace(whole, inputs=whole.inputs[rows_N], targets=whole.targets[rows_N])


@dataclass
class RemoteClients:
    """Clients with data of their own, at addresses that only the actor which trains the client opens.

    Attributes:
        sections: client -> the section `data` with its source.
        preprocessing: the server's preprocessing, as JSON.
        classes: the names of the server's classes; a client may lack some, and may have no others.
    """

    sections: Mapping[str, DataSection]
    preprocessing: Mapping[str, Any]
    classes: tuple[str, ...]
    _last: tuple[str, Examples] | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteClients, (self.sections, self.preprocessing, self.classes)  # never the rows that were read

    def examples(self, client: str, dataset: Dataset) -> Examples:
        """Return a client's rows (see `ClientData`); a process keeps the rows of one client at a time."""
        if self._last is None or self._last[0] != client:
            self._last = None
            self._last = client, self._open(client)
        return self._last[1]

    def _open(self, client: str) -> Examples:
        section = self.sections[client]
        where = f"federated.sources.{client} ({section.source})"
        try:
            raw = source.read_source(section, least_classes=1, as_found=True)
        except DataError as error:
            why = "the client has no rows" if _IS_EMPTY.search(str(error)) else str(error)
            raise DataError(f"{where}: {why}") from error
        if not len(raw.targets_N):
            raise DataError(f"{where}: the client has no rows")
        strange = [name for name in raw.target.column_names if name not in self.classes]
        if strange:
            known = ", ".join(self.classes[:20])
            raise DataError(f"{where}: the class {strange[0]!r} is not among the server's classes: {known}")
        places = np.array([self.classes.index(name) for name in raw.target.column_names], dtype=np.int64)
        try:
            inputs = Preprocessing.from_json(self.preprocessing).transform(raw.rows)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        return Examples(inputs, places[raw.targets_N], len(self.classes))
