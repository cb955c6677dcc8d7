"""Where a federation's clients have their rows, and how an actor gets at them."""

from __future__ import annotations

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


class Clients(Protocol):
    """Travels to the actors; what it returns does not leave them."""

    def examples(self, client: str, dataset: Dataset) -> Examples:
        """Return a client's rows and labels.

        Args:
            dataset: what all actors have.

        Raises:
            DataError: they cannot be read, or are not what the server's model takes.
        """
        ...


@dataclass(frozen=True)
class Partitioned:
    """Clients that divide the *train* split of a data set among them: a federation played on one cluster.

    Attributes:
        rows: client -> places in the split.
    """

    rows: Mapping[str, Integers]

    def examples(self, client: str, dataset: Dataset) -> Examples:
        """Return a client's rows (see `Clients`)."""
        whole, rows_N = dataset.examples(), self.rows[client]
        return replace(whole, inputs=whole.inputs[rows_N], targets=whole.targets[rows_N])


@dataclass
class Remote:
    """Clients with data of their own, at addresses that only the actor which trains for them opens.

    Attributes:
        sections: client -> its source.
        preprocessing: the server's, as JSON.
        classes: the server's, by name; a client may lack some, and may have no others.
    """

    sections: Mapping[str, DataSection]
    preprocessing: Mapping[str, Any]
    classes: tuple[str, ...]
    _last: tuple[str, Examples] | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.sections, self.preprocessing, self.classes)  # never what was read

    def examples(self, client: str, dataset: Dataset) -> Examples:
        """Return a client's rows (see `Clients`); a process keeps those of one client at a time."""
        if self._last is None or self._last[0] != client:
            self._last = None
            self._last = client, self._open(client)
        return self._last[1]

    def _open(self, client: str) -> Examples:
        section = self.sections[client]
        where = f"federated.sources.{client} ({section.source})"
        raw = source.read(section, least_classes=1)
        strange = [name for name in raw.target.column_names if name not in self.classes]
        if strange:
            known = ", ".join(self.classes[:20])
            raise DataError(f"{where}: the class {strange[0]!r} is none of the server's: {known}")
        places = np.array([self.classes.index(name) for name in raw.target.column_names], dtype=np.int64)
        try:
            inputs = Preprocessing.from_json(self.preprocessing).transform(raw.rows)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        return Examples(inputs, places[raw.targets_N], len(self.classes))
