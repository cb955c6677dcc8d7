"""What a run trains and measures on: four disjoint splits as arrays, ready for members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from distens.records import Floats, Integers

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
        labels: split -> labels_N (int64).
        classes: the classes' names, in the order of probabilities' columns.
        fingerprint: a hash of rows, labels and splits; equal only for equal data.
    """

    inputs: Mapping[str, Floats]
    labels: Mapping[str, Integers]
    classes: tuple[str, ...]
    fingerprint: str

    def for_members(self) -> Dataset:
        """Return the same without the labels that no member may see: *combine* and *test*."""
        return replace(self, labels={split: self.labels[split] for split in ("train", "search")})

    def examples(self, split: str = "train") -> Examples:
        """Return a split to learn from."""
        return Examples(self.inputs[split], self.labels[split], len(self.classes))

    @cached_property
    def bounds(self) -> tuple[Floats, Floats]:
        """What the numbers of a *train* row lie between, of each channel or feature; broadcast to a row."""
        inputs = self.inputs["train"]
        axes = (0, *range(2, inputs.ndim))
        return inputs.min(axis=axes, keepdims=True)[0], inputs.max(axis=axes, keepdims=True)[0]
