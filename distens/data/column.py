"""One column of a table, as it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ReadColumn:
    """One column of a table, as it was read.

    Attributes:
        role: `number`, `date`, `category`, or `left out`.
        dtype: the type that it was read as.
        missing: the number of rows without a value.
        distinct: the number of different values.
        markers: text -> number of rows in which it was taken for a missing value.
        note: what the user should know of it, in words; mostly empty.
        form: of dates, see `distens.data.dates`.
        comma: True if texts are numbers with a comma before the fraction.
    """

    name: str
    role: str
    dtype: str
    missing: int
    distinct: int
    markers: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    form: str = ""
    comma: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the description of the column for `run.json`: JSON values by heading."""
        said = {"column": self.name, "read as": self.dtype, "missing": self.missing, "distinct": self.distinct}
        more = {"markers": dict(self.markers), "note": self.note}
        return {**said, "treated as": self.role, **{name: value for name, value in more.items() if value}}

    @property
    def summary(self) -> str:
        """Return the description of the column in words, for log and page."""
        counts = f"{self.role} ({self.dtype}), {self.missing:,} missing, {self.distinct:,} distinct"
        return f"{counts}; {self.note}" if self.note else counts
