"""The goal of a search: how good the ensemble is to be on the *search* split, for the search to end early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from distens.lifecycle.progress import LEADERS
from distens.records import History
from distens.select.protocol import Selector
from distens.targets.classes import target_argument
from distens.targets.protocol import Target


@dataclass
class Goal:
    """The goal of a search (`search.stop_at`), which the ensemble so far reaches or not; the history alone decides.

    The ensemble so far is what the run would select if the search ended now, from the LEADERS best members.

    Attributes:
        measure: a metric that the target minimises.
        threshold: the value that the ensemble is to have, or one below it.
        selector: selects the ensemble.
        target: the kind of the targets.
    """

    measure: str
    threshold: float
    selector: Selector
    target: Target
    _names: tuple[str, ...] = field(default=(), init=False, repr=False)
    _value: float = field(default=math.inf, init=False, repr=False)

    def reached(self, history: History) -> str:
        """Return the reason why the search ends here, in words; "" if the ensemble is not as good yet."""
        names = _leaders(history)
        if names and names != self._names:  # a member that is not among the best changes nothing
            self._names, self._value = names, self._measure(history, names)
        if not self._value <= self.threshold:
            return ""
        return (
            f"early, with {sum(history.started.values())} members started: the ensemble's {self.measure} on the search "
            f"split is {self._value:.4g}, at most {self.threshold:g} (search.stop_at)"
        )

    def _measure(self, history: History, names: Sequence[str]) -> float:
        predictions_MNK = [history.predictions(name) for name in names]
        target, targets_N = self.target, history.targets_N
        weights_M = self.selector.select(predictions_MNK, targets_N, history.metric, **target_argument(target))
        return target.metrics(target.mean(predictions_MNK, weights_M), targets_N)[self.measure]


def _leaders(history: History) -> tuple[str, ...]:
    """Return the names of the best members that have finished, in order, as a selection at the end has them."""
    best = sorted(history.finished, key=lambda entry: (history.merit(entry), entry.task.id))[:LEADERS]
    return tuple(sorted(entry.task.id for entry in best))
