"""Uniform draws: the search to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from distens.records import History, Settings
from distens.search._proposals import draw_settings
from distens.space.space import Space


@dataclass(frozen=True)
class Random:
    """Random: uniform draws without repeats (families first, on a log scale where the space has one)."""

    blind: ClassVar[Literal[True]] = True

    def propose(self, history: History, space: Space, count: int, rng: np.random.Generator) -> list[Settings]:
        """Return `count` settings (see `Search`); repeats only where the space is exhausted."""
        return draw_settings(space, count, history.known(), rng)
