"""Bayesian optimisation with a random forest: the search that looks at each member alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt

from distens.records import History, Settings
from distens.search._rounds import Budget, propose
from distens.space.space import Space


@dataclass(frozen=True)
class Bayes:
    """Propose the settings with the largest expected improvement of the metric under a probabilistic random forest
    (Hutter et al. 2011, "SMAC"; sections 5 and 6 of the DivBO specification without diversity).

    Pending members count as finished with the forest's mean as their value, so that several run at once; failed ones
    with the worst value observed. Very bad values are brought to Tukey's fence before the forest sees them.
    Of more than 1,000 members, the best 500 and a random 500 of the others are learned from.

    Attributes:
        proposals: how many settings are weighed at each step, drawn uniformly but for `local` of them.
        local: how many walks uphill from the most promising settings already tried.
        initial: how many members, finished or pending, are drawn at random before the forest is asked.
        explore: the share of later members that are drawn at random all the same.
    """

    proposals: Annotated[int, Ge(2)] = 5000
    local: Annotated[int, Ge(0)] = 50
    initial: Annotated[int, Ge(2)] = 5
    explore: Annotated[float, Ge(0), Lt(1)] = 0.0

    def __post_init__(self) -> None:
        self._budget()

    def propose(self, history: History, space: Space, count: int, rng: np.random.Generator) -> list[Settings]:
        """Return `count` settings (see `Search`)."""
        return propose(history, space, count, rng, self._budget())

    def _budget(self) -> Budget:
        return Budget(self.proposals, self.local, self.initial, self.explore)
