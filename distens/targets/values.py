"""Targets that are numbers: a prediction is a number in the target's own unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from distens.errors import DataError
from distens.probabilities import mix
from distens.records import Floats, Integers
from distens.targets._missing import check_present
from distens.targets.protocol import Phrase, Pools

STRATA = 10
ROWS_PER_STRATUM = 20

METRICS = ("rmse", "mae")


@dataclass(frozen=True)
class Values:
    """Numbers: targets_N are float64, and predictions are predictions_N1 in the same unit.

    Search minimises `rmse`, the root of the mean squared error, or `mae`, the mean absolute error.

    Attributes:
        name: the name of the target's column.
    """

    minimised: ClassVar[tuple[str, ...]] = METRICS
    headings: ClassVar[Mapping[str, str]] = {"rmse": "RMSE", "mae": "MAE", "r2": "R²"}
    higher_is_better: ClassVar[tuple[str, ...]] = ("r2",)
    definitions: ClassVar[Mapping[str, str]] = {"r2": "share of the targets' variance that is explained"}
    phrases: ClassVar[tuple[Phrase, ...]] = (
        Phrase("squared_error", "rmse", "RMSE", significant=True, difference_unit=" of squared error"),
        Phrase("absolute_error", "mae", "MAE", significant=True),
    )

    name: str = "value"

    @classmethod
    def encode(cls, column: Any, where: str, names: NDArray[Any] | None = None) -> tuple[Self, Floats]:
        """Return the target of a column, and its numbers.

        Args:
            names: the names of classes; numbers have none, so anything but None is refused.

        Raises:
            DataError: a target is missing, or is no finite number; or `names` is given.
        """
        import pandas as pd

        if names is not None:
            raise DataError(f"{where}: `classes` has no effect where numbers are predicted; leave it out")
        given = pd.Series(column)
        check_present(given.notna().to_numpy(), where)
        targets_N = np.asarray(pd.to_numeric(given, errors="coerce"), dtype=np.float64)
        strange = np.flatnonzero(~np.isfinite(targets_N))
        if given.dtype == bool or len(strange):
            found = given.iloc[int(strange[0]) if len(strange) else 0]
            raise DataError(f"{where}: the target must be a number in every row, found {str(found)!r}")
        return cls(str(getattr(column, "name", None) or "value")), targets_N

    @property
    def column_names(self) -> tuple[str, ...]:
        """Return the name of the one column."""
        return (self.name,)

    @property
    def summary(self) -> str:
        """Return a description of the target in words."""
        return f"{self.name} is a number"

    def strata(self, targets_N: Floats) -> Integers:
        """Return strata_N: the tenth of all targets, by size, in which each lies; fewer parts if there are few rows."""
        rows = len(targets_N)
        parts = max(1, min(STRATA, rows // ROWS_PER_STRATUM))
        rank_N = np.empty(rows, dtype=np.int64)
        rank_N[np.argsort(targets_N, kind="stable")] = np.arange(rows)
        return rank_N * parts // max(1, rows)

    def metrics(
        self, predictions_NK: Floats, targets_N: Floats, importance_N: Floats | None = None
    ) -> dict[str, float]:
        """Return `rmse` and `mae`."""
        assert importance_N is None, "rows count once, so far"
        error_N = _errors(predictions_NK, targets_N)
        return {"rmse": float(np.sqrt(np.mean(error_N**2))), "mae": float(np.mean(np.abs(error_N)))}

    def table(self, predictions_NK: Floats, targets_N: Floats) -> dict[str, float]:
        """Return rmse, mae, and r2: the share of the targets' variance that predictions explain."""
        error_N, spread_N = _errors(predictions_NK, targets_N), targets_N - targets_N.mean()
        explained = 1 - float(np.sum(error_N**2)) / max(float(np.sum(spread_N**2)), np.finfo(np.float64).tiny)
        return {**self.metrics(predictions_NK, targets_N), "r2": explained}

    def losses(self, predictions_NK: Floats, targets_N: Floats) -> dict[str, Floats]:
        """Return the squared and the absolute error of each row."""
        error_N = _errors(predictions_NK, targets_N)
        return {"squared_error": error_N**2, "absolute_error": np.abs(error_N)}

    def sum_loss(self, predictions_NK: Floats, targets_N: Floats, metric: str) -> float:
        """Return the sum of squared errors (`rmse`), or of absolute errors (`mae`)."""
        error_N = _errors(predictions_NK, targets_N)
        return float(np.sum(error_N**2 if metric == "rmse" else np.abs(error_N)))

    def change(self, predictions_MNK: Sequence[Floats], targets_N: Floats, weights_M: Floats, weight: float) -> Floats:
        """Return changes of the mean squared error."""
        error_MN = np.stack([_errors(one, targets_N) for one in predictions_MNK])
        mixed_N = weights_M @ error_MN
        return (((1 - weight) * mixed_N + weight * error_MN) ** 2 - mixed_N**2).mean(axis=1) / weight

    def pools(self, predictions_MNK: Floats | Sequence[Floats], targets_N: Floats, metric: str) -> Pools:
        """Return pools of members.

        Raises:
            ValueError: the metric is neither `rmse` nor `mae`, or there is no member.
        """
        if metric not in METRICS:
            raise ValueError(f"metric: expected one of {', '.join(METRICS)}, found {metric!r}")
        if not len(predictions_MNK):
            raise ValueError("there are no members to select from")
        return _Pools(np.stack([_errors(one, targets_N) for one in predictions_MNK]), metric)

    def residuals(self, predictions_NK: Floats, targets_N: Floats) -> Floats:
        """Return predictions minus targets."""
        return _errors(predictions_NK, targets_N)[:, None].astype(np.float32)

    def trivial(self, targets_N: Floats) -> float:
        """Return the targets' variance: the squared error of their mean."""
        return float(np.var(targets_N))

    def unit(self, targets_N: Floats) -> float:
        """Return the targets' variance, the unit in which squared errors are near one; 1 if all targets are equal."""
        return float(np.var(targets_N)) or 1.0

    def mean(self, predictions_MNK: Floats | Sequence[Floats], weights_M: Floats) -> Floats:
        """Return the weighted mean."""
        return mix(predictions_MNK, weights_M)

    def decisions(self, predictions_NK: Floats) -> Floats:
        """Return the predicted number of every row."""
        return np.asarray(predictions_NK)[:, 0]

    def uncertainty(self, predictions_MNK: Floats, weights_M: Floats) -> dict[str, Floats]:
        """Return `variance`, that of the members' predictions around their mean."""
        numbers_MN = np.asarray(predictions_MNK, dtype=np.float64)[:, :, 0]
        return {"variance": weights_M @ (numbers_MN - weights_M @ numbers_MN) ** 2}

    def check(self, predictions_NK: Floats, rows: int) -> None:
        """Check that predictions are finite numbers, one for each row.

        Raises:
            ValueError: they are not.
        """
        if np.shape(predictions_NK) != (rows, 1) or not np.isfinite(predictions_NK).all():
            raise ValueError("the predictions are not one finite number for each row")


