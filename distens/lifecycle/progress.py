"""What a run tells whoever watches it, and how far it has come."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappush, heappushpop

from distens.records import Failure, Finished, History, Task
from distens.select.protocol import Selector, judged
from distens.targets.classes import unless_classes


@dataclass(frozen=True)
class Update:
    """What a run tells whoever watches it, after each dispatch and each outcome.

    Attributes:
        phase: `data`; whatever the role calls what it does (`search`, `rounds`, …); `finish`; `done`.
        text: a line for a log; empty if all that changed is what is running.
        counted: what goes on one by one, in the plural (`members`); empty where nothing is counted.
        total: how many of them there will be, 0 where only time sets a limit; `finished` (members in their first rung
            at least) and `failed` are among them.
        numbered: the text says by itself which of them it is about.
        running: how many were dispatched and have not come back.
        best, ensemble: the metric on the *search* split of the best member, and of the selection, so far.
        path: the run's folder, once it is there.
    """

    phase: str
    text: str
    counted: str = ""
    total: int = 0
    finished: int = 0
    failed: int = 0
    running: int = 0
    metric: str = "nll"
    best: float | None = None
    ensemble: float | None = None
    outcome: Finished | Failure | None = None
    path: str = ""
    numbered: bool = False


Watch = Callable[[Update], None]


def line(task: Task, outcome: Finished | Failure, metric: str) -> str:
    """Return an outcome as a line for a log, with the member's rows if it says how many it had, and its metric if that
    could be measured."""
    name = " ".join(dict.fromkeys((task.id, task.settings["family"])))
    if isinstance(outcome, Failure):
        again = "" if outcome.final else "; trying again"
        return f"{name}: {outcome.reason}: {outcome.message.splitlines()[-1] if outcome.message else ''}{again}"
    found = outcome.report.metrics
    told = [f"{found['rows']:.0f} rows"] if "rows" in found else []
    told += [f"{metric} {found[metric]:.4f}"] if metric in found else []
    return f"{name}: {', '.join(told) or 'done'} in {outcome.report.seconds:.1f} s"


LEADERS = 100
"""What is selected on the way, to be looked at, is selected among the best so many members; the end weighs them all."""

SHARE = 0.01


@dataclass
class Progress:
    """How far the search has come: counts, best single, ensemble. It decides nothing, and costs next to nothing.

    A member trained in rungs counts once, and is as good as its best rung. The ensemble is a selection among the
    LEADERS best members so far, made anew only while that takes less than SHARE of the time.
    """

    selector: Selector
    metric: str
    total: int
    finished: int = 0
    failed: int = 0
    best: float | None = None
    ensemble: float | None = None
    _arrived: int = field(default=0, repr=False)
    _seen: set[str] = field(default_factory=set, repr=False)  # members trained in rungs
    _leaders: list[tuple[float, int, str, str]] = field(default_factory=list, repr=False)  # a heap, the worst on top
    _began: float = field(default_factory=time.monotonic, repr=False)
    _spent: float = field(default=0.0, repr=False)
    _longest: float = field(default=0.0, repr=False)

    def replay(self, history: History) -> None:
        """Catch up with a history that was there before us."""
        self.failed = self._arrived = len(history.failed)
        for entry in history.finished:
            self._finish(entry)
        if history.finished:
            self._select(history)

    def add(self, outcome: Finished | Failure, history: Callable[[], History]) -> int | None:
        """Take in one outcome; return its step if the curves in tracking need it."""
        if isinstance(outcome, Failure):
            self._arrived += outcome.final
            self.failed = len(history().failed)  # a rung above another may fail without its member
            return None
        self._finish(outcome)
        if self._spent + self._longest <= SHARE * (time.monotonic() - self._began):
            self._select(history())
        return self._arrived if _is_step(self._arrived) or self._arrived == self.total else None

    def values(self) -> dict[str, float]:
        """Return what the curves in tracking show."""
        assert self.best is not None
        ensemble = self.best if self.ensemble is None else self.ensemble
        counts = {"finished": self.finished, "failed": self.failed}
        return {"best_single": self.best, "ensemble": ensemble, **counts}

    def _finish(self, entry: Finished) -> None:
        value = entry.report.metrics[self.metric]
        task = entry.task
        self._arrived += 1
        self.finished += task.member not in self._seen
        if task.budget is not None:
            self._seen.add(task.member)
        self.best = value if self.best is None else min(self.best, value)
        leader = (-value, -self._arrived, task.member, task.id)
        (heappush if len(self._leaders) < LEADERS else heappushpop)(self._leaders, leader)

    def _select(self, history: History) -> None:
        started = time.monotonic()
        names: dict[str, str] = {}
        for *_, member, name in sorted(self._leaders, reverse=True):
            names.setdefault(member, name)
        probs_MNC = [history.predictions(name) for name in names.values()]
        target, _ = judged(probs_MNC, self.metric, history.target, None)
        weights_M = self.selector.select(probs_MNC, history.targets_N, self.metric, **unless_classes(history.target))
        self.ensemble = target.metrics(target.mean(probs_MNC, weights_M), history.targets_N)[self.metric]
        took = time.monotonic() - started
        self._spent, self._longest = self._spent + took, max(self._longest, took)


def _is_step(done: int) -> bool:
    """Whether a number has no more than two digits that are not trailing zeros: 280 steps up to 10,000."""
    return done % 10 ** max(0, len(str(done)) - 2) == 0
