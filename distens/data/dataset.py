"""The data of a run: four disjoint splits as arrays, encoded for members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from distens.data.folds import Fold
from distens.metrics.protocol import Metric, measure_finite, with_metric
from distens.records import Floats, Integers
from distens.targets.classes import Classes
from distens.targets.protocol import Target, Targets

SPLITS = ("train", "search", "combine", "test")


@dataclass(frozen=True)
class Examples:
    """Rows that a member learns from: their inputs and their targets.

    Attributes:
        inputs: float32, rows first: (N, features), or (N, channels, height, width). Read-only: copy before writing.
        targets: as the data's target has them: labels_N (int64), or numbers (float64); or predictions_NK (float32) if a
            teacher predicted them.
        classes: C, the number of a prediction's columns; a class may be absent from `targets`.
    """

    inputs: Floats
    targets: Integers | Floats
    classes: int

    def of_fold(self, fold: Fold) -> Examples:
        """Return the rows that a fold's model learns from, on their own scale."""
        inputs = fold.rescaling.apply(self.inputs[fold.learned_N])
        return replace(self, inputs=inputs, targets=self.targets[fold.learned_N])


@dataclass(frozen=True)
class Dataset:
    """The encoded inputs and the targets of all splits.

    Attributes:
        inputs: split -> inputs as in `Examples`.
        targets: split -> targets_N, as the target has them.
        target: the kind of the targets, which also defines what a prediction is.
        fingerprint: a hash of rows, targets and splits; it is equal only for equal data.
        metric: the user's own metric, with which members are measured besides the target's.
        folds: the folds of the rows of *train*, which are those of *search*, too: a row is predicted by a model that
            never saw it (see `distens.data.folds`). Empty: members learn from *train* and predict *search*.
    """

    inputs: Mapping[str, Floats]
    targets: Mapping[str, Targets]
    target: Target
    fingerprint: str
    metric: Metric | None = None
    folds: tuple[Fold, ...] = ()

    @property
    def labels(self) -> Mapping[str, Integers]:
        """Return split -> labels_N (int64); only for code that works with classes alone."""
        assert isinstance(self.target, Classes), "the plan refuses parts that need classes where there are none"
        return self.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes' names, in the order of probabilities' columns; only for code that works with classes."""
        assert isinstance(self.target, Classes), "the plan refuses parts that need classes where there are none"
        return self.target.names

    @property
    def measured(self) -> Target:
        """Return the target, whose metrics and pools know the user's own metric, if there is one."""
        return with_metric(self.target, self.metric)

    def table(self, predictions_NK: Floats, split: str) -> dict[str, float]:
        """Return the table's metrics of predictions of a split; a user's own metric only if it has a finite value."""
        found = self.target.table(predictions_NK, self.targets[split])
        return {
            **found,
            **({} if self.metric is None else measure_finite(self.metric, predictions_NK, self.targets[split])),
        }

    def for_members(self) -> Dataset:
        """Return the dataset without the targets that no member may see: those of *combine* and *test*."""
        return replace(self, targets={split: self.targets[split] for split in ("train", "search")})

    def examples(self, split: str = "train") -> Examples:
        """Return the rows of a split as examples to learn from."""
        return Examples(self.inputs[split], self.targets[split], len(self.target.column_names))

    @cached_property
    def bounds(self) -> tuple[Floats, Floats]:
        """Return the minimum and the maximum of each channel or feature in *train*; both broadcast to a row."""
        inputs = self.inputs["train"]
        axes = (0, *range(2, inputs.ndim))
        return inputs.min(axis=axes, keepdims=True)[0], inputs.max(axis=axes, keepdims=True)[0]
