"""Many members into one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from distens.data.dataset import Examples
from distens.records import Floats
from distens.training.work import Work


class Predicts(Protocol):
    """A teacher: any trained member."""

    def predict(self, inputs: Floats) -> Floats:
        """Return probs_NC."""
        ...


class Learns(Protocol):
    """A student: any untrained member that accepts soft targets."""

    def fit(self, examples: Examples, work: Work) -> Mapping[str, float]:
        """Train, and return metrics."""
        ...


class Distiller(Protocol):
    """A frozen dataclass whose fields are its options."""

    @property
    def growth(self) -> int:
        """Return how many rows the student sees in an epoch, per row of the *train* split; rivals get as many steps."""
        ...

    def distill(
        self, teachers: Sequence[Predicts], weights_M: Floats, student: Learns, examples: Examples, work: Work
    ) -> Mapping[str, float]:
        """Train the student, in place, to do what the weighted teachers do; return its metrics.

        Args:
            examples: the *train* split, with labels.
        """
        ...
