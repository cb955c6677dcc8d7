"""Observation of surrogates while searches use them: a constant one, or one without variance, is a silent fault."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distens.records import Floats

FEW = 5
"""The spread of fewer predictions than this is not recorded."""


@dataclass
class Seen:
    """The spreads of surrogates' outputs: name -> the spread of each use."""

    spreads: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: Any) -> None:
        """Record the spread of one use."""
        self.spreads.setdefault(name, []).append(float(value))

    def figures(self) -> dict[str, dict[str, float]]:
        """Return, by name, the least and the mean spread, and the number of uses."""
        return {
            name: {"least": min(values), "mean": float(np.mean(values)), "uses": len(values)}
            for name, values in sorted(self.spreads.items())
        }


@contextlib.contextmanager
def watched() -> Iterator[Seen]:
    """Observe `Forest` and `PairSurrogate`, wherever they are used.

    `performance` and `diversity` are standard deviations of the predicted means over proposals (0: constant);
    `performance_std` and `diversity_std` are the mean predicted deviation (0: no variance).
    """
    from distens.search._forest import Forest
    from distens.search._pairs import PairPredictor

    seen, predict, over = Seen(), Forest.predict, PairPredictor.over

    def forest(self: Forest, features_PD: Floats) -> tuple[Floats, Floats]:
        mean_P, variance_P = predict(self, features_PD)
        if len(mean_P) >= FEW:
            seen.add("performance", mean_P.std())
            seen.add("performance_std", np.sqrt(variance_P).mean())
        return mean_P, variance_P

    def pairs(self: PairPredictor, predicted: Sequence[Floats]) -> tuple[Floats, Floats]:
        mean_PQ, std_PQ = over(self, predicted)
        seen.add("diversity", mean_PQ.std(axis=1).mean())
        seen.add("diversity_std", std_PQ.mean())
        return mean_PQ, std_PQ

    Forest.predict, PairPredictor.over = forest, pairs  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield seen
    finally:
        Forest.predict, PairPredictor.over = predict, over
