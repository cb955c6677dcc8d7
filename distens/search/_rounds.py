"""The round of Bayesian searches: fit a forest, gather proposals, rank them, pick; repeat with the pick pending.

finished, failed ──► forest ──► fantasies of the pending ──► forest ─┬─► expected improvement ─► ranks ─┐
                                                                     └─► walks uphill ┐                 ├─► pick
space ──► draws ──────────────────────────────────────────────────────── proposals ───┴─► penalty ──────┘
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Protocol

import numpy as np
from scipy.stats import rankdata

from distens.records import Finished, Floats, History, Integers, Settings, settings_key
from distens.registry import make_plugin
from distens.search._forest import Forest, expected_improvement, fence_outliers
from distens.search._proposals import draw_new, draw_settings, walk_uphill
from distens.seeding import derive, generator
from distens.space.space import Space


class Penalty(Protocol):
    """A penalty on proposals, added to their ranks by expected improvement; a proposal is identified by its index.

    Example:
        >>> class PreferEarly:  # with proposals of equal improvement, pick the first
        ...     def __init__(self, count):
        ...         self._count = count
        ...     def ranks(self):
        ...         return 0.1 * np.arange(self._count)
        ...     def picked(self, place):
        ...         pass
        >>> penalty: Penalty = PreferEarly(3)
        >>> int(np.argmin(np.array([2.0, 2.0, 2.0]) + penalty.ranks()))
        0
    """

    def ranks(self) -> Floats:
        """Return penalty_P; lower is better."""
        ...

    def picked(self, place: int) -> None:
        """Record that the proposal at an index is now pending."""
        ...


MakePenalty = Callable[[Sequence[Finished], Floats, Floats, Floats, int], Penalty]
"""(finished, finished_MD, pending_QD, proposals_PD, seed) -> penalty; _D are encoded settings."""

Goal = Callable[[History, Integers], tuple[Floats, float]]
"""(history, indices of finished members) -> the values to minimise, one for each, and the value to improve on."""

MAX_FOREST_MEMBERS = 1000
"""A forest learns from this many members at most."""

REFIT = 8
"""With many picks at once, the forest is refitted after each of the first 16, then each time the picks grow by one
part in REFIT, an eighth."""

EXAMPLES = 1000
"""The diversity and gain of predictions are measured on this many examples at most."""


def slice_evenly(examples: int) -> slice:
    """Return a slice that takes at most EXAMPLES of the examples, evenly spaced."""
    return slice(None, None, -(-examples // EXAMPLES))


def greedy_pool() -> Any:
    """Return the greedy selector of DivBO's paper: 25 picks, neither cut nor bagged."""
    return make_plugin("select", {"kind": "greedy", "size": 25, "cut": False, "bags": 1}, "search.pool")


@dataclass(frozen=True)
class Budget:
    """The numbers of a round.

    Attributes:
        proposals: the number of proposals that are ranked.
        local: how many of them come from walks from settings already tried; the rest are drawn.
        initial: the number of first picks that are random.
        explore: the share of later picks that are random.
    """

    proposals: int
    local: int
    initial: int
    explore: float = 0.0

    def __post_init__(self) -> None:
        if self.local >= self.proposals:
            raise ValueError(f"local: {self.local} walks leave none of {self.proposals} proposals to be drawn")


def propose(
    history: History,
    space: Space,
    count: int,
    rng: np.random.Generator,
    budget: Budget,
    make_penalty: MakePenalty | None = None,
    goal: Goal | None = None,
) -> list[Settings]:
    """Return `count` settings: random until `budget.initial` are finished or pending and 2 finished, then by rank.

    One number is drawn from `rng`, whatever the options; every other random generator is derived from it by name.

    Args:
        goal: returns the values to minimise and the value to improve on; None: the metric and its least value so far.
    """
    root = int(rng.integers(2**63))
    taken, finished = history.known(), len(history.finished)
    pending = [task.settings for task in history.pending]
    random = count if finished < 2 else min(count, max(0, budget.initial - finished - len(pending)))
    random += int(generator(root, "explore").binomial(count - random, budget.explore))
    picks = draw_settings(space, random, taken, generator(root, "initial"))
    if len(picks) < count:
        taken = taken | set(map(settings_key, picks)) if picks else taken
        picks += _ranked(history, space, pending + picks, taken, count - len(picks), root, budget, make_penalty, goal)
    if len(picks) < count:  # the space is exhausted
        picks += draw_settings(
            space, count - len(picks), taken | set(map(settings_key, picks)), generator(root, "repeats")
        )
    return picks


