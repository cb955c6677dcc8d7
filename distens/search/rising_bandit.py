"""Rising bandits (Li et al. 2020, "Efficient Automatic CASH via Rising Bandits", AAAI): which family is worth more?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge

from distens.records import History, Settings, settings_key
from distens.search._proposals import draw
from distens.search._rounds import Budget, propose, trained_on
from distens.seeding import generator
from distens.space.space import Space


@dataclass(frozen=True)
class RisingBandit:
    """Search each family by itself, as `Bayes` does, and give up families that cannot become the best any more.

    Families are arms, and an arm's reward is the best that it has reached, y = -metric: it rises, ever more slowly.
    The families that are left take turns. With y_n the reward after n members of a family, C the window and L what is
    left of the horizon,

        growth = (y_n - y_{n-C}) / C,    upper = y_n + growth L,    lower = y_n

    and a family is dropped when its upper bound is below the lower bound of another one. The best is never dropped.

    Where we differ from the paper, or it is silent: bounds are worked out from history at each call, not once a round;
    as L only shrinks towards a horizon, a dropped family stays dropped unless a member that was still training brings
    it back. Upper bounds are not cut at 1, for a metric may have any scale. A failed member is a play that brought
    nothing: growth is per play, failures included (history does not say between which members they fell). No family is
    dropped before it was played more than C times, and those whose settings are used up are passed over. L is
    counted in members, as if all that are left went to that family.

    Attributes:
        turn: how many members a family trains before it is the next one's turn.
        window: C. Li et al.'s method is often run with 7, in DivBO's comparison with three turns of five: `turn: 5,
            window: 15`. With 12 families no drop comes before 12 x 8 = 96 members then; of 100 members of four tables
            the best 25 are on average the 22nd best of 400 settings with 3, the 37th with 7.
        horizon: how many members the search is for, as in the paper; beyond it only the best family is played. By
            default the search looks as far ahead as it looks back, L = the members that it saw finish or fail: no
            budget has to be known, and a family that was dropped while it rose comes back as L grows.
        initial: how many members of each family are drawn at random before its forest is asked.
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
            found += draw(space, count - len(found), taken, generator(root, "repeats"))
        return found

    def _budget(self) -> Budget:
        return Budget(self.proposals, self.local, self.initial)

    def _turns(self, arms: Sequence[_Arm], count: int) -> list[str]:
        """Return the families of the next members: of those left, whichever had the fewest turns, in order."""
        curves = {arm.family: Curve(arm.rewards, len(arm.history.failed)) for arm in arms}
        kept = left(curves, self.window, self.horizon)
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
    """What a family has reached: its best reward after each member that finished, and how many failed."""

    rewards: Sequence[float]
    failed: int = 0

    @property
    def plays(self) -> int:
        """How many of its members are done."""
        return len(self.rewards) + self.failed

    @property
    def lower(self) -> float:
        """The reward that it has for certain."""
        return self.rewards[-1] if self.rewards else -math.inf

    def upper(self, window: int, ahead: int) -> float:
        """Return what it may reach in `ahead` more plays."""
        finished = len(self.rewards)
        if self.plays <= window:
            return math.inf  # too early to say
        span = min(window, finished - 1)
        if span < 1:
            return self.lower
        # Of its plays only so many finish: growth per play is less than growth per member.
        growth = (self.rewards[-1] - self.rewards[-1 - span]) / span * finished / self.plays
        return self.lower + growth * ahead


def left(curves: Mapping[str, Curve], window: int, horizon: int | None) -> list[str]:
    """Return the families that may still become the best (see `RisingBandit`)."""
    seen = sum(curve.plays for curve in curves.values())
    ahead = seen if horizon is None else max(horizon - seen, 0)
    best = max(curve.lower for curve in curves.values())
    return [family for family, curve in curves.items() if curve.upper(window, ahead) >= best]


class _Arm(NamedTuple):
    """One family: its part of space and history, and the best reward so far after each member that finished."""

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
            keys=history.known(),  # a look-up of all families does for each
        )
        return cls(family, space.only(family), part, np.maximum.accumulate(-trained_on(part)).tolist())

    def new(self, count: int) -> int:
        """Return how many settings are left that are not known, `count` at most."""
        tasks = [entry.task for entries in (self.history.finished, self.history.failed) for entry in entries]
        tasks += self.history.pending
        if self.space.count - len(tasks) >= count:
            return count
        known = {settings_key(task.settings) for task in tasks if self.space.contains(task.settings)}
        return int(min(max(self.space.count - len(known), 0), count))
