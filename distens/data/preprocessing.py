"""From raw rows to what members see. Fitted on *train* alone; travels in the bundle as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distens.config.sections import DataSection
from distens.data.arrays import Features, Images
from distens.data.tables import Table
from distens.errors import AMISS, DataError
from distens.records import Floats, Integers


@dataclass(frozen=True)
class Preprocessing:
    """How rows of one kind become inputs.

    Attributes:
        encoding: of a table, of arrays of features, or of images.
    """

    encoding: Table | Features | Images

    @classmethod
    def fit(cls, rows: Any, train: Integers, section: DataSection) -> Preprocessing:
        """Return the preprocessing for a source.

        Args:
            rows: all rows of the source but a given test part; of those not in `train` only the schema is used: types
                of columns and names of categories.
            train: the row numbers of *train*.
            section: says which columns are numbers or categories.

        Raises:
            DataError: a column or an array holds what it must not.
        """
        if hasattr(rows, "columns"):
            return cls(Table.fit(rows, train, section))
        return cls(Features.fit(rows, train) if rows.ndim == 2 else Images.fit(rows, train))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one row of inputs: (features,), or (channels, height, width)."""
        return self.encoding.output_shape

    def transform(self, rows: Any) -> Floats:
        """Return inputs as in `Examples`: float32, contiguous, finite.

        Args:
            rows: a DataFrame with the columns of training in any order; the target and dropped columns may be there.
                Where every column is a number, also an array with the columns in order. Arrays as in training.

        Raises:
            DataError: columns missing, unknown or double; an unknown category; no number where one must be; a wrong
                shape or dtype; no rows.
        """
        inputs = np.ascontiguousarray(self.encoding.transform(rows))
        assert (inputs.dtype, inputs.shape[1:]) == (np.float32, self.output_shape)
        return inputs

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` restores exactly."""
        return {"kind": self.encoding.kind, **self.encoding.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Return what `to_json` wrote.

        Raises:
            DataError: the values are not those of a preprocessing.
        """
        try:
            encoding = next(kind for kind in (Table, Features, Images) if kind.kind == values["kind"])
            return cls(encoding.from_json({key: value for key, value in values.items() if key != "kind"}))
        except (StopIteration, *AMISS) as error:
            raise DataError(f"not a preprocessing that this version knows: {error!r}") from error
