"""A bundle that predicts: raw rows in, class probabilities out.

rows ─► preprocessing ─► every member ─► combiner ─► temperature ─► probs_NC
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distens import registry
from distens.data.preprocessing import Preprocessing
from distens.errors import BundleError, ConfigError, DataError, DistensError
from distens.probabilities import apply_temperature
from distens.records import Floats, State
from distens.serve import bundle
from distens.serve.bundle import Bundle

ROWS_AT_ONCE = 8192
"""What all members predict before the next rows are taken: bounds memory."""


def load(path: str) -> Predictor:
    """Return the predictor in a bundle, or in a finished run's folder. Every file is checked now.

    Raises:
        BundleError: see `distens.serve.bundle.read`; or the bundle's preprocessing or combiner is unknown here.
    """
    return Predictor(bundle.read(str(path)))


class Predictor:
    """Predicts as the run's ensemble (or student) did. Members are loaded at the first prediction.

    Attributes:
        bundle: what it was made of.
        classes: names, in the order of probabilities' columns.
        members: ids.
    """

    def __init__(self, source: Bundle) -> None:
        self.bundle = source
        self.classes = source.classes
        self.members = tuple(member.id for member in source.members)
        try:
            self.preprocessing = Preprocessing.from_json(dict(source.preprocessing))
            self._combiner = registry.build("combine", source.combine, "combine")
        except (DataError, ConfigError) as error:
            raise BundleError(f"{source.store.url}: {error}") from error

    def predict_proba(self, rows: Any) -> Floats:
        """Return probs_NC (float64) of raw rows: a DataFrame with the columns of training, or an array.

        Raises:
            DataError: rows that are not like those of training.
            BundleError: a member cannot be loaded.
        """
        inputs = self.preprocessing.transform(rows)
        members, state = self._loaded
        batches = []
        for some in _batches(inputs):
            probs_MNC = np.stack([np.asarray(member.predict(some), dtype=np.float64) for member in members])
            batches.append(apply_temperature(self._combiner.combine(probs_MNC, state), self.bundle.temperature))
        return np.concatenate(batches)

    def predict(self, rows: Any) -> NDArray[np.str_]:
        """Return the name of the most probable class of every row; errors as of `predict_proba`."""
        return np.array(self.classes)[np.argmax(self.predict_proba(rows), axis=1)]

    @cached_property
    def _loaded(self) -> tuple[list[Any], State]:
        store = self.bundle.store
        try:
            members = []
            for entry in self.bundle.members:
                member = registry.build_member(entry.settings)
                member.load(store.read_state(entry.state.path))
                members.append(member)
            return members, store.read_state(self.bundle.combine_state.path)
        except (DistensError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise BundleError(f"{store.url}: a member cannot be loaded: {error}") from error


def _batches(inputs: Floats) -> Iterator[Floats]:
    for start in range(0, len(inputs), ROWS_AT_ONCE):
        yield inputs[start : start + ROWS_AT_ONCE]
