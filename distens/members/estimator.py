"""An estimator of scikit-learn or LightGBM, by the name of its family."""

from __future__ import annotations

import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from distens.data.dataset import Examples
from distens.errors import AMISS, Diverged, Refused, StorageError
from distens.members import _families, _stored
from distens.members._rows import Rows, choose
from distens.records import Floats, State
from distens.training.context import Context


@dataclass
class Estimator:
    """A classifier that is no network. It learns labels only: no student, and no checkpoints.

    Attributes:
        estimator: the family: `random_forest`, `svm`, …
        options: arguments of the family's class, by its library's own names; what is left out is the library's default.
            A config that leaves out `options` as a whole searches the family's default ranges.
        rows: `all`, or a `bootstrap` by the member's seed.
    """

    uses_gpu: ClassVar[Literal[False]] = False

    estimator: str
    options: dict[str, Any] = field(default_factory=dict)
    rows: Rows = "all"

    def __post_init__(self) -> None:
        _families.make(self.estimator, self.options)
        self._fitted: Any = None
        self._classes = 0

    @classmethod
    def default_ranges(cls, template: Mapping[str, Any]) -> dict[str, Any]:
        """Return the template with the family's ranges as `options`, where it has none."""
        family = _families.FAMILIES.get(str(template.get("estimator")))
        if family is None or "options" in template:
            return dict(template)
        return {**template, "options": deepcopy(family.ranges)}

    def fit(self, examples: Examples, context: Context) -> Mapping[str, float]:
        """Train, and return `parameters` (see `_families.count`) and `seconds`.

        Raises:
            Refused: targets are probabilities, or the library cannot fit these options to these rows.
            Diverged: predictions are not finite.
        """
        if examples.targets.ndim == 2:
            raise Refused(f"estimator {self.estimator}: learns labels, not probabilities; a student must be a network")
        picked_N = choose(self.rows, len(examples.inputs), context.seed)
        inputs = _flat(examples.inputs)[picked_N]
        labels_N = np.asarray(examples.targets, dtype=np.int64)[picked_N]
        family = _families.FAMILIES[self.estimator]
        started = time.perf_counter()
        with self._refusing(f"on {inputs.shape[0]} rows of {inputs.shape[1]} numbers"):
            fitted = _families.make(self.estimator, self.options, context.seed, context.threads)
            if family.calibrated:
                fitted = _families.calibrated(fitted, inputs, labels_N, picked_N, context.seed)
            else:
                fitted.fit(inputs, labels_N)
            if family.threaded:  # several threads would add up a forest's trees in any order
                fitted.set_params(n_jobs=1)
            self._fitted, self._classes = fitted, examples.classes
            self.predict(inputs[:1])  # some errors show no sooner
        return {"parameters": _families.count(self.estimator, fitted), "seconds": time.perf_counter() - started}

    def predict(self, inputs: Floats) -> Floats:
        """Return probs_NC; a class that was missing from the rows gets probability zero.

        Raises:
            Diverged: a probability is not finite.
        """
        assert self._fitted is not None, "predict needs fit or load first"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LightGBM names columns that nobody named, then misses the names
            found = np.asarray(self._fitted.predict_proba(_flat(inputs)), dtype=np.float64)
        probs_NC = np.zeros((len(inputs), self._classes))
        probs_NC[:, self._fitted.classes_] = found
        if not np.isfinite(probs_NC).all():
            raise Diverged(f"estimator {self.estimator}: its predictions are not finite")
        return (probs_NC / probs_NC.sum(axis=1, keepdims=True)).astype(np.float32)

    def state(self) -> State:
        """Return the estimator as the bytes of a skops file (a zip of JSON and arrays), compressed."""
        assert self._fitted is not None, "state needs fit or load first"
        content = _stored.dump(self._fitted)
        return State({"skops": np.frombuffer(content, dtype=np.uint8)}, {"classes": self._classes})

    def load(self, state: State) -> None:
        """Become the stored estimator.

        Raises:
            StorageError: the file is damaged, not of these settings, or holds what this version does not trust; none of
                it was run.
        """
        from skops.io.exceptions import UntrustedTypesFoundException

        where = f"estimator {self.estimator}: the stored state is"
        try:
            content, classes = state.arrays["skops"].tobytes(), int(state.meta["classes"])
            fitted = _stored.load(content, self.estimator, self.options, classes)
        except UntrustedTypesFoundException as error:
            raise StorageError(f"{where} not trusted: {error}") from error
        except (*AMISS, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise StorageError(f"{where} damaged, or hostile: {error}") from error
        self._fitted, self._classes = fitted, classes

    @contextmanager
    def _refusing(self, rows: str) -> Iterator[None]:
        """Turn the library's refusals into ours, and keep its warnings to itself."""
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                yield
        except (ValueError, *_families.FAMILIES[self.estimator].refusals()) as error:
            raise Refused(f"estimator {self.estimator} {dict(self.options)} {rows}: {error}") from error
        except Refused as error:
            raise Refused(f"estimator {self.estimator} {rows}: {error}") from error


def _flat(inputs: Floats) -> Floats:
    """Return (N, features): images as rows of numbers."""
    return np.asarray(inputs, dtype=np.float32).reshape(len(inputs), -1)
