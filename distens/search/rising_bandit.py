"""Rising bandits (Li et al. 2020, "Efficient Automatic CASH via Rising Bandits", AAAI): a choice of families."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge

from distens.records import History, Settings, settings_key
from distens.search._proposals import draw_settings
from distens.search._rounds import Budget, estimate_final_values, propose
from distens.seeding import generator
from distens.space.space import Space


@dataclass(frozen=True)
class RisingBandit:
    """RisingBandit: `Bayes` for each family by itself, without families that can no longer become the best.

    Families are arms. An arm's reward is the best value that it has reached, y = -metric: it rises ever more slowly.
    The remaining families take turns. With y_n the reward after n members of a family, C the window and L the rest of
    the horizon,

        growth = (y_n - y_{n-C}) / C,    upper = y_n + growth L,    lower = y_n

    and a family is dropped when its upper bound is below the lower bound of another one. The best is never dropped.

    Where we differ from the paper, or where it is silent: bounds are computed from history at each call, not once a
    round. With a fixed horizon L only shrinks, so a dropped family stays dropped unless a member that was still
    training brings it back. Upper bounds are not cut at 1, since a metric may have any scale. A failed member is a play
    without gain: growth is per play, failures included (history does not tell when they occurred). No family is dropped
    before it was played more than C times, and families whose settings are used up are skipped. L is counted in
    members, as if all remaining members were of that family.

    Attributes:
        turn: the number of members that a family trains before the next family's turn.
        window: C. Li et al.'s method is often run with 7; DivBO's comparison uses three turns of five: `turn: 5,
            window: 15`. With 7 and 12 families, no family is dropped before 12 x 8 = 96 members. For 100 members on
            four tables, the best 25 are on average the 22nd best of 400 settings with a window of 3, the 37th with 7.
        horizon: the number of members that the search is for, as in the paper; beyond it only the best family is
            played. None: the search looks as far ahead as it looks back, L = the number of members that finished or
            failed so far. No budget has to be known then, and a family that was dropped while its reward rose comes
            back as L grows.
        initial: the number of members of each family drawn at random before its forest is used.
        proposals, local: as in `Bayes`, for one family.
    """

    turn: Annotated[int, Ge(1)] = 1
    window: Annotated[int, Ge(1)] = 3
    horizon: Annotated[int, Ge(1)] | None = None
    initial: Annotated[int, Ge(2)] = 3
    proposals: Annotated[int, Ge(2)] = 5000
    local: Annotated[int, Ge(0)] = 50

    def __post_init__(self) -> None:
        self._budget()

    def propose(self, history: History, space: Space, count: int, rng: np.random.Generator) -> list[Settings]:
        """Return `count` settings (see `Search`)."""
        root = int(rng.integers(2**63))
        arms = [_Arm.of(history, space, family) for family in space.families]
        turns = self._turns(arms, count)
        budget = self._budget()
        picks = {
            arm.family: iter(propose(arm.history, arm.space, size, generator(root, arm.family), budget))
            for arm in arms
            if (size := turns.count(arm.family))
        }
        found = [next(picks[family]) for family in turns]
        if len(found) < count:  # the space is exhausted
            taken = history.known() | set(map(settings_key, found))
            found += draw_settings(space, count - len(found), taken, generator(root, "repeats"))
        return found

    def _budget(self) -> Budget:
        return Budget(self.proposals, self.local, self.initial)

    def _turns(self, arms: Sequence[_Arm], count: int) -> list[str]:
        """Return the families of the next members: each time the first remaining family with the fewest turns."""
        curves = {arm.family: Curve(arm.rewards, len(arm.history.failed)) for arm in arms}
        kept = find_remaining(curves, self.window, self.horizon)
        plays = {arm.family: curves[arm.family].plays + len(arm.history.pending) for arm in arms}
        new = {arm.family: arm.new(count) for arm in arms}
        turns: list[str] = []
        while len(turns) < count:
            open_to = [arm.family for arm in arms if new[arm.family]]
            open_to = [family for family in open_to if family in kept] or open_to
            if not open_to:
                break
            turns.append(min(open_to, key=lambda family: plays[family] // self.turn))
            plays[turns[-1]] += 1
            new[turns[-1]] -= 1
        return turns


class Curve(NamedTuple):
    """The rewards of a family: its best reward after each finished member, and the number of failed members."""

    rewards: Sequence[float]
    failed: int = 0

    @property
    def plays(self) -> int:
        """Return the number of members that finished or failed."""
        return len(self.rewards) + self.failed

    @property
    def lower(self) -> float:
        """Return the lower bound of the family's reward: the reward that it has reached."""
        return self.rewards[-1] if self.rewards else -math.inf

    def upper(self, window: int, ahead: int) -> float:
        """Return the upper bound of the family's reward after `ahead` more plays."""
        finished = len(self.rewards)
        if self.plays <= window:
            return math.inf  # too few plays for a bound
        span = min(window, finished - 1)
        if span < 1:
            return self.lower
        # Some plays fail, so growth per play is less than growth per finished member.
        growth = (self.rewards[-1] - self.rewards[-1 - span]) / span * finished / self.plays
        return self.lower + growth * ahead


def find_remaining(curves: Mapping[str, Curve], window: int, horizon: int | None) -> list[str]:
    """Return the families that may still become the best (see `RisingBandit`)."""
    seen = sum(curve.plays for curve in curves.values())
    ahead = seen if horizon is None else max(horizon - seen, 0)
    best = max(curve.lower for curve in curves.values())
    return [family for family, curve in curves.items() if curve.upper(window, ahead) >= best]


class _Arm(NamedTuple):
    """An arm: one family with its part of space and history, and its best reward after each finished member."""

    family: str
    space: Space
    history: History
    rewards: Sequence[float]

    @classmethod
    def of(cls, history: History, space: Space, family: str) -> _Arm:
        part = dataclasses.replace(
            history,
            finished=[entry for entry in history.finished if entry.task.settings["family"] == family],
            failed=[entry for entry in history.failed if entry.task.settings["family"] == family],
            pending=[task for task in history.pending if task.settings["family"] == family],
            keys=history.known(),  # the keys of all families serve for each one
        )
        return cls(family, space.only(family), part, np.maximum.accumulate(-estimate_final_values(part)).tolist())

    def new(self, count: int) -> int:
        """Return the number of settings of the family that are not known yet, at most `count`."""
        tasks = [entry.task for entries in (self.history.finished, self.history.failed) for entry in entries]
        tasks += self.history.pending
        if self.space.count - len(tasks) >= count:
            return count
        known = {settings_key(task.settings) for task in tasks if self.space.contains(task.settings)}
        return int(min(max(self.space.count - len(known), 0), count))
