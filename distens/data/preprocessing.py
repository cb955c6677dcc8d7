"""Preprocessing of raw rows into members' inputs. It is fitted on *train* alone, and a bundle keeps it as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distens.config.sections import DataSection
from distens.data.arrays import Features, Images
from distens.data.column import ReadColumn
from distens.data.tables import Table
from distens.errors import DAMAGE_ERRORS, DataError
from distens.records import Floats, Integers


@dataclass(frozen=True)
class Preprocessing:
    """The encoding of rows of one kind as inputs.

    Attributes:
        encoding: the encoding of a table, of arrays of features, or of images.
    """

    encoding: Table | Features | Images

    @classmethod
    def fit(
        cls, rows: Any, train: Integers, section: DataSection, columns: Sequence[ReadColumn] | None = None
    ) -> Preprocessing:
        """Return the preprocessing fitted to a source.

        Args:
            rows: all rows of the source except a given test part. Of the rows that are not in `train` only the schema
                is used: the types of columns.
            train: the row numbers of *train*.
            section: the config's section, which may name the columns that are numbers or categories.
            columns: a table's columns as they were read; None: they are read now.

        Raises:
            DataError: a column or an array holds a value that it must not hold.
        """
        if hasattr(rows, "columns"):
            return cls(Table.fit(rows, train, section, columns))
        return cls(Features.fit(rows, train) if rows.ndim == 2 else Images.fit(rows, train))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of one row of inputs: (features,), or (channels, height, width)."""
        return self.encoding.output_shape

    @property
    def numbers(self) -> tuple[int, Integers]:
        """Return the number of leading columns of inputs that are scaled, and those with an indicator (see `Scaling`).

        Images have no columns.
        """
        if isinstance(self.encoding, Images):
            return 0, np.zeros(0, dtype=np.int64)
        return len(self.encoding.scaling.means_F), self.encoding.scaling.indicated_I

    def transform(self, rows: Any) -> Floats:
        """Return inputs as in `Examples`: float32, contiguous, finite.

        Args:
            rows: for a table, a DataFrame with the training columns in any order; the target and dropped columns may
                be there. If every column holds numbers, an array with the columns in order will do. For images and
                arrays of features, an array as in training.

        Raises:
            DataError: a column is missing, unknown or double; a category is unknown; a value that must be a number is
                not one; the shape or dtype is wrong; there are no rows.
        """
        inputs = np.ascontiguousarray(self.encoding.transform(rows))
        assert (inputs.dtype, inputs.shape[1:]) == (np.float32, self.output_shape)
        return inputs

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` restores exactly."""
        return {"kind": self.encoding.kind, **self.encoding.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Rebuild the preprocessing from `to_json`'s values.

        Raises:
            DataError: the values are not those of a preprocessing.
        """
        try:
            encoding = next(kind for kind in (Table, Features, Images) if kind.kind == values["kind"])
            return cls(encoding.from_json({key: value for key, value in values.items() if key != "kind"}))
        except (StopIteration, *DAMAGE_ERRORS) as error:
            raise DataError(f"not a preprocessing that this version knows: {error!r}") from error
