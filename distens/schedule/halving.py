"""Asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning")."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge

from distens.records import Finished, History, Rung
from distens.schedule._rungs import best_of_rung, last_epoch, rung_epochs
from distens.schedule.protocol import Decision, Promotion, Start, TrainingLength


@dataclass(frozen=True)
class Halving:
    """Halving: all members start with few epochs, and free slots train the best of a rung further (ASHA, algorithm 2).

        9 epochs   m4                                     a free slot looks, from the top rung down, for a member that
        3 epochs   m0  m4  m7                             is among the best 1 / eta of those that came back in its rung
        1 epoch    m0  m1  m2  m3  m4  m5  m6  m7  m8     and was not promoted; without one it starts a new member

    Slots do not wait for a complete rung. So a member may be promoted that would not be if all had come back; the share
    of such members falls as their number grows (paper, section 3.2). The order of arrival decides nothing else. If a
    search learns, later members are better, and more than 1 / eta of them are among the best when they arrive: of 16
    LeNets with `divbo`, 7 to 9 were promoted to the second rung and 3 to 5 to the third, where one third would be 5
    and 1 (`configs/fashion_mnist.yaml`, three seeds).

    Where we differ: rungs are counted from above (`distens.schedule._rungs.rung_epochs`), and a member that failed
    counts as the worst of its rung. Members of families that cannot be trained in parts are trained in one go, outside
    the rungs.

    Attributes:
        minimum: the least number of epochs of the first rung.
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

    def planned(self, lengths: Mapping[str, TrainingLength]) -> Halving:
        """Return the schedule with its maximum filled in (see `Schedule`)."""
        return replace(self, maximum=last_epoch(self.maximum, lengths))

    def total(self, members: int | None) -> int | None:
        """Return the number of members that the search is given; warn if they are too few for the last rung.

        As in the paper, a rung of fewer than eta members promotes none. More than one in eta may reach a rung, as
        promotions do not wait for the complete rung below.
        """
        rungs = self._budgets()
        least = self.eta ** (len(rungs) - 1)
        if members is not None and members < least:
            counts = [members // self.eta**k for k in range(len(rungs))]
            going = ", ".join(f"{count} for {epochs}" for count, epochs in zip(counts, rungs, strict=True) if count)
            warnings.warn(
                f"schedule: too few members for {rungs[-1]} epochs: of {members} members about {going} epochs; with "
                f"search.members {least} or more, or a higher `minimum`, some do",
                stacklevel=2,
            )
        return members

    def decide(self, history: History) -> Decision:
        """Return the promotions that are due, from the highest rung down, and the start of a new member."""
        rungs = self._budgets()
        promote: list[Promotion] = []
        for low, high in reversed(list(pairwise(rungs))):
            done = history.rungs.get(("", low), Rung()).done
            gone = set(history.rungs.get(("", high), Rung()).asked)
            ahead = best_of_rung(done, history, len(done) // self.eta, gone)
            promote += [Promotion(entry, high) for entry in ahead]
        return Decision(promote, Start(budget=rungs[0]))

    def standing(self, history: History) -> Sequence[Finished]:
        """Return the highest finished rung of every member."""
        return history.finished

    def _budgets(self) -> tuple[int, ...]:
        assert self.maximum is not None, "planned comes first"
        return rung_epochs(self.minimum, self.maximum, self.eta)
