"""What a run tells whoever watches it, and how far it has come."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from distens.finish import metric_of
from distens.records import Failure, Finished, History, Task
from distens.select.protocol import Selector


@dataclass(frozen=True)
class Update:
    """What a run tells whoever watches it, after each dispatch and each outcome.

    Attributes:
        phase: `data`, `search`, `finish` or `done`.
        text: a line for a log; empty if all that changed is what is running.
        total: members that the search will train; `finished` and `failed` are among them.
        best, ensemble: the metric on the *search* split of the best member, and of the selection, so far.
        path: the run's folder, once it is there.
    """

    phase: str
    text: str
    total: int = 0
    finished: int = 0
    failed: int = 0
    running: tuple[Task, ...] = ()
    metric: str = "nll"
    best: float | None = None
    ensemble: float | None = None
    outcome: Finished | Failure | None = None
    path: str = ""


Watch = Callable[[Update], None]


def line(task: Task, outcome: Finished | Failure, metric: str) -> str:
    """Return an outcome as a line for a log."""
    name = f"{task.id} {task.settings['family']}"
    if isinstance(outcome, Failure):
        again = "" if outcome.final else "; trying again"
        return f"{name}: {outcome.reason}: {outcome.message.splitlines()[-1] if outcome.message else ''}{again}"
    report = outcome.report
    return f"{name}: {metric} {report.metrics[metric]:.4f} in {report.seconds:.1f} s"


SHARE = 0.05


@dataclass
class Progress:
    """Best single and ensemble so far. Selecting anew after every arrival would cost members times members, so it is
    done only while it takes less than SHARE of the time; it decides nothing."""

    selector: Selector
    metric: str
    best: float | None = None
    ensemble: float | None = None
    _began: float = field(default_factory=time.monotonic, repr=False)
    _spent: float = field(default=0.0, repr=False)

    def replay(self, history: History) -> None:
        """Catch up with a history that was there before us."""
        if history.finished:
            self.best = float(history.values().min())
            self._select(history)

    def add(self, history: History, outcome: Finished | Failure) -> None:
        """Take in one outcome."""
        if isinstance(outcome, Failure):
            return
        value = outcome.report.metrics[self.metric]
        self.best = value if self.best is None else min(self.best, value)
        if self._spent <= SHARE * (time.monotonic() - self._began):
            self._select(history)

    def _select(self, history: History) -> None:
        started = time.monotonic()
        probs_MNC = [history.predictions(entry.task.id) for entry in history.finished]
        weights_M = self.selector.select(probs_MNC, history.labels_N, self.metric)
        self.ensemble = metric_of(probs_MNC, weights_M, history.labels_N, self.metric)
        self._spent += time.monotonic() - started
