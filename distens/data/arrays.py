"""Encoding of arrays: features are scaled one by one, images per channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from distens.data.scaling import LARGEST, Scaling, chunks, finite_numbers, one_over
from distens.errors import DataError, shorten_value
from distens.records import Floats, Integers


@dataclass(frozen=True, eq=False)
class Features:
    """Rows of numbers, (N, features); NaN is a missing value.

    Attributes:
        shape: the shape of one row.
        dtype: the dtype of the training rows; if it is of whole numbers, rows with fractions are refused.
    """

    shape: tuple[int, ...]
    dtype: str
    scaling: Scaling

    kind: ClassVar[str] = "features"

    @classmethod
    def fit(cls, rows: NDArray[Any], train: Integers) -> Features:
        """Fit the scaling on the training rows.

        Raises:
            DataError: a value is infinite.
        """
        _check_values(rows, missing_allowed=True)
        return cls(rows.shape[1:], rows.dtype.name, Scaling.fit(rows[train]))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of one encoded row."""
        return (self.scaling.width,)

    def transform(self, rows: Any) -> Floats:
        """Encode rows as (N, width) float32: features, then an indicator for each with missing values in *train*."""
        array = _as_array(rows, self.shape, self.dtype)
        _check_values(array, missing_allowed=True)
        out = np.empty((len(array), self.scaling.width), dtype=np.float32)
        self.scaling.apply(array, out)
        return out

    def to_json(self) -> dict[str, Any]:
        """Return the encoding as JSON values."""
        return {"shape": list(self.shape), "dtype": self.dtype, "scaling": self.scaling.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Features:
        """Rebuild the encoding from `to_json`'s values; errors as in `Scaling.from_json`."""
        scaling, shape = Scaling.from_json(values["scaling"]), tuple(values["shape"])
        if shape != scaling.means_F.shape:
            raise ValueError(f"shape {shorten_value(shape)} does not match {len(scaling.means_F)} means")
        return cls(shape, _dtype(values["dtype"]), scaling)


@dataclass(frozen=True, eq=False)
class Images:
    """Images, (N, height, width) or (N, height, width, channels). `shape` and `dtype` as in `Features`."""

    shape: tuple[int, ...]
    dtype: str
    means_C: NDArray[np.float64]
    scales_C: NDArray[np.float64]

    kind: ClassVar[str] = "images"

    @classmethod
    def fit(cls, rows: NDArray[Any], train: Integers) -> Images:
        """Measure the mean and deviation of every channel over all pixels of the training rows.

        Raises:
            DataError: a value is missing or infinite.
        """
        _check_values(rows, missing_allowed=False)
        pixels = rows[train].reshape(len(train), -1, rows.shape[3] if rows.ndim == 4 else 1)
        parts = list(chunks(pixels))
        count = pixels.shape[0] * pixels.shape[1]
        means_C = np.sum([pixels[part].sum((0, 1), dtype=np.float64) for part in parts], axis=0) / count
        squares_C = np.sum([((pixels[part] - means_C) ** 2).sum((0, 1)) for part in parts], axis=0) / count
        varies_C = pixels.min((0, 1)) < pixels.max((0, 1))
        scales_C = np.array([one_over(deviation) for deviation in np.sqrt(squares_C)]) * varies_C
        return cls(rows.shape[1:], rows.dtype.name, means_C, scales_C)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of one encoded row: channels, height, width."""
        return (len(self.means_C), *self.shape[:2])

    def transform(self, rows: Any) -> Floats:
        """Encode rows as (N, channels, height, width) float32."""
        array = _as_array(rows, self.shape, self.dtype)
        _check_values(array, missing_allowed=False)
        array = array.reshape(len(array), *self.shape[:2], -1)
        out = np.empty((len(array), *self.output_shape), dtype=np.float32)
        for part in chunks(array):
            scaled = (array[part] - self.means_C) * self.scales_C
            out[part] = np.clip(scaled, -LARGEST, LARGEST).transpose(0, 3, 1, 2)
        return out

    def to_json(self) -> dict[str, Any]:
        """Return the encoding as JSON values."""
        statistics = {"means_C": self.means_C.tolist(), "scales_C": self.scales_C.tolist()}
        return {"shape": list(self.shape), "dtype": self.dtype, **statistics}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Images:
        """Rebuild the encoding from `to_json`'s values; errors as in `Scaling.from_json`."""
        means_C, scales_C, shape = (
            finite_numbers(values["means_C"]),
            finite_numbers(values["scales_C"]),
            tuple(values["shape"]),
        )
        channels = (*shape, 1)[2] if len(shape) in (2, 3) and all(type(n) is int and n > 0 for n in shape) else 0
        if not channels == len(means_C) == len(scales_C):
            raise ValueError(
                f"shape {shorten_value(shape)} does not match {len(means_C)} means and {len(scales_C)} scales"
            )
        return cls(shape, _dtype(values["dtype"]), means_C, scales_C)


def _dtype(name: str) -> str:
    if np.dtype(name).kind not in "buif":
        raise ValueError(f"dtype {shorten_value(name)} does not hold numbers")
    return name


def _as_array(rows: Any, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    expected = f"an array of numbers of shape (rows, {', '.join(map(str, shape))})"
    if hasattr(rows, "columns"):
        raise DataError(f"rows: expected {expected}, found a table")
    try:
        array = np.asarray(rows)
    except ValueError as error:
        raise DataError(f"rows: expected {expected}, found rows of different lengths") from error
    if array.dtype.kind not in "buif":
        raise DataError(f"rows: expected {expected}, found dtype {array.dtype}")
    if array.shape == shape:
        raise DataError(f"rows: expected {expected}, found one row of shape {shape}; give rows[None]")
    if array.shape[1:] != shape:
        raise DataError(f"rows: expected {expected}, found shape {array.shape}")
    if not len(array):
        raise DataError("rows: there are none to predict")
    if array.dtype.kind == "f" and np.dtype(dtype).kind in "bui":
        wrong = _first(np.isfinite(array) & (array != np.round(array)))
        if wrong is not None:  # else pixels divided by 255 would be predicted wrongly, without an error
            raise DataError(
                f"rows: row {wrong[0]} (from 0) has the fraction {array[wrong]:g}, but the model was trained on whole "
                f"numbers ({dtype}). Give the values unscaled"
            )
    return array


def _check_values(array: NDArray[Any], missing_allowed: bool) -> None:
    if array.dtype.kind != "f":
        return
    for part in chunks(array):
        values = array[part].astype(np.float64)  # in float16 the bound itself would be infinite
        wrong = _first(np.abs(values) > LARGEST if missing_allowed else ~(np.abs(values) <= LARGEST))
        if wrong is not None:
            place = f"row {part.start + wrong[0]} (from 0), position {wrong[1:]}"
            raise DataError(f"rows: {place}: expected a finite number, found {values[wrong]:g}")


def _first(wrong: NDArray[np.bool_]) -> tuple[int, ...] | None:
    if not wrong.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
