"""Diversity-aware Bayesian optimisation (Shen et al. 2022, "DivBO: Diversity-aware CASH for Ensemble Learning")."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Lt
from scipy.stats import rankdata

from distens.diversity.pairwise import diversity
from distens.records import Finished, Floats, History, Settings
from distens.registry import Plugin
from distens.search._pairs import PairSurrogate
from distens.search._rounds import Budget, greedy_pool, propose, representative, slice_evenly
from distens.select.protocol import fast_metric, fill_defaults
from distens.space.space import Space
from distens.targets.classes import target_argument

_MEMBERS = 500
"""Pairs and the pool are of this many members at most."""


@dataclass(frozen=True)
class DivBO:
    """DivBO: settings that promise a good member, or one unlike those that an ensemble would use now.

    Proposals are ranked by expected improvement (as in `Bayes`; with `beta: 0` the picks are the same) and by

        alpha_div(x) = mean over n of min over theta in P of m_n(theta, x),  m_n ~ Normal(mean, variance)   (eq. 4)

    where P is the pool, the members that ensemble selection takes from history, and mean and variance come from a
    surrogate of Div over pairs. The pick minimises R_perf + w(t) R_div, w(t) = beta (sigmoid(tau t) - 0.5), t the
    number of finished members. The limit of w is beta / 2, so that picks are among the best 2.5% by improvement.

    Where we differ from the paper, or where it is silent: both orders of a pair are averaged; the `samples` normal
    numbers of a pool member are shared by all proposals, which leaves each alpha_div distributed as in eq. 4 and
    removes that noise from their comparison; pending members have the forest's mean as their value and belong to P, so
    that the next pick is pushed away from them; failed members have the worst value and never enter pairs or P. The
    forest learns from 1,000 members at most, P and pairs are of 500 members at most: half of them are the best, half
    are drawn from the others. So a step costs the same after 1,000 finished members as after 10,000. If the
    metric is the user's own, which may take long, P is selected by the target's usual one (`nll` of classes).

    Attributes:
        beta: the weight of diversity; the accuracy of members falls clearly from 0.2 (paper, figure 7).
        tau: how fast the weight of diversity grows with the number of finished members.
        pool: the selector that makes P.
        proposals: the number of settings ranked at each step, drawn uniformly except `local` of them.
        local: the number of walks uphill from the most promising settings already tried.
        initial: the number of members, finished or pending, drawn at random first.
        explore: the share of later members that are drawn at random as well.
        samples: N of eq. 4.
        models: the number of boosted models in the pair surrogate.
        max_pairs: the largest number of ordered pairs that the pair surrogate learns from.
    """

    beta: Annotated[float, Ge(0)] = 0.05
    tau: Annotated[float, Gt(0)] = 0.2
    pool: Annotated[Any, Plugin("select")] = field(default_factory=greedy_pool)
    proposals: Annotated[int, Ge(2)] = 5000
    local: Annotated[int, Ge(0)] = 50
    initial: Annotated[int, Ge(2)] = 5
    explore: Annotated[float, Ge(0), Lt(1)] = 0.0
    samples: Annotated[int, Ge(1)] = 15
    models: Annotated[int, Ge(2)] = 5
    max_pairs: Annotated[int, Ge(100)] = 6000

    def __post_init__(self) -> None:
        self._budget()
        if self.pool is None:
            raise ValueError("pool: expected a selector, found nothing")
        if self.beta >= 0.2:
            warnings.warn(
                f"search.beta: {self.beta} lets diversity outweigh accuracy; below 0.2 is advised", stacklevel=3
            )

    def _weight_of_diversity(self, finished: int) -> float:
        """Return w(t): 0 at t = 0, rising to beta / 2."""
        return self.beta * (1.0 / (1.0 + float(np.exp(-self.tau * finished))) - 0.5)

    def propose(self, history: History, space: Space, count: int, rng: np.random.Generator) -> list[Settings]:
        """Return `count` settings (see `Search`)."""
        weight = self._weight_of_diversity(len(history.finished))
        penalty = partial(_DiversityRanks, self, history, weight) if weight > 0 else None
        return propose(history, space, count, rng, self._budget(), penalty)

    def _budget(self) -> Budget:
        return Budget(self.proposals, self.local, self.initial, self.explore)


class _DiversityRanks:
    """A `Penalty`: w(t) R_div of all proposals, updated as proposals become pending."""

    def __init__(
        self,
        search: DivBO,
        history: History,
        weight: float,
        finished: Sequence[Finished],
        finished_MD: Floats,
        pending_QD: Floats,
        proposals_PD: Floats,
        seed: int,
    ) -> None:
        values_M = np.array([entry.report.metrics[history.metric] for entry in finished])
        places = representative(values_M, _MEMBERS, np.random.default_rng(seed))
        probs_MNC = [history.predictions(finished[place].task.id) for place in places]
        finished_MD = finished_MD[places]
        target, metric = fill_defaults(probs_MNC, history.metric, history.target, None)
        metric = fast_metric(metric, target)
        pool = np.flatnonzero(
            search.pool.select(probs_MNC, history.targets_N, metric, **target_argument(history.target))
        )
        # With this many rows the sampling error, about 0.01, is well below the surrogate's own error.
        rows = slice_evenly(len(history.targets_N))
        div_MM = diversity([probs_NC[rows] for probs_NC in probs_MNC])
        surrogate = PairSurrogate(finished_MD, div_MM, pool, search.models, search.max_pairs, seed)
        self._diversity = surrogate.towards(proposals_PD)
        self._weight = weight
        self._rng = np.random.default_rng(seed)
        self._least_SP = np.full((search.samples, len(proposals_PD)), np.inf)
        self._join(*self._diversity.predict(np.vstack([finished_MD[pool], pending_QD])))

    def ranks(self) -> Floats:
        """Return w(t) times the rank of alpha_div: 1 for the largest, the mean rank for ties."""
        return self._weight * rankdata(-self._least_SP.mean(axis=0))

    def picked(self, place: int) -> None:
        """Add a proposal to the pool."""
        self._join(*self._diversity.predict_one(place))

    def _join(self, mean_TP: Floats, std_TP: Floats) -> None:
        noise_TS = self._rng.standard_normal((len(mean_TP), len(self._least_SP)))
        for mean_P, std_P, noise_S in zip(mean_TP, std_TP, noise_TS, strict=True):
            np.minimum(self._least_SP, mean_P + noise_S[:, None] * std_P, out=self._least_SP)
