"""Scaling of numbers to zero mean and unit variance; a missing number becomes the median and gets an indicator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distens.errors import shorten_value
from distens.records import Floats

CHUNK_CELLS = 1 << 22
"""The number of values held as float64 at a time: a copy of a whole set of images takes eight times its bytes."""
LARGEST = float(np.finfo(np.float32).max)
"""The largest magnitude of a value; larger ones, infinity included, are refused."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """The scaling of F features, measured on *train*.

    Attributes:
        medians_F: they replace missing values; 0 for a feature that is missing in every row.
        means_F: the means, with the medians in place of missing values.
        scales_F: one over the standard deviation (of the population), or 0 for a constant feature.
        indicated_I: the features that had missing values; each gets an indicator of 0 or 1.
    """

    medians_F: NDArray[np.float64]
    means_F: NDArray[np.float64]
    scales_F: NDArray[np.float64]
    indicated_I: NDArray[np.int64]

    @classmethod
    def fit(cls, values_NF: NDArray[Any]) -> Scaling:
        """Measure the scaling on training rows; a missing value is NaN."""
        features = values_NF.shape[1]
        medians_F, means_F, scales_F = np.zeros((3, features))
        indicated = []
        for f in range(features):
            values_N = values_NF[:, f].astype(np.float64)
            missing_N = np.isnan(values_N)
            if missing_N.any():
                indicated.append(f)
            medians_F[f] = np.median(values_N[~missing_N]) if not missing_N.all() else 0.0
            values_N[missing_N] = medians_F[f]
            means_F[f] = values_N.mean()
            scales_F[f] = one_over(values_N.std()) if values_N.min() < values_N.max() else 0.0
        return cls(medians_F, means_F, scales_F, np.array(indicated, dtype=np.int64))

    @property
    def width(self) -> int:
        """Return the number of columns that `apply` writes."""
        return len(self.means_F) + len(self.indicated_I)

    def apply(self, values_NF: NDArray[Any], out: Floats) -> None:
        """Write the scaled features, then the indicators, into `out`, (N, width) float32."""
        features = len(self.means_F)
        for part in chunks(values_NF):
            values = values_NF[part].astype(np.float64)
            missing = np.isnan(values)
            values = np.where(missing, self.medians_F, values)
            out[part, :features] = np.clip((values - self.means_F) * self.scales_F, -LARGEST, LARGEST)
            out[part, features:] = missing[:, self.indicated_I]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` restores exactly."""
        return {name: getattr(self, name).tolist() for name in ("medians_F", "means_F", "scales_F", "indicated_I")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Scaling:
        """Rebuild the scaling from `to_json`'s values.

        Raises:
            KeyError, TypeError, ValueError: the values are not those of a scaling.
        """
        medians_F, means_F, scales_F = (finite_numbers(values[name]) for name in ("medians_F", "means_F", "scales_F"))
        indicated = [int(f) for f in values["indicated_I"]]
        if not len(medians_F) == len(means_F) == len(scales_F):
            raise ValueError(f"medians, means and scales of {len(medians_F)}, {len(means_F)}, {len(scales_F)} features")
        if indicated != sorted(set(indicated)) or not set(indicated) <= set(range(len(means_F))):
            raise ValueError(
                f"indicated_I: {shorten_value(indicated)} are not distinct, ascending places of {len(means_F)} features"
            )
        return cls(medians_F, means_F, scales_F, np.array(indicated, dtype=np.int64))


def finite_numbers(values: Any) -> NDArray[np.float64]:
    """Return a list of finite numbers as an array.

    Raises:
        ValueError: the values are not a list of finite numbers.
    """
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"expected a list of finite numbers, found {shorten_value(values)}")
    return array


def chunks(array: NDArray[Any]) -> Iterator[slice]:
    """Yield slices of rows, each of about CHUNK_CELLS numbers."""
    rows = max(1, CHUNK_CELLS // max(1, array[:1].size))
    return (slice(start, start + rows) for start in range(0, len(array), rows))


def one_over(deviation: float) -> float:
    """Return 1 / deviation; 0 if that is not finite: then the feature is constant at the precision of float64."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = float(np.float64(1.0) / np.float64(deviation))
    return inverse if np.isfinite(inverse) else 0.0
