"""A member that is a classifier of scikit-learn or LightGBM, given by the name of its family."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from distens.addresses import ImportAddress
from distens.data.dataset import Examples
from distens.errors import Diverged, Refused, report_damage, shorten_value
from distens.members import _families, _own_estimators
from distens.members._rows import Rows, choose_rows
from distens.records import Floats, Integers, State
from distens.training.context import Context

ONLY_CLASS = "only_class"
"""The array in the state of an estimator whose rows had one class: that class."""


@dataclass
class Estimator:
    """A classifier that is not a network.

    It learns labels only, so it cannot be a student, and it keeps no checkpoints.

    Attributes:
        estimator: the family: `random_forest`, `svm`, …; or the path of a class, or of a function that returns an
            unfitted estimator, such as a Pipeline: `sklearn.naive_bayes:GaussianNB`, `mine:make_pipeline`. A bundle
            with one of these is loaded only with `imports=True`.
        options: arguments of the family's class, by its library's own names; one that is left out has the family's
            default (see `_families.Family.defaults`) or else the library's.
            A config that leaves out `options` as a whole searches the family's default ranges.
        rows: `all`, or `bootstrap`: rows drawn with replacement by the member's seed.
    """

    uses_gpu: ClassVar[Literal[False]] = False

    estimator: Annotated[str, ImportAddress(trusting=True)]
    options: dict[str, Any] = field(default_factory=dict)
    rows: Rows = "all"

    def __post_init__(self) -> None:
        self._family = _own_estimators.find(_families.CLASSIFIERS, self.estimator)
        self.estimator = self._family.name
        self._family.make(self.options)
        self._fitted: Any = None
        self._only: int | None = None
        self._classes = 0

    @classmethod
    def default_ranges(cls, template: Mapping[str, Any]) -> dict[str, Any]:
        """Return the template with its family's own name, and its default ranges as `options` if it has none."""
        return _own_estimators.default_ranges(_families.CLASSIFIERS, template)

    def fit(self, examples: Examples, context: Context) -> Mapping[str, float]:
        """Train the estimator, and return `parameters` (see `_families.Family.count`) and `seconds`.

        If all rows have one class, as a bootstrap may, nothing is fitted: that class then has probability one.

        Raises:
            Refused: the targets are probabilities, or the library cannot fit these options to these rows.
            Diverged: a prediction is not finite.
        """
        if examples.targets.ndim == 2:
            raise Refused(f"estimator {self.estimator}: learns labels, not probabilities; a student must be a network")
        picked_N = choose_rows(self.rows, len(examples.inputs), context.seed)
        inputs = _families.flatten_rows(examples.inputs)[picked_N]
        labels_N = np.asarray(examples.targets, dtype=np.int64)[picked_N]
        family, started = self._family, time.perf_counter()
        self._classes, self._only, self._fitted = examples.classes, None, None
        if (labels_N == labels_N[0]).all():
            self._only = int(labels_N[0])
            return {"parameters": 1, "seconds": time.perf_counter() - started}
        with _families.convert_library_errors(family, self.options, inputs):
            self._fitted = family.fit(self.options, inputs, labels_N, picked_N, context)
            self.predict(inputs[:1])  # shows errors that fitting does not
        return {"parameters": family.count_numbers(self._fitted), "seconds": time.perf_counter() - started}

    def predict(self, inputs: Floats) -> Floats:
        """Return probs_NC; a class that was missing from the training rows has probability zero.

        Raises:
            Diverged: a probability is not finite.
        """
        if self._only is not None:
            certain_NC = np.zeros((len(inputs), self._classes), dtype=np.float32)
            certain_NC[:, self._only] = 1
            return certain_NC
        assert self._fitted is not None, "predict needs fit or load first"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LightGBM invents column names, then warns that they are missing
            found = np.asarray(self._fitted.predict_proba(_families.flatten_rows(inputs)), dtype=np.float64)
        probs_NC, columns = np.zeros((len(inputs), self._classes)), self._columns()
        if found.shape != (len(inputs), len(columns)):
            wanted = (len(inputs), len(columns))
            raise Refused(f"estimator {self.estimator}: predict_proba gave the shape {found.shape}, not {wanted}")
        probs_NC[:, columns] = found
        if not np.isfinite(probs_NC).all():
            raise Diverged(f"estimator {self.estimator}: its predictions are not finite")
        return (probs_NC / probs_NC.sum(axis=1, keepdims=True)).astype(np.float32)

    def _columns(self) -> Integers:
        """Return the class of each of the estimator's columns: all classes, if it does not say which it has seen."""
        return np.asarray(getattr(self._fitted, "classes_", np.arange(self._classes)))

    def state(self) -> State:
        """Return the estimator as the bytes of a skops file (a zip of JSON and arrays), compressed."""
        if self._only is not None:
            return State({ONLY_CLASS: np.array([self._only])}, {"classes": self._classes})
        assert self._fitted is not None, "state needs fit or load first"
        return _own_estimators.dump(self._family, self._fitted, {"classes": self._classes})

    def load(self, state: State) -> None:
        """Restore the stored estimator.

        Raises:
            StorageError: the file is damaged, does not match these settings, or holds a type that this version does not
                trust; nothing in it was run.
        """
        self._only = None
        if ONLY_CLASS in state.arrays:
            with report_damage(f"estimator {self.estimator}: the stored state"):
                (self._only,), self._classes = state.arrays[ONLY_CLASS].tolist(), int(state.meta["classes"])
                if not (isinstance(self._only, int) and 0 <= self._only < self._classes):
                    raise ValueError(f"its class is {shorten_value(self._only)}, not one of {self._classes}")
            return
        self._fitted, self._classes = _own_estimators.restore(self._family, state, self.options, "classes")
