"""Bayesian optimisation of a member's gain for the ensemble (our own method; no pairs, no weight of diversity)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Lt

from distens.records import Floats, History, Integers, Settings
from distens.registry import Plugin
from distens.search._rounds import Budget, greedy_pool, propose, slice_evenly
from distens.select.protocol import fill_defaults
from distens.space.space import Space
from distens.targets.classes import target_argument


@dataclass(frozen=True)
class Gain:
    """Gain: settings with the largest expected improvement of the ensemble that would be selected now.

    Let E(n) be the probability that the ensemble gives the label of row n, and p(n) that of a member. Mixed in with
    weight a, the member changes the ensemble's negative log-likelihood (for a target of numbers: likewise its squared
    error) by

        loss((1 - a) E + a p) - loss(E) = -mean over n of log(1 + a (p(n) / E(n) - 1))

    A member gets credit for rows that the ensemble finds hard, and none for useless differences: quality and diversity
    are one number, where DivBO adds two ranks. The change, divided by a, is computed again for every finished member at
    each step, since the ensemble has changed. A forest learns this change from settings, and proposals are ranked by
    expected improvement on zero, the value of the present ensemble. In the limit of small a the best mixture is the one
    that no member improves (Cover 1984, "An Algorithm for Maximizing Expected Log Investment Return",
    theorem 1); a finite weight keeps single rows with E(n) near zero from deciding everything.

    With the Brier score the limit is loss(p) - loss(E) - mean |p(n) - E(n)|^2, the ambiguity decomposition (Krogh and
    Vedelsby 1995, "Neural Network Ensembles, Cross Validation, and Active Learning"); it found worse ensembles. More
    than 1,000 members, pending members and failed members are treated as in `Bayes`.

    Attributes:
        pool: the selector that makes the ensemble. It uses the target's usual metric (`nll` of classes), whatever the
            run's metric is, as errors have no slope.
        weight: a, the weight of the new member; 0.04 is one pick of 25.
        proposals: the number of settings ranked at each step, drawn uniformly except `local` of them.
        local: the number of walks uphill from the most promising settings already tried.
        initial: the number of members, finished or pending, drawn at random first.
        explore: the share of later members that are drawn at random as well.
    """

    pool: Annotated[Any, Plugin("select")] = field(default_factory=greedy_pool)
    weight: Annotated[float, Gt(0), Lt(1)] = 0.04
    proposals: Annotated[int, Ge(2)] = 5000
    local: Annotated[int, Ge(0)] = 50
    initial: Annotated[int, Ge(2)] = 5
    explore: Annotated[float, Ge(0), Lt(1)] = 0.25

    def __post_init__(self) -> None:
        self._budget()
        if self.pool is None:
            raise ValueError("pool: expected a selector, found nothing")

    def propose(self, history: History, space: Space, count: int, rng: np.random.Generator) -> list[Settings]:
        """Return `count` settings (see `Search`)."""
        return propose(history, space, count, rng, self._budget(), goal=self._changes)

    def _budget(self) -> Budget:
        return Budget(self.proposals, self.local, self.initial, self.explore)

    def _changes(self, history: History, places: Integers) -> tuple[Floats, float]:
        rows = slice_evenly(len(history.targets_N))
        targets_N = history.targets_N[rows]
        predictions_MNK = [history.predictions(history.finished[place].task.id)[rows] for place in places]
        target, metric = fill_defaults(predictions_MNK, "", history.target, None)
        weights_M = self.pool.select(predictions_MNK, targets_N, metric, **target_argument(history.target))
        return target.change(predictions_MNK, targets_N, weights_M, self.weight), 0.0
