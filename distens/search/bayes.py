"""Bayesian optimisation with a random forest: a search that values each member by itself."""

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
    """Bayes: the largest expected improvement under a probabilistic random forest (Hutter et al. 2011, "SMAC").

    It follows sections 5 and 6 of the DivBO specification, without diversity, and improves the metric. Pending members
    count as finished with the forest's mean as their value, so that several members can run at once. Failed members
    count as finished with the worst value observed. Very bad values are lowered to Tukey's fence before the forest is
    fitted. Of more than 1,000 members, the forest learns from the best 500 and a random 500 of the others.

    Attributes:
        proposals: the number of settings ranked at each step, drawn uniformly except `local` of them.
        local: the number of walks uphill from the most promising settings already tried.
        initial: the number of members, finished or pending, drawn at random before the forest is used.
        explore: the share of later members that are drawn at random as well.
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
