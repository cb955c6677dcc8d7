"""The knowledge of a search in Tune: the trials that it suggested, and their outcomes.

It is kept as plain entries in order of arrival, from which everything else follows. With a folder, each entry is in the
journal there before it is acted on: Tune's own snapshot of an experiment may be ten seconds old when its driver is
killed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distens.errors import StorageError
from distens.lifecycle.ledger import outcome_kind
from distens.lifecycle.tasks import task_from_json, task_to_json
from distens.records import (
    Failed,
    Finished,
    Floats,
    History,
    Integers,
    Report,
    Settings,
    Task,
    TaskOutcome,
    settings_key,
)
from distens.storage.encoding import failure_from_json, report_from_json, to_json
from distens.storage.journal import Journal
from distens.storage.store import Store

Entry = dict[str, Any]


class TrialBook:
    """The trials of one experiment, by their ids.

    Args:
        store: the folder of the journal, which is begun if there is none; None to keep entries only in memory.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.entries: list[Entry] = []
        self.pending: dict[str, Task] = {}
        self.done: dict[str, Finished | Failed] = {}
        self.places: dict[str, str] = {}
        self.lost: deque[Settings] = deque()
        self.asked = 0
        self._keys: set[str] = set()
        self._journal = None if store is None else Journal(store)
        self._url = "" if store is None else store.url
        if self._journal is not None:
            self._journal.replay(self._take)

    def task(self, name: str) -> Task:
        """Return the task of a trial."""
        return self.pending[name] if name in self.pending else self.done[name].task

    def ask(self, task: Task) -> None:
        """Record that a trial is about to start."""
        self._add({"task": task_to_json(task)})

    def tell(self, outcome: TaskOutcome, place: str = "") -> None:
        """Record the outcome of a trial, and the folder of its files.

        A second outcome of the same trial is ignored, except the report of a trial that had failed and was resumed.
        """
        recovered = isinstance(self.done.get(outcome.task_id), Failed) and isinstance(outcome, Report)
        if outcome.task_id in self.pending or recovered:
            self._add({outcome_kind(outcome): to_json(outcome), "place": place})

    def lose(self, known: Sequence[str]) -> None:
        """Record that Tune knows only these of the pending trials; the settings of the others are suggested again."""
        lost = [name for name in self.pending if name not in known]
        if lost:
            self._add({"lost": lost})

    def restore(self, entries: Sequence[Entry]) -> None:
        """Take the entries of a snapshot; the journal, if there is one, holds them and the later ones.

        Raises:
            StorageError: the journal belongs to another experiment.
        """
        if self._journal is None:
            self.__init__()
            for entry in entries:
                self._take(entry)
            return
        if self.entries[: len(entries)] != list(entries):
            raise StorageError(
                f"{self._url}: the journal here does not belong to the experiment to be restored; give the search the "
                "`storage` it had"
            )
        self.lose([entry["task"]["id"] for entry in entries if "task" in entry])

    def history(self, metric: str, labels_N: Integers, predictions: Callable[[str], Floats]) -> History:
        """Return the history that a search may know."""
        done = self.done.values()
        return History(
            finished=[entry for entry in done if isinstance(entry, Finished)],
            failed=[entry for entry in done if isinstance(entry, Failed)],
            pending=list(self.pending.values()),
            metric=metric,
            targets_N=labels_N,
            predictions=predictions,
            keys=self._keys,
        )

    def _add(self, entry: Entry) -> None:
        if self._journal is not None:
            self._journal.append(entry)
        self._take(entry)

    def _take(self, entry: Entry) -> None:
        self.entries.append(entry)
        if "task" in entry:
            self._ask(task_from_json(entry["task"]))
        elif "lost" in entry:
            for name in entry["lost"]:
                self.lost.append(self.pending.pop(name).settings)
        elif "report" in entry:
            report = report_from_json(entry["report"])
            task = self.task(report.task_id)
            self.pending.pop(report.task_id, None)
            self.done.pop(report.task_id, None)  # a failure, if the trial failed and was resumed
            self.done[report.task_id] = Finished(task, report)
            self.places[report.task_id] = entry["place"]
        else:
            failure = failure_from_json(entry["failure"])
            self.done[failure.task_id] = Failed(self.pending.pop(failure.task_id), failure)

    def _ask(self, task: Task) -> None:
        if self.lost and self.lost[0] == task.settings:
            self.lost.popleft()
        else:
            self.asked += 1
        self.pending[task.id] = task
        self._keys.add(settings_key(task.settings))


def key_of(metric: str, mode: str) -> str:
    """Return the name of a user's metric in records, which must be one that selection measures: `error` or `nll`."""
    last = metric.rsplit("/", 1)[-1]
    return "error" if (last, mode) in (("error", "min"), ("accuracy", "max")) else "nll"


def value_of(result: Mapping[str, Any] | None, metric: str, mode: str) -> float | str:
    """Return the value that a search minimises, or the reason why there is none."""
    if not result or metric not in result:
        return f"no {metric!r} was reported"
    value = float(result[metric])
    if value != value or abs(value) == float("inf"):
        return f"{metric} is {value}"
    return value if mode == "min" else -value
