"""A member: something that learns from examples and predicts class probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from distens.data.dataset import Examples
from distens.records import Floats, State
from distens.training.work import Work


class Member(Protocol):
    """A dataclass whose fields are its options; what it has learned is not a field.

    A member kind may also define `default_ranges(cls, template) -> template`, a class method that fills the search
    ranges its users would otherwise write out; the resolved config shows them. And `uses_gpu: ClassVar[bool] = False`
    if a GPU is of no use to it.
    """

    def fit(self, examples: Examples, work: Work) -> Mapping[str, float]:
        """Train from scratch, or from `work.checkpoint`, and return metrics; `parameters` must be among them.

        The same examples, seed and threads give the same member, bit for bit, on one machine, also when training
        was interrupted and went on from a checkpoint.

        Raises:
            Diverged: the loss or the predictions stopped being finite.
            Refused: these settings cannot work on these examples.
        """
        ...

    def predict(self, inputs: Floats) -> Floats:
        """Return probs_NC (float32): rows sum to one, columns are all C classes in order."""
        ...

    def state(self) -> State:
        """Return all that `predict` needs besides the settings. No pickle, ever."""
        ...

    def load(self, state: State) -> None:
        """Become the member that `state` describes; `predict` then gives the same probabilities, bit for bit."""
        ...
