"""Asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge

from distens.records import Finished, History, Rung
from distens.schedule._rungs import best, budgets, furthest
from distens.schedule.protocol import Decision, Length, Promotion, Start


@dataclass(frozen=True)
class Halving:
    """Start every member with few epochs; whenever a slot is free, let the best of a rung go on (ASHA, algorithm 2).

        9 epochs   m4                                     a free slot looks from above for a member that is among the
        3 epochs   m0  m4  m7                             best 1 / eta of those that came back in its rung, and was
        1 epoch    m0  m1  m2  m3  m4  m5  m6  m7  m8     not promoted; there is none: it starts a new member

    Nothing waits: a member may be promoted that would not be if all had come back, a smaller share the more there are
    (paper, section 3.2). That is all that the order of arrival decides. Where a search learns, later members are
    better, and more than 1 / eta are among the best when they come: of 16 LeNets with `divbo` 7 to 9 went to the second
    rung and 3 to 5 to the third, where a third would be 5 and 1 (`configs/fashion_mnist.yaml`, three seeds).

    Where we differ: rungs are counted from above (`distens.schedule._rungs.budgets`), and a member that failed counts
    as the worst of its rung. Members of families that cannot be trained in parts are trained whole, outside the rungs.

    Attributes:
        minimum: epochs of the first rung, at least.
        maximum: epochs of the last; without, what the members' settings say. It may be raised later, by factors of eta.
        eta: one in so many goes on, to so many times the epochs.
    """

    minimum: Annotated[int, Ge(1)] = 1
    maximum: Annotated[int, Ge(1)] | None = None
    eta: Annotated[int, Ge(2)] = 3

    def __post_init__(self) -> None:
        if self.maximum is not None:
            budgets(self.minimum, self.maximum, self.eta)

    def planned(self, lengths: Mapping[str, Length]) -> Halving:
        """Return the schedule with its maximum (see `Schedule`)."""
        return replace(self, maximum=furthest(self.maximum, lengths))

    def total(self, members: int | None) -> int | None:
        """Return as many as the search is given.

        Raises:
            ValueError: so few that none can be the best 1 / eta of every rung.
        """
        rungs = self._budgets()
        least = self.eta ** (len(rungs) - 1)
        if members is not None and members < least:
            counts = [members // self.eta**k for k in range(len(rungs))]
            reached = rungs[sum(count > 0 for count in counts) - 1]
            going = ", ".join(f"{count} up to {epochs}" for count, epochs in zip(counts, rungs, strict=True) if count)
            raise ValueError(
                f"no member gets beyond {reached} of {rungs[-1]} epochs: of {members} members {going}; "
                f"search.members: {least} would, or a higher `minimum`"
            )
        return members

    def decide(self, history: History) -> Decision:
        """Return all that may be promoted, from the highest rung down, or that a member may be started."""
        rungs = self._budgets()
        promote: list[Promotion] = []
        for low, high in reversed(list(pairwise(rungs))):
            done = history.rungs.get(("", low), Rung()).done
            gone = set(history.rungs.get(("", high), Rung()).asked)
            ahead = best(done, history.metric, len(done) // self.eta, gone)
            promote += [Promotion(entry, high) for entry in ahead]
        return Decision(promote, Start(budget=rungs[0]))

    def standing(self, history: History) -> Sequence[Finished]:
        """Return the highest rung of every member."""
        return history.finished

    def _budgets(self) -> tuple[int, ...]:
        assert self.maximum is not None, "planned comes first"
        return budgets(self.minimum, self.maximum, self.eta)