def _errors(predictions_NK: Floats, targets_N: Floats) -> Floats:
    return np.asarray(predictions_NK, dtype=np.float64)[:, 0] - targets_N


class _Pools:
    """Pools that keep the members' errors alone: the error of a mean of members is the mean of their errors."""

    def __init__(self, error_MN: Floats, metric: str) -> None:
        self._error_MN, self._metric = error_MN, metric

    def on(self, importance_N: Integers | None = None) -> _Pool:
        rows = self._error_MN.shape[1]
        share_N = np.full(rows, 1 / rows) if importance_N is None else importance_N / importance_N.sum()
        return _Pool(self._error_MN, share_N, self._metric)


class _Pool:
    def __init__(self, error_MN: Floats, share_N: Floats, metric: str) -> None:
        self._error_MN, self._share_N, self._metric = error_MN, share_N, metric
        self._sum_N, self._added = np.zeros(error_MN.shape[1]), 0

    def with_each(self) -> Floats:
        mean_MN = (self._error_MN + self._sum_N) / (self._added + 1)
        if self._metric == "mae":
            return np.abs(mean_MN) @ self._share_N
        return np.sqrt(mean_MN**2 @ self._share_N)

    def add(self, member: int) -> None:
        self._sum_N = self._sum_N + self._error_MN[member]
        self._added += 1
