"""A member that is a regressor of scikit-learn or LightGBM, given by the name of its family."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from distens.addresses import ImportAddress
from distens.data.dataset import Examples
from distens.errors import Diverged, Refused
from distens.members import _families, _own_estimators
from distens.members._rows import Rows, choose_rows
from distens.records import Floats, State
from distens.training.context import Context


@dataclass
class EstimatorRegressor:
    """A regressor that is not a network.

    It learns one number a row, in the target's own unit, and keeps no checkpoints.

    Attributes:
        estimator: the family: `random_forest`, `svm`, …; or the path of a class, or of a function that returns an
            unfitted estimator, such as a Pipeline: `sklearn.naive_bayes:GaussianNB`, `mine:make_pipeline`. A bundle
            with one of these is loaded only with `imports=True`.
        options: arguments of the family's class, by its library's own names; one that is left out has the family's
            default (see `_families.Family.defaults`) or else the library's.
            A config that leaves out `options` as a whole searches the family's default ranges. The options of `svm`
            are for targets of unit variance: an `epsilon` of 0.1 is a tenth of the targets' standard deviation.
        rows: `all`, or `bootstrap`: rows drawn with replacement by the member's seed.
    """

    uses_gpu: ClassVar[Literal[False]] = False
    learns_numbers: ClassVar[Literal[True]] = True

    estimator: Annotated[str, ImportAddress(trusting=True)]
    options: dict[str, Any] = field(default_factory=dict)
    rows: Rows = "all"

    def __post_init__(self) -> None:
        self._family = _own_estimators.find(_families.REGRESSORS, self.estimator)
        self.estimator = self._family.name
        self._family.make(self.options)
        self._fitted: Any = None

    @classmethod
    def default_ranges(cls, template: Mapping[str, Any]) -> dict[str, Any]:
        """Return the template with its family's own name, and its default ranges as `options` if it has none."""
        return _own_estimators.default_ranges(_families.REGRESSORS, template)

    def fit(self, examples: Examples, context: Context) -> Mapping[str, float]:
        """Train the estimator, and return `parameters` (see `_families.Family.count`) and `seconds`.

        Raises:
            Refused: the targets are not one number a row, or the library cannot fit these options to these rows.
            Diverged: a prediction is not finite.
        """
        if examples.targets.ndim != 1:
            shape = tuple(examples.targets.shape)
            raise Refused(f"estimator {self.estimator}: learns one number a row, found targets of shape {shape}")
        picked_N = choose_rows(self.rows, len(examples.inputs), context.seed)
        inputs = _families.flatten_rows(examples.inputs)[picked_N]
        targets_N = np.asarray(examples.targets, dtype=np.float64)[picked_N]
        family, started = self._family, time.perf_counter()
        with _families.convert_library_errors(family, self.options, inputs):
            self._fitted = family.fit(self.options, inputs, targets_N, picked_N, context)
            self.predict(inputs[:1])  # shows errors that fitting does not
        return {"parameters": family.count_numbers(self._fitted), "seconds": time.perf_counter() - started}

    def predict(self, inputs: Floats) -> Floats:
        """Return predictions_NK (float32), in the target's unit; K is 1.

        Raises:
            Diverged: a prediction is not finite.
        """
        assert self._fitted is not None, "predict needs fit or load first"
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # LightGBM invents column names, then warns that they are missing
            predictions_N = np.asarray(self._fitted.predict(_families.flatten_rows(inputs)), dtype=np.float32)
        if not np.isfinite(predictions_N).all():
            raise Diverged(f"estimator {self.estimator}: its predictions are not finite")
        if predictions_N.size != len(inputs):
            raise Refused(
                f"estimator {self.estimator}: predict gave the shape {predictions_N.shape}, not ({len(inputs)},)"
            )
        return predictions_N.reshape(len(inputs), 1)

    def state(self) -> State:
        """Return the estimator as the bytes of a skops file (a zip of JSON and arrays), compressed."""
        assert self._fitted is not None, "state needs fit or load first"
        return _own_estimators.dump(self._family, self._fitted, {"outputs": 1})

    def load(self, state: State) -> None:
        """Restore the stored estimator.

        Raises:
            StorageError: the file is damaged, does not match these settings, or holds a type that this version does not
                trust; nothing in it was run.
        """
        self._fitted, _ = _own_estimators.restore(self._family, state, self.options, "outputs")
