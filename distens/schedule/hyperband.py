"""Hyperband (Li et al. 2018, "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization"), deepened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge

from distens.records import Finished, History, Rung
from distens.schedule._rungs import best, budgets, furthest
from distens.schedule.protocol import Decision, Length, Promotion, Start


@dataclass(frozen=True)
class Bracket:
    """Successive halving of `members` members: to each rung, one in eta of the one below.

    Its name tells the epochs at which it begins, the same in every deepening.
    """

    budgets: tuple[int, ...]
    members: int

    @property
    def name(self) -> str:
        """What its members' names begin with."""
        return f"b{self.budgets[0]}"


@dataclass(frozen=True)
class Hyperband:
    """Halve several times, from many members with few epochs each to few with all of them (algorithm 1).

    Of 81 epochs and eta 3 there are five brackets. Bracket s starts n = ceil((s_max + 1) eta^s / (s + 1)) members,
    and of n members in a rung floor(n / eta) go on, when all of it have come back:

        epochs   b1   b3   b9   b27   b81        (the paper's table 1 has 27, 9 and 6 for 34, 15 and 8: it rounds
             1   81                              before it multiplies; algorithm 1 does not)
             3   27   34
             9    9   11   15
            27    3    3    5     8
            81    1    1    1     2     5

    Brackets do not wait for each other: while a rung is out, the next bracket's members are started. Equal values go
    by name, so the order of arrival decides nothing.

    **Deepening** (Brandt et al. 2023, "Iterative Deepening Hyperband"): the brackets of 27 epochs are those of 81
    without the last rung, and with fewer members: 27 of b1's 81, 12 of 34, 6 of 15, 4 of 8. Members are numbered, and
    their settings drawn, bracket by bracket. So after `maximum` was raised by eta, a run that goes on uses every rung
    it has, and with `search: random` it selects what a fresh run selects. What was promoted among fewer, and would
    not be among all, counts with its lower rung: the paper's discarding variant.

    Where we differ: rungs are counted from above (`distens.schedule._rungs.budgets`); a member that failed is the worst
    of its rung. Members of families that cannot be trained in parts take their place in a bracket, but are trained
    whole and leave its rungs to the others.

    Attributes:
        minimum: epochs of the first rung of the first bracket, at least.
        maximum: epochs of the last; without, what the members' settings say. It may be raised later, by factors of eta.
        eta: one in so many goes on, to so many times the epochs.
    """

    minimum: Annotated[int, Ge(1)] = 1
    maximum: Annotated[int, Ge(1)] | None = None
    eta: Annotated[int, Ge(2)] = 3

    def __post_init__(self) -> None:
        if self.maximum is not None:
            budgets(self.minimum, self.maximum, self.eta)

    def planned(self, lengths: Mapping[str, Length]) -> Hyperband:
        """Return the schedule with its maximum (see `Schedule`)."""
        return replace(self, maximum=furthest(self.maximum, lengths))

    def total(self, members: int | None) -> int | None:
        """Return the members of all brackets.

        Raises:
            ValueError: the search was given a number.
        """
        total = sum(bracket.members for bracket in self._brackets())
        if members is not None:
            raise ValueError(f"search.members: {members} has no effect: the brackets start {total} members")
        return total

    def _brackets(self) -> list[Bracket]:
        """Return the brackets, in the order in which they are started: s from s_max down to 0."""
        assert self.maximum is not None, "planned comes first"
        rungs = budgets(self.minimum, self.maximum, self.eta)
        sizes = {s: -(-len(rungs) * self.eta**s // (s + 1)) for s in range(len(rungs))}
        return [Bracket(rungs[-1 - s :], sizes[s]) for s in reversed(range(len(rungs)))]

    def decide(self, history: History) -> Decision:
        """Return what complete rungs promote, and the first bracket that is not full."""
        promote: list[Promotion] = []
        start: Start | None = None
        for bracket in self._brackets():
            left = bracket.members - history.started.get(bracket.name, 0)
            if left and start is None:
                start = Start(bracket.name, bracket.budgets[0], left)
            for budget, ahead in self._promoted(history, bracket):
                gone = set(history.rungs.get((bracket.name, budget), Rung()).asked)
                promote += [Promotion(entry, budget) for entry in ahead if entry.task.member not in gone]
        return Decision(promote, start)

    def standing(self, history: History) -> Sequence[Finished]:
        """Return each member's highest rung, but for those that a rung's final word left behind; bracket by bracket,
        by name: the same order whatever came first."""
        finished = sorted((e for e in history.finished if e.task.budget is None), key=lambda e: e.task.id)
        for bracket in self._brackets():
            latest: dict[str, Finished] = {}
            ahead = {budget: {e.task.member for e in entries} for budget, entries in self._promoted(history, bracket)}
            going: set[str] | None = None  # not said yet: all
            for budget in bracket.budgets:
                going = ahead.get(budget, going)
                for entry in history.rungs.get((bracket.name, budget), Rung()).done:
                    if isinstance(entry, Finished) and (going is None or entry.task.member in going):
                        latest[entry.task.member] = entry
            finished += [latest[member] for member in sorted(latest)]
        return finished

    def _promoted(self, history: History, bracket: Bracket) -> Iterator[tuple[int, list[Finished]]]:
        """Yield, for each rung that is complete, the epochs of the next and who goes on there."""
        if history.started.get(bracket.name, 0) < bracket.members:
            return
        members = set(history.rungs.get((bracket.name, bracket.budgets[0]), Rung()).asked)
        for low, high in pairwise(bracket.budgets):
            rung = history.rungs.get((bracket.name, low), Rung())
            done = [entry for entry in rung.done if entry.task.member in members]
            if len(done) < len(members):
                return
            ahead = best(done, history.metric, len(members) // self.eta)
            yield high, ahead
            members = {entry.task.member for entry in ahead}