def _ranked(
    history: History,
    space: Space,
    pending: list[Settings],
    taken: Set[str],
    count: int,
    root: int,
    budget: Budget,
    make_penalty: MakePenalty | None,
    goal: Goal | None,
) -> list[Settings]:
    """Return up to `count` new settings, each the best by rank given the earlier ones (see `REFIT`)."""
    values = estimate_final_values(history)
    values_M = np.concatenate([values, np.full(len(history.failed), values.max())])
    places = representative(values_M, MAX_FOREST_MEMBERS, generator(root, "tried"))
    entries, values_M, best = (*history.finished, *history.failed), values_M[places], float(values.min())
    tried = [entries[place].task.settings for place in places]
    finished_places = places[places < len(values)]
    finished = [history.finished[place] for place in finished_places]
    if goal:
        found, best = goal(history, finished_places)
        values_M = np.concatenate([found, np.full(len(places) - len(found), found.max())])
    values_M = fence_outliers(values_M)
    tried_MD, pending_QD = space.encode(tried), space.encode(pending)
    seed = derive(root, "forest")
    believer = Forest(tried_MD, values_M, seed)

    def fit(pending_QD: Floats) -> Forest:
        if not len(pending_QD):
            return believer
        fantasies_Q = believer.predict(pending_QD)[0]
        return Forest(np.vstack([tried_MD, pending_QD]), np.concatenate([values_M, fantasies_Q]), seed)

    forest = fit(pending_QD)

    def improvement(features_PD: Floats) -> Floats:
        return expected_improvement(*forest.predict(features_PD), best)

    order = np.argsort(-improvement(tried_MD), kind="stable")
    # A narrowed space contains few of the settings tried; walks from the others do not lead into it.
    starts = list(islice((tried[i] for i in order if space.contains(tried[i])), budget.local))
    proposals = walk_uphill(space, starts, improvement, taken, generator(root, "walks"))
    drawn_taken, drawn = taken | set(map(settings_key, proposals)), budget.proposals - budget.local
    proposals += draw_new(space, drawn, drawn_taken, generator(root, "draws"), needed=count - len(proposals))
    if not proposals:
        return []
    proposals_PD = space.encode(proposals)
    penalty = None
    if make_penalty:
        seed_of_penalty = derive(root, "penalty")
        penalty = make_penalty(finished, tried_MD[: len(finished)], pending_QD, proposals_PD, seed_of_penalty)
    picked: list[int] = []
    ranks_P, due = rankdata(-improvement(proposals_PD)), 1
    while True:
        score_P = ranks_P + (penalty.ranks() if penalty else 0.0)
        score_P[picked] = np.inf
        picked.append(int(np.argmin(score_P)))
        if len(picked) == min(count, len(proposals)):
            return [proposals[place] for place in picked]
        if penalty:
            penalty.picked(picked[-1])
        if len(picked) == due:
            forest = fit(np.vstack([pending_QD, proposals_PD[picked]]))
            ranks_P, due = rankdata(-improvement(proposals_PD)), due + max(1, due // REFIT)


def estimate_final_values(history: History) -> Floats:
    """Return the metric of every finished member, estimated for the epochs of the last rung.

    A member that a schedule stopped early has a worse value for that reason alone, and a search that took the value
    unchanged would avoid the settings of members that were not lucky enough to be promoted. The estimate adds, for each
    higher rung, the median change of the members that were promoted to it. Without a schedule, values are unchanged.
    """
    values_M = history.values()
    budgets = sorted({budget for _, budget in history.rungs})
    if len(budgets) < 2:
        return values_M
    reached: dict[str, dict[int, float]] = {}
    for (_, budget), rung in history.rungs.items():
        for entry in rung.done:
            if isinstance(entry, Finished):
                reached.setdefault(entry.task.member, {})[budget] = entry.report.metrics[history.metric]
    ahead = {budgets[-1]: 0.0}
    for low, high in reversed(list(pairwise(budgets))):
        steps = [values[high] - values[low] for values in reached.values() if low in values and high in values]
        ahead[low] = ahead[high] + (float(np.median(steps)) if steps else 0.0)
    return values_M + [ahead.get(entry.task.budget or 0, 0.0) for entry in history.finished]


def representative(values_M: Floats, most: int, rng: np.random.Generator) -> Integers:
    """Return the indices, in order, of at most `most` members: half are the best, half are drawn from the others."""
    if len(values_M) <= most:
        return np.arange(len(values_M))
    order_M = np.argsort(values_M, kind="stable")
    best, others = order_M[: most // 2], order_M[most // 2 :]
    return np.sort(np.append(best, rng.choice(others, most - most // 2, replace=False)))
