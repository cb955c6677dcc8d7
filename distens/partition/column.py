"""Clients that a column of the data names: hospitals, devices, writers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import MinLen

from distens.errors import DataError
from distens.partition._rows import WHERE, refuse_client_count, rows_by_owner
from distens.partition.protocol import ColumnReader as Columns
from distens.records import Integers
from distens.targets import _levels as levels

_LONGEST = 64


@dataclass(frozen=True)
class Column:
    """One client for every value of a column, named after it; in the values' natural order. All rows are used.

    Files have the clients' names, so every character that is not an ASCII letter or digit, `_`, `.` or `-` becomes `_`,
    and so does a leading dot.

    Attributes:
        column: the column's name.
    """

    column: Annotated[str, MinLen(1)]

    def divide(
        self, labels_N: Integers, classes: int, clients: int | None, rng: np.random.Generator, column: Columns
    ) -> dict[str, Integers]:
        """Return each client's rows (see `Partitioner`)."""
        refuse_client_count(clients, "column")
        where = f"{WHERE}.column {self.column!r}"
        codes_N, values = levels.encode_levels(column(self.column), where)
        empty = [code for code, value in enumerate(values) if not value.strip()]
        missing = int(np.isin(codes_N, [-1, *empty]).sum())
        if missing:
            raise DataError(
                f"{where}: {missing} of {len(codes_N)} rows have no value, so they belong to no "
                "client. Give them a value, or leave them out of the source"
            )
        return rows_by_owner(codes_N, _names(values, where))


def _names(values: tuple[str, ...], where: str) -> list[str]:
    """Return a client's name for each value.

    Raises:
        DataError: two values would have the same name, or a name is too long.
    """
    of: dict[str, str] = {}
    for value in values:
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", re.sub(r"^\.", "_", value.strip()))
        if len(name) > _LONGEST:
            raise DataError(f"{where}: {value!r} has {len(name)} characters; a client's name has at most {_LONGEST}")
        if name in of:
            raise DataError(
                f"{where}: {of[name]!r} and {value!r} would both be the client {name!r}. Names may hold letters and "
                "digits of ASCII, `_`, `.` and `-`; all else becomes `_`"
            )
        of[name] = value
    return list(of)
