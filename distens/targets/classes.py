"""Targets that are classes: a prediction is a probability for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from distens.errors import DataError, shorten_value
from distens.probabilities import FLOOR, accuracy, class_metrics, entropy, mix, negative_log_likelihood
from distens.records import Floats, Integers
from distens.targets import _class_measures, _levels
from distens.targets._class_pool import ClassPools
from distens.targets._missing import check_present
from distens.targets.protocol import Phrase, Pools, Target


@dataclass(frozen=True)
class Classes:
    """Classes: targets_N are labels_N (int64), the place of each row's class in `names`.

    Predictions are probs_NC; the mean of members is the linear opinion pool. Search minimises `nll` (nats) or `error`,
    the share of rows whose most probable class is not the label; the quadratic loss is the Brier score.

    Attributes:
        names: the classes' names, in the order of probabilities' columns; a class may have no row.
    """

    minimised: ClassVar[tuple[str, ...]] = ("nll", "error")
    headings: ClassVar[Mapping[str, str]] = {
        "accuracy": "accuracy",
        "nll": "NLL (nats)",
        "brier": "Brier",
        "ece": "ECE",
        "aurc": "AURC",
    }
    higher_is_better: ClassVar[tuple[str, ...]] = ("accuracy",)
    definitions: ClassVar[Mapping[str, str]] = {
        "brier": "summed over classes",
        "ece": "15 bins of equal count",
        "aurc": "mean error of the k most confident rows, over all k",
    }
    phrases: ClassVar[tuple[Phrase, ...]] = (
        Phrase("error", "accuracy", "accuracy", True, 100.0, 2, unit=" %", difference_unit=" points"),
        Phrase("nll", "nll", "NLL"),
    )

    names: tuple[str, ...]

    @classmethod
    def encode(cls, column: Any, where: str, names: NDArray[Any] | None = None) -> tuple[Self, Integers]:
        """Return the classes of a column, and labels_N.

        Args:
            names: the classes' names, if targets are integers that index them.

        Raises:
            DataError: a target is missing, cannot be named, or indexes no name; or two classes have one name.
        """
        labels_N, found = _levels.encode_levels(column, where)
        check_present(labels_N >= 0, where)
        if names is None:
            return cls(found), labels_N
        declared = tuple(_levels.name(value) for value in np.ravel(names))
        places = {str(i): i for i in range(len(declared))}
        strange = [name for name in found if name not in places]
        if strange or len(set(declared)) < len(declared):
            shown = f"the label {strange[0]!r}" if strange else "a name twice"
            raise DataError(
                f"{where}: `classes` names {len(declared)} classes, which labels index from 0; found {shown}"
            )
        return cls(declared), np.array([places[name] for name in found], dtype=np.int64)[labels_N]

    @property
    def column_names(self) -> tuple[str, ...]:
        """Return the classes' names."""
        return self.names

    @property
    def summary(self) -> str:
        """Return the number of classes, in words."""
        return f"{len(self.names)} classes"

    def strata(self, targets_N: Integers) -> Integers:
        """Return the labels themselves."""
        return targets_N

    def metrics(
        self, predictions_NK: Floats, targets_N: Integers, importance_N: Floats | None = None
    ) -> dict[str, float]:
        """Return `nll` and `error` (see `distens.probabilities.class_metrics`)."""
        assert importance_N is None, "rows count once, so far"
        return class_metrics(predictions_NK, targets_N)

    def table(self, predictions_NK: Floats, targets_N: Integers) -> dict[str, float]:
        """Return accuracy, nll (nats), brier, ece, ece_width, aurc."""
        return {
            "accuracy": accuracy(predictions_NK, targets_N),
            "nll": negative_log_likelihood(predictions_NK, targets_N),
            "brier": _class_measures.brier(predictions_NK, targets_N),
            "ece": _class_measures.calibration_error(_class_measures.mass_bins(predictions_NK, targets_N)),
            "ece_width": _class_measures.calibration_error(_class_measures.width_bins(predictions_NK, targets_N)),
            "aurc": _class_measures.risk_coverage_area(predictions_NK, targets_N),
        }

    def losses(self, predictions_NK: Floats, targets_N: Integers) -> dict[str, Floats]:
        """Return one loss for each row: `error`, 1 where the most probable class is wrong, and `nll` (nats)."""
        probs_NC, labels_N = np.asarray(predictions_NK, dtype=np.float64), np.asarray(targets_N)
        picked_N = probs_NC[np.arange(len(labels_N)), labels_N]
        wrong_N = (np.argmax(probs_NC, axis=1) != labels_N).astype(np.float64)
        return {"error": wrong_N, "nll": 0.0 - np.log(np.clip(picked_N, FLOOR, None))}

    def sum_loss(self, predictions_NK: Floats, targets_N: Integers, metric: str) -> float:
        """Return the number of rows predicted wrong (`error`), or the sum of -log p(label) (`nll`)."""
        if metric == "error":
            return float((predictions_NK.argmax(axis=1) != targets_N).sum())
        picked_N = np.maximum(predictions_NK[np.arange(len(targets_N)), targets_N], FLOOR)
        return float(0.0 - np.log(picked_N).sum())  # 0.0, not -0.0, where all is certain

    def change(
        self, predictions_MNK: Sequence[Floats], targets_N: Integers, weights_M: Floats, weight: float
    ) -> Floats:
        """Return changes of the negative log-likelihood, which depends on the labels' probabilities alone."""
        examples = np.arange(len(targets_N))
        label_probs_MN = np.stack([probs_NC[examples, targets_N] for probs_NC in predictions_MNK])
        ratio_MN = label_probs_MN / np.maximum(weights_M @ label_probs_MN, FLOOR)
        return -np.log1p(weight * (ratio_MN - 1.0)).mean(axis=1) / weight

    def pools(self, predictions_MNK: Floats | Sequence[Floats], targets_N: Integers, metric: str) -> Pools:
        """Return pools of members.

        Raises:
            ValueError: the metric is neither `nll` nor `error`, or there is no member.
        """
        return ClassPools(predictions_MNK, targets_N, metric)

    def residuals(self, predictions_NK: Floats, targets_N: Integers) -> Floats:
        """Return p - onehot(label), whose sum of squares is the Brier score."""
        residuals_NC = np.array(predictions_NK, dtype=np.float32)
        residuals_NC[np.arange(len(residuals_NC)), targets_N] -= 1
        return residuals_NC

    def trivial(self, targets_N: Integers) -> float:
        """Return the Brier score of the uniform guess, 1 - 1/C."""
        return 1 - 1 / len(self.names)

    def unit(self, targets_N: Integers) -> float:
        """Return 1: probabilities have no unit."""
        return 1.0

    def mean(self, predictions_MNK: Floats | Sequence[Floats], weights_M: Floats) -> Floats:
        """Return the weighted mean of probabilities."""
        return mix(predictions_MNK, weights_M)

    def decisions(self, predictions_NK: Floats) -> NDArray[np.str_]:
        """Return the name of the most probable class of every row."""
        return np.array(self.names)[np.argmax(predictions_NK, axis=1)]

    def uncertainty(self, predictions_MNK: Floats, weights_M: Floats) -> dict[str, Floats]:
        """Return `entropy` (nats) of the mean, `expected_entropy` of the members, and `mutual_information`.

        The first is the sum of the others (Depeweg et al. 2018, "Decomposition of Uncertainty", section 3).
        """
        entropy_N = entropy(self.mean(predictions_MNK, weights_M))
        expected_N = np.tensordot(weights_M, entropy(np.asarray(predictions_MNK)), axes=1)
        return {"entropy": entropy_N, "expected_entropy": expected_N, "mutual_information": entropy_N - expected_N}

    def check(self, predictions_NK: Floats, rows: int) -> None:
        """Check that predictions are finite numbers from 0 up, in the shape (rows, C).

        Raises:
            ValueError: they are not.
        """
        whole = np.shape(predictions_NK) == (rows, len(self.names))
        if not whole or not (np.isfinite(predictions_NK) & (predictions_NK >= 0)).all():
            raise ValueError(f"the predictions are not finite probabilities of {len(self.names)} classes, one row each")


def target_argument(target: Target | None) -> dict[str, Any]:
    """Return further arguments for a plug-in: the target, or none if targets are plain classes.

    A plug-in that is called without a target, or that knows of no targets, expects plain classes.
    """
    return {} if target is None or type(target) is Classes else {"target": target}


def encode_as(target: Target, column: Any, where: str) -> NDArray[Any]:
    """Return targets_N of a column as a target that is known already encodes them.

    Raises:
        DataError: a value is missing, or is no such target: a class that the target does not have.
    """
    found, targets_N = type(target).encode(column if hasattr(column, "dtype") else np.asarray(column), where)
    if not (isinstance(target, Classes) and isinstance(found, Classes)):
        return targets_N
    places = {name: place for place, name in enumerate(target.names)}
    if unknown := [name for name in found.names if name not in places]:
        raise DataError(
            f"{where}: the class {shorten_value(unknown[0])} is unknown. Known: {_levels.shortened(target.names)}"
        )
    return np.array([places[name] for name in found.names], dtype=np.int64)[targets_N]
