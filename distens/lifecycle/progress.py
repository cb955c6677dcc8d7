"""Updates for whoever watches a run, and the progress of its search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappush, heappushpop

from distens.metrics.protocol import shown_value
from distens.records import Failed, Failure, Finished, History, Task
from distens.select.protocol import Selector, fast_metric, fill_defaults
from distens.targets.classes import target_argument


@dataclass(frozen=True)
class ProgressEvent:
    """A message to whoever watches a run, sent after each dispatch and each outcome.

    Attributes:
        phase: `data`; the role's own name for its work (`search`, `rounds`, …); `finish`; `done`.
        text: a line for a log; empty if the only change is in what is running.
        counted: the things that are counted, in the plural (`members`); empty where nothing is counted.
        total: their final number, 0 where only time sets a limit; `finished` (for members: at least one rung) and
            `failed` are among them.
        numbered: True if the text itself has the number of the thing that it is about.
        running: the number of tasks that were dispatched and have not come back.
        best, ensemble: the metric on the *search* split of the best member, and of the selection, so far.
        path: the run's folder, in the update after it was begun or opened; else empty.
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


Watch = Callable[[ProgressEvent], None]


def format_outcome(task: Task, outcome: Finished | Failure, metric: str) -> str:
    """Return a line for a log about an outcome.

    A report's line has the member's number of rows, if reported, and its metric, if that could be measured.
    """
    name = " ".join(dict.fromkeys((task.id, task.settings["family"])))
    if isinstance(outcome, Failure):
        again = "" if outcome.final else "; trying again"
        return f"{name}: {outcome.reason}: {outcome.message.splitlines()[-1] if outcome.message else ''}{again}"
    found = outcome.report.metrics
    told = [f"{found['rows']:.0f} rows"] if "rows" in found else []
    told += [f"{metric} {found[metric]:.4f}"] if metric in found else []
    return f"{name}: {', '.join(told) or 'done'} in {outcome.report.seconds:.1f} s"


LEADERS = 100
"""The number of best members from which the ensemble is selected during a search; its end selects from all members."""

MAX_SELECTION_SHARE = 0.01


@dataclass
class Progress:
    """The progress of a search: counts, best member, ensemble so far. It decides nothing, and costs next to nothing.

    A member trained in rungs counts once, and is as good as its best rung. The ensemble is a selection among the
    LEADERS best members so far; it is made anew only while such selections take no more than MAX_SELECTION_SHARE of the
    time. `best` and `ensemble` are losses: what is minimised. `curve` has the ensemble's loss after each task that was
    followed by a selection: task id -> loss.
    """

    selector: Selector
    metric: str
    total: int
    finished: int = 0
    failed: int = 0
    best: float | None = None
    ensemble: float | None = None
    curve: dict[str, float] = field(default_factory=dict)
    _arrived: int = field(default=0, repr=False)
    _seen: set[str] = field(default_factory=set, repr=False)  # members trained in rungs
    _leaders: list[tuple[float, int, str, str]] = field(default_factory=list, repr=False)  # a heap, the worst on top
    _began: float = field(default_factory=time.monotonic, repr=False)
    _spent: float = field(default=0.0, repr=False)
    _longest: float = field(default=0.0, repr=False)

    def replay(
        self, entries: Iterable[Finished | Failed], history: Callable[[], History]
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """Count the tasks of a run that is resumed; yield step and values of every point that its curves need.

        The ensemble is selected anew as seldom as it was then, by the members' own seconds in place of time.

        Args:
            entries: the tasks that finished or were given up, in order of arrival.
            history: returns the history as it is now.
        """
        seconds, selected, last = 0.0, True, ""
        for entry in entries:
            if isinstance(entry, Finished):
                seconds, last = seconds + entry.report.seconds, entry.task.id
                self._finish(entry)
                if selected := self._spent + self._longest <= MAX_SELECTION_SHARE * seconds:
                    self._select(history(), entry.task.id)
                if self._needs_point():
                    yield self._arrived, self.values()
            else:
                self._fail(entry.task)
        if not selected:
            self._select(history(), last)
        self._spent = 0.0

    def add(self, task: Task, outcome: Finished | Failure, history: Callable[[], History]) -> int | None:
        """Count one outcome; return its step if the curves in tracking need a point there, else None."""
        if isinstance(outcome, Failure):
            if outcome.final:
                self._fail(task)
            return None
        self._finish(outcome)
        if self._spent + self._longest <= MAX_SELECTION_SHARE * (time.monotonic() - self._began):
            self._select(history(), task.id)
        return self._arrived if self._needs_point() else None

    def _needs_point(self) -> bool:
        return _is_step(self._arrived) or self._arrived == self.total

    def values(self) -> dict[str, float]:
        """Return the values of the curves in tracking, by name."""
        assert self.best is not None
        ensemble = self.best if self.ensemble is None else self.ensemble
        losses = {"best_single": self.best, "ensemble": ensemble}
        shown = {name: shown_value(self.metric, loss) for name, loss in losses.items()}
        return {**shown, "finished": self.finished, "failed": self.failed}

    def _fail(self, task: Task) -> None:
        self._arrived += 1
        self.failed += task.member not in self._seen  # a rung above another may fail without its member

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

    def _select(self, history: History, newest: str) -> None:
        started = time.monotonic()
        names: dict[str, str] = {}
        for *_, member, name in sorted(self._leaders, reverse=True):
            names.setdefault(member, name)
        predictions_MNK = [history.predictions(name) for name in names.values()]
        target, _ = fill_defaults(predictions_MNK, self.metric, history.target, None)
        weights_M = self.selector.select(
            predictions_MNK, history.targets_N, fast_metric(self.metric, target), **target_argument(history.target)
        )
        self.ensemble = target.metrics(target.mean(predictions_MNK, weights_M), history.targets_N)[self.metric]
        self.curve[newest] = self.ensemble
        took = time.monotonic() - started
        self._spent, self._longest = self._spent + took, max(self._longest, took)


def _is_step(done: int) -> bool:
    """Return True if a number has at most two digits before its trailing zeros: 280 steps up to 10,000."""
    return done % 10 ** max(0, len(str(done)) - 2) == 0
