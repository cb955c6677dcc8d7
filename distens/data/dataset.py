"""What a run trains and measures on: four disjoint splits as arrays, ready for members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from distens.records import Floats, Integers
from distens.targets.classes import Classes
from distens.targets.protocol import Target, Targets

SPLITS = ("train", "search", "combine", "test")


@dataclass(frozen=True)
class Examples:
    """What a member learns from.

    Attributes:
        inputs: float32, rows first: (N, features), or (N, channels, height, width). Read-only: copy before writing.
        targets: labels_N (int64), or probs_NC (float32) when a teacher gave them.
        classes: C; a class may be absent from `targets`.
    """

    inputs: Floats
    targets: Integers | Floats
    classes: int


@dataclass(frozen=True)
class Dataset:
    """All splits, encoded.

    Attributes:
        inputs: split -> inputs as in `Examples`.
        targets: split -> targets_N, as the target has them.
        target: what they are, and what a prediction is.
        fingerprint: a hash of rows, targets and splits; equal only for equal data.
    """

    inputs: Mapping[str, Floats]
    targets: Mapping[str, Targets]
    target: Target
    fingerprint: str

    @property
    def labels(self) -> Mapping[str, Integers]:
        """Return the targets, for whoever works with classes alone: split -> labels_N (int64)."""
        assert isinstance(self.target, Classes), "the plan refuses parts that need classes where there are none"
        return self.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes' names, for whoever works with classes alone, in the order of probabilities' columns."""
        assert isinstance(self.target, Classes), "the plan refuses parts that need classes where there are none"
        return self.target.names

    def for_members(self) -> Dataset:
        """Return the same without the targets that no member may see: *combine* and *test*."""
        return replace(self, targets={split: self.targets[split] for split in ("train", "search")})

    def examples(self, split: str = "train") -> Examples:
        """Return a split to learn from."""
        return Examples(self.inputs[split], self.targets[split], len(self.target.column_names))

    @cached_property
    def bounds(self) -> tuple[Floats, Floats]:
        """What the numbers of a *train* row lie between, of each channel or feature; broadcast to a row."""
        inputs = self.inputs["train"]
        axes = (0, *range(2, inputs.ndim))
        return inputs.min(axis=axes, keepdims=True)[0], inputs.max(axis=axes, keepdims=True)[0]
