"""A member that is a network of `distens/models` and predicts a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from distens.data.dataset import Examples
from distens.errors import Refused
from distens.members._rows import of_fold, select_examples
from distens.members.classifier import Classifier
from distens.objectives.cross_entropy import CrossEntropy
from distens.objectives.squared_error import SquaredError
from distens.records import Floats, State
from distens.registry import Plugin
from distens.training import loop, network
from distens.training.context import Context


@dataclass
class Regressor(Classifier):
    """A `classifier`'s network with one linear output. It learns targets scaled to mean zero and variance one.

    Attributes:
        objective: the loss that training minimises, computed on the scaled targets.
    """

    learns_numbers: ClassVar[Literal[True]] = True

    objective: Annotated[Any, Plugin("objectives")] = field(default_factory=SquaredError)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.objective, CrossEntropy):
            raise ValueError("objective: cross_entropy is for classes; leave it out")
        self._mean, self._scale = 0.0, 1.0

    def fit(self, examples: Examples, context: Context) -> Mapping[str, float]:
        """Train the network; see `distens.training.loop.fit_network` for metrics and errors.

        Raises:
            Refused: the targets are not one number a row.
        """
        scaled, context = self._scaled(of_fold(examples, context)), replace(context, fold=None)
        learner = self._learner(scaled, context)
        learned = select_examples(scaled, self.rows, context.seed)
        return loop.fit_network(learner.network, learned, context, learner.recipe, self.objective.loss)

    def rehearse(self, examples: Examples) -> Sequence[str]:
        """Try two rows, forward and backward; return advice (see `distens.training.inspection.rehearse`)."""
        return super().rehearse(self._scaled(examples))

    def _scaled(self, examples: Examples) -> Examples:
        targets_N = np.asarray(examples.targets, dtype=np.float64)
        if targets_N.ndim != 1:
            raise Refused(f"a regressor learns one number a row, found targets of shape {targets_N.shape}")
        self._mean, self._scale = float(targets_N.mean()), float(targets_N.std()) or 1.0
        scaled_N1 = ((targets_N - self._mean) / self._scale).astype(np.float32)[:, None]
        return replace(examples, targets=scaled_N1, classes=1)

    @classmethod
    def stack(cls, members: Sequence[Classifier]) -> Callable[[Floats], Floats]:
        """Return a function, inputs -> predictions_MN1, that evaluates the members one after the other."""
        return lambda inputs: np.stack([member.predict(inputs) for member in members])

    def predict(self, inputs: Floats) -> Floats:
        """Return predictions_N1 (float32), in the targets' unit, computed on the network's device."""
        assert self._network is not None, "predict needs fit or load first"
        scaled_N1 = network.outputs(self._network, inputs, 1)
        return (scaled_N1.astype(np.float64) * self._scale + self._mean).astype(np.float32)

    def state(self) -> State:
        """Return the weights by name, and the targets' mean and scale."""
        assert self._network is not None, "state needs fit or load first"
        meta = {"input_shape": list(self._input_shape), "outputs": 1, "mean": self._mean, "scale": self._scale}
        return State(network.to_arrays(self._network), meta)

    def load(self, state: State) -> None:
        """Restore the network, and the targets' mean and scale, from a state, on the CPU."""
        self._input_shape, self._classes = tuple(state.meta["input_shape"]), 1
        self._mean, self._scale = float(state.meta["mean"]), float(state.meta["scale"])
        self._network = network.restore(self.model, self._input_shape, 1, state.arrays)
