"""Regularised evolution (Real et al. 2019, "Regularized Evolution for Image Classifier Architecture Search", AAAI)."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.records import History, Settings, settings_key
from distens.search._proposals import draw_settings
from distens.search._rounds import estimate_final_values
from distens.space.space import Space

TRIES = 100
"""The largest number of mutations tried for a new one, each of another tournament's winner; then settings are drawn."""


@dataclass(frozen=True)
class Evolution:
    """Evolution: mutations, in one domain, of the best among a few of the newest members (algorithm 1 of the paper).

    The population is the `population` members that finished last. The oldest member dies, not the worst, so that good
    settings survive only through children that do well again. `sample` members of the population are drawn with
    replacement, and the best of these (of equals, by the target's usual metric) is the parent of the next member, which
    differs from it in one domain (`Space.neighbour`; there is no crossover). Neural ensemble search evolves its pool of
    members this way (Zaidi et al. 2021, "NES-RE"; there, parents are members that an ensemble would take).

    Where we differ from the paper: members run side by side, so a batch holds one tournament for each new member in the
    same population, which changes as members arrive; a child that is already known is not trained again; failed members
    have no children.

    Attributes:
        population: the number of living members (100 in the paper, for 20,000 members; 30 in DivBO's comparison, for
            250).
        sample: how many of them compete to be the parent; more is greedier (a quarter of the population in the paper).
        initial: the number of members, finished or pending, drawn at random first (in the paper a population).
    """

    population: Annotated[int, Ge(1)] = 30
    sample: Annotated[int, Ge(1)] = 8
    initial: Annotated[int, Ge(1)] = 30

    def propose(self, history: History, space: Space, count: int, rng: np.random.Generator) -> list[Settings]:
        """Return `count` settings (see `Search`)."""
        born = len(history.finished) + len(history.pending)
        first = max(0, len(history.finished) - self.population)
        alive = zip(history.finished[first:], estimate_final_values(history)[first:].tolist(), strict=True)
        # A narrowed space contains few of the living members; children of the others would not lie in it.
        parents = [
            ((value, history.merit(entry)[1]), entry.task.settings)
            for entry, value in alive
            if space.contains(entry.task.settings)
        ]
        random = min(count, max(0, self.initial - born)) if parents else count
        picks = draw_settings(space, random, history.known(), rng)
        taken = set(map(settings_key, picks))
        while len(picks) < count and (child := self._child(parents, space, history.known(), taken, rng)) is not None:
            picks.append(child)
            taken.add(settings_key(child))
        if len(picks) < count:  # there are no new settings near the parents
            picks += draw_settings(space, count - len(picks), history.known() | taken, rng)
        return picks

    def _child(
        self,
        parents: Sequence[tuple[tuple[float, float], Settings]],
        space: Space,
        known: Set[str],
        taken: Set[str],
        rng: np.random.Generator,
    ) -> Settings | None:
        """Return new settings that differ from a tournament's winner in one domain; None if none are found."""
        for _ in range(TRIES):
            rivals = [parents[int(place)] for place in rng.integers(len(parents), size=self.sample)]
            _, parent = min(rivals, key=lambda rival: rival[0])
            child = space.neighbour(parent, rng)
            if (name := settings_key(child)) not in known and name not in taken:
                return child
        return None
