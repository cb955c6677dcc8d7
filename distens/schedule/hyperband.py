"""Hyperband (Li et al. 2018, "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization"), deepening."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge

from distens.records import Finished, History, Rung
from distens.schedule._rungs import best_of_rung, last_epoch, rung_epochs
from distens.schedule.protocol import Decision, Promotion, Start, TrainingLength


@dataclass(frozen=True)
class Bracket:
    """A bracket: `members` members start in its first rung, and one in eta of each rung is promoted to the next.

    Its name has the epochs of its first rung, which are the same in every deepening.
    """

    budgets: tuple[int, ...]
    members: int

    @property
    def name(self) -> str:
        """Return the name, with which the names of its members begin."""
        return f"b{self.budgets[0]}"


@dataclass(frozen=True)
class Hyperband:
    """Hyperband: several brackets, from many members with few epochs each to few members with all (algorithm 1).

    With 81 epochs and eta 3 there are five brackets. Bracket s starts n = ceil((s_max + 1) eta^s / (s + 1)) members.
    Of the n members of a rung floor(n / eta) are promoted, when all of them have come back:

        epochs   b1   b3   b9   b27   b81        (the paper's table 1 has 27, 9 and 6 for 34, 15 and 8: it rounds
             1   81                              before it multiplies; algorithm 1 does not)
             3   27   34
             9    9   11   15
            27    3    3    5     8
            81    1    1    1     2     5

    Brackets do not wait for each other: while a rung is in training, members of the next bracket are started. Ties are
    broken by name, so the order of arrival decides nothing.

    **Deepening** (Brandt et al. 2023, "Iterative Deepening Hyperband"): the brackets for 27 epochs are those for 81
    without the last rung, and with fewer members: 27 of b1's 81, 12 of 34, 6 of 15, 4 of 8. Members are numbered, and
    their settings drawn, bracket by bracket. So if `maximum` is raised by a factor of eta, a resumed run uses every
    rung that it has finished, and with `search: random` it selects the same members as a fresh run. A member that was
    promoted among fewer members, and would not be among all, counts with its lower rung: the paper's discarding
    variant.

    Where we differ: rungs are counted from above (`distens.schedule._rungs.rung_epochs`); a member that failed counts
    as the worst of its rung. Members of families that cannot be trained in parts take a place in a bracket, but are
    trained in one go and take no part in its rungs.

    Attributes:
        minimum: the least number of epochs of the first rung of the first bracket.
        maximum: epochs of the last rung; None: the epochs in the members' settings. It may be raised later, by factors
            of eta.
        eta: one in eta members is promoted, to eta times the epochs.
    """

    minimum: Annotated[int, Ge(1)] = 1
    maximum: Annotated[int, Ge(1)] | None = None
    eta: Annotated[int, Ge(2)] = 3

    def __post_init__(self) -> None:
        if self.maximum is not None:
            rung_epochs(self.minimum, self.maximum, self.eta)

    def planned(self, lengths: Mapping[str, TrainingLength]) -> Hyperband:
        """Return the schedule with its maximum filled in (see `Schedule`)."""
        return replace(self, maximum=last_epoch(self.maximum, lengths))

    def total(self, members: int | None) -> int | None:
        """Return the number of members of all brackets.

        Raises:
            ValueError: the search was given a number of members.
        """
        total = sum(bracket.members for bracket in self._brackets())
        if members is not None:
            raise ValueError(f"search.members: {members} has no effect: the brackets start {total} members")
        return total

    def _brackets(self) -> list[Bracket]:
        """Return the brackets in the order in which they start: s from s_max down to 0."""
        assert self.maximum is not None, "planned comes first"
        rungs = rung_epochs(self.minimum, self.maximum, self.eta)
        sizes = {s: -(-len(rungs) * self.eta**s // (s + 1)) for s in range(len(rungs))}
        return [Bracket(rungs[-1 - s :], sizes[s]) for s in reversed(range(len(rungs)))]

    def decide(self, history: History) -> Decision:
        """Return the promotions of complete rungs, and the start of members in the first bracket that is not full."""
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
        """Return each member's highest rung that counts, bracket by bracket in order of names.

        A rung does not count if the rung below is complete and does not promote the member (see Deepening). The order
        of arrival has no influence on the order of the result.
        """
        finished = sorted((e for e in history.finished if e.task.budget is None), key=lambda e: e.task.id)
        for bracket in self._brackets():
            latest: dict[str, Finished] = {}
            ahead = {budget: {e.task.member for e in entries} for budget, entries in self._promoted(history, bracket)}
            going: set[str] | None = None  # None: no complete rung below has decided, so all count
            for budget in bracket.budgets:
                going = ahead.get(budget, going)
                for entry in history.rungs.get((bracket.name, budget), Rung()).done:
                    if isinstance(entry, Finished) and (going is None or entry.task.member in going):
                        latest[entry.task.member] = entry
            finished += [latest[member] for member in sorted(latest)]
        return finished

    def _promoted(self, history: History, bracket: Bracket) -> Iterator[tuple[int, list[Finished]]]:
        """Yield, for each complete rung, the epochs of the next rung and the entries that are promoted to it."""
        if history.started.get(bracket.name, 0) < bracket.members:
            return
        members = set(history.rungs.get((bracket.name, bracket.budgets[0]), Rung()).asked)
        for low, high in pairwise(bracket.budgets):
            rung = history.rungs.get((bracket.name, low), Rung())
            done = [entry for entry in rung.done if entry.task.member in members]
            if len(done) < len(members):
                return
            ahead = best_of_rung(done, history, len(members) // self.eta)
            yield high, ahead
            members = {entry.task.member for entry in ahead}
