"""What was asked and what came back: the journal, and the history that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from distens.records import (
    Failed,
    Failure,
    Finished,
    Floats,
    History,
    Integers,
    Outcome,
    Report,
    Task,
    failure_from_json,
    report_from_json,
    task_from_json,
    to_json,
)
from distens.store import Journal, Store


class Ledger:
    """All tasks of a run. Whatever it answers, it would answer again after a restart, from the journal alone."""

    def __init__(self, store: Store) -> None:
        self._journal = Journal(store)
        self._tasks: dict[str, Task] = {}
        self._reports: dict[str, Report] = {}
        self._failures: dict[str, Failure] = {}
        self._pending: dict[str, Task] = {}
        self._arrived: list[tuple[str, Finished | Failure]] = []
        self._finished: dict[str, list[Finished]] = {}
        self._failed: dict[str, list[Failed]] = {}
        self._count: dict[str, int] = {}
        for entry in self._journal.entries:
            if "task" in entry:
                self._asked(task_from_json(entry["task"]))
            elif "report" in entry:
                self._told(report_from_json(entry["report"]))
            else:
                self._told(failure_from_json(entry["failure"]))

    def ask(self, task: Task) -> Task:
        """Journal a task that is about to be dispatched, and return it with its attempt number."""
        if task.id in self._tasks:
            task = replace(self._tasks[task.id], attempt=self._tasks[task.id].attempt + 1, resources=task.resources)
        self._journal.append({"task": to_json(task)})
        self._asked(task)
        return task

    def tell(self, outcome: Outcome) -> Finished | Failure:
        """Journal an outcome, before anyone acts on it."""
        kind = "report" if isinstance(outcome, Report) else "failure"
        self._journal.append({kind: to_json(outcome)})
        return self._told(outcome)

    def _asked(self, task: Task) -> None:
        if task.id not in self._tasks:
            self._count[task.purpose] = self._count.get(task.purpose, 0) + 1
        self._tasks[task.id] = self._pending[task.id] = task

    def _told(self, outcome: Outcome) -> Finished | Failure:
        task = self._tasks[outcome.task_id]
        if isinstance(outcome, Report):
            self._reports[task.id] = outcome
            told: Finished | Failure = Finished(replace(task, attempt=outcome.attempt), outcome)
            self._finished.setdefault(task.purpose, []).append(told)
        else:
            told = outcome
            if outcome.final:
                self._failures[task.id] = outcome
                self._failed.setdefault(task.purpose, []).append(Failed(task, outcome))
            else:  # the runner has already begun the next attempt
                self._tasks[task.id] = replace(task, attempt=outcome.attempt + 1)
                self._pending[task.id] = self._tasks[task.id]
        if isinstance(outcome, Report) or outcome.final:
            self._pending.pop(task.id, None)
        self._arrived.append((task.id, told))
        return told

    def done(self, task_id: str) -> bool:
        """Return whether a task has finished or was given up."""
        return task_id in self._reports or task_id in self._failures

    def task(self, task_id: str) -> Task:
        """Return a task as it was last dispatched."""
        return self._tasks[task_id]

    def report(self, task_id: str) -> Report:
        """Return the report of a finished task."""
        return self._reports[task_id]

    def finished(self, purpose: str) -> list[Finished]:
        """Return a purpose's finished tasks, in order of arrival."""
        return list(self._finished.get(purpose, ()))

    def failed(self, purpose: str) -> list[Failed]:
        """Return a purpose's tasks that were given up, in order of arrival."""
        return list(self._failed.get(purpose, ()))

    def count(self, purpose: str) -> int:
        """Return how many tasks were asked for a purpose."""
        return self._count.get(purpose, 0)

    def pending(self, purpose: str) -> list[Task]:
        """Return tasks that were dispatched and have not come back, in order of dispatch."""
        return [task for task in self._pending.values() if task.purpose == purpose]

    def outcomes(self) -> Iterator[tuple[Task, Finished | Failure]]:
        """Yield every outcome, lost attempts included, in order of arrival."""
        for task_id, outcome in self._arrived:
            yield self._tasks[task_id], outcome

    def history(self, purpose: str, metric: str, labels_N: Integers, predictions: Callable[[str], Floats]) -> History:
        """Return what search may know."""
        return History(
            finished=tuple(self.finished(purpose)),
            failed=tuple(self.failed(purpose)),
            pending=tuple(self.pending(purpose)),
            metric=metric,
            labels_N=labels_N,
            predictions=predictions,
        )
