"""The ledger of a run: tasks that were dispatched and their outcomes, the journal of both, and the history from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from distens.errors import shorten_value
from distens.lifecycle._history_views import KeysSnapshot, ListPrefix, PurposeViews
from distens.lifecycle.tasks import find_addresses, task_from_json, task_to_json
from distens.records import (
    Failed,
    Failure,
    Finished,
    Floats,
    History,
    Report,
    Rung,
    Task,
    TaskOutcome,
    settings_key,
)
from distens.storage.encoding import failure_from_json, report_from_json, to_json
from distens.storage.journal import Journal
from distens.storage.store import Store
from distens.targets.protocol import Target, Targets

_KEYS = {"task", "report", "failure", "only", "elapsed", "ended"}


class Ledger:
    """The record of all tasks of a run. After a restart it gives the same answers, from the journal alone.

    Attributes:
        elapsed: seconds that the search had run, over all resumes, as last journalled with an outcome.
        ended: the reason why the search has ended, if that does not follow from its history; else None.
        addresses: text of the form `package.module:Class` -> its first place in a task that was journalled before this
            ledger was opened, whatever became of the task.
    """

    def __init__(self, store: Store) -> None:
        self.elapsed = 0.0
        self.ended: str | None = None
        self.addresses: dict[str, str] = {}
        self._journal = Journal(store)
        self._pending: dict[str, Task] = {}
        self._done: dict[str, Finished | Failed] = {}
        self._arrived: list[Finished | Failure] = []
        self._purposes: dict[str, PurposeViews] = defaultdict(PurposeViews)
        self._journal.replay(self._take)

    def _take(self, entry: dict[str, Any]) -> None:
        if unknown := entry.keys() - _KEYS:
            raise ValueError(f"unknown keys {shorten_value(sorted(unknown))}. Allowed: {', '.join(sorted(_KEYS))}")
        if "task" in entry:
            task = task_from_json(entry["task"])
            for place, address in find_addresses(task):
                self.addresses.setdefault(address, place)
            self._record_task(task)
        elif "report" in entry:
            self._record_outcome(report_from_json(entry["report"]))
        elif "failure" in entry:
            self._record_outcome(failure_from_json(entry["failure"]))
        elif "ended" in entry:
            if not isinstance(entry["ended"], str | None):
                raise TypeError(f"the reason why the search has ended is {shorten_value(entry['ended'])}")
            self.ended = entry["ended"]
        else:  # older versions wrote this when a run's members were to be trained further
            self._drop_other_purposes(entry["only"])
        self.elapsed = entry.get("elapsed", self.elapsed)

    def ask(self, tasks: Sequence[Task]) -> list[Task]:
        """Journal tasks that are about to be dispatched, and return them with their attempt numbers."""
        asked = [self._next_attempt(task) for task in tasks]
        if asked:
            self._journal.append(*({"task": task_to_json(task)} for task in asked))
        for task in asked:
            self._record_task(task)
        return asked

    def tell(self, outcomes: Sequence[TaskOutcome], elapsed: float | None = None) -> list[Finished | Failure]:
        """Journal outcomes that came together, before anyone acts on them; return them as the ledger keeps them.

        A second outcome of a task that is done (a late double) is left out.

        Args:
            outcomes: those that came together.
            elapsed: seconds that the search has run, to be journalled with them; None: not journalled.
        """
        fresh = [outcome for outcome in outcomes if outcome.task_id not in self._done]
        also = {} if elapsed is None else {"elapsed": elapsed}
        if fresh:
            self._journal.append(*({outcome_kind(outcome): to_json(outcome), **also} for outcome in fresh))
            self.elapsed = also.get("elapsed", self.elapsed)
        return [self._record_outcome(outcome) for outcome in fresh]

    def lose(self, entries: Sequence[Finished]) -> None:
        """Journal that the files of finished tasks are gone: the tasks are pending again."""
        why = "its files did not survive the machine that wrote them"
        failures = [Failure(e.task.id, e.task.attempt, "crashed", why, 0.0, e.report.node, False) for e in entries]
        self._journal.append(*({"failure": to_json(failure)} for failure in failures))
        for failure in failures:
            self._record_outcome(failure)

    def end(self, why: str | None) -> None:
        """Journal that the search has ended, and why; with None, that it goes on."""
        self._journal.append({"ended": why})
        self.ended = why

    def _drop_other_purposes(self, purpose: str) -> None:
        self._arrived = [told for told in self._arrived if self.task(_id(told)).purpose == purpose]
        self._pending = {name: task for name, task in self._pending.items() if task.purpose == purpose}
        self._done = {name: entry for name, entry in self._done.items() if entry.task.purpose == purpose}
        for other in [name for name in self._purposes if name != purpose]:
            del self._purposes[other]

    def _next_attempt(self, task: Task) -> Task:
        before = self._pending.get(task.id)
        return task if before is None else replace(task, attempt=before.attempt + 1)

    def _record_task(self, task: Task) -> None:
        if task.id not in self._pending:
            self._purposes[task.purpose].ask(task)
        self._pending[task.id] = task

    def _record_outcome(self, outcome: TaskOutcome) -> Finished | Failure:
        told: Finished | Failure
        if isinstance(outcome, Report):
            task = self._pending.pop(outcome.task_id)
            if task.attempt != outcome.attempt:
                task = replace(task, attempt=outcome.attempt)
            told = self._done[task.id] = Finished(task, outcome)
            self._purposes[task.purpose].finish(told)
        else:
            told = outcome
            if outcome.final:
                task = self._pending.pop(outcome.task_id)
                self._done[task.id] = failed = Failed(task, outcome)
                self._purposes[task.purpose].fail(failed)
            else:
                task = self._reopen_task(outcome.task_id)  # and the runner has already begun the next attempt
                self._pending[task.id] = replace(task, attempt=outcome.attempt + 1)
        self._arrived.append(told)
        return told

    def _reopen_task(self, task_id: str) -> Task:
        entry = self._done.pop(task_id, None)
        if entry is None:
            return self._pending[task_id]
        assert isinstance(entry, Finished)
        self._purposes[entry.task.purpose].lose(entry)
        return entry.task

    def done(self, task_id: str) -> bool:
        """Return True if a task has finished or was given up."""
        return task_id in self._done

    def asked(self, task_id: str) -> bool:
        """Return True if a task was ever dispatched."""
        return task_id in self._pending or task_id in self._done

    def task(self, task_id: str) -> Task:
        """Return a task as it was last dispatched."""
        return self._pending[task_id] if task_id in self._pending else self._done[task_id].task

    def report(self, task_id: str) -> Report:
        """Return the report of a finished task."""
        entry = self._done[task_id]
        assert isinstance(entry, Finished), f"{task_id} did not finish"
        return entry.report

    def finished(self, purpose: str) -> Sequence[Finished]:
        """Return a purpose's finished tasks, in order of arrival; of a member trained in rungs, the highest rung."""
        return ListPrefix(self._purposes[purpose].finished)

    def failed(self, purpose: str) -> Sequence[Failed]:
        """Return a purpose's tasks that were given up, in order of arrival, except rungs above a finished rung."""
        return ListPrefix(self._purposes[purpose].failed)

    def all_finished(self, purpose: str | None = None) -> list[Finished]:
        """Return every finished task, every rung of a member included, of one purpose or of all."""
        done = (entry for entry in self._done.values() if isinstance(entry, Finished))
        return [entry for entry in done if purpose in (None, entry.task.purpose)]

    def concluded(self, purpose: str) -> list[Finished | Failed]:
        """Return a purpose's tasks that finished or were given up, in order of arrival, every rung included."""
        return [entry for entry in self._done.values() if entry.task.purpose == purpose]

    def count(self, purpose: str) -> int:
        """Return the number of members that were dispatched for a purpose."""
        return sum(self._purposes[purpose].started.values())

    def started(self, purpose: str, bracket: str) -> int:
        """Return the number of members that were dispatched for a purpose in one bracket."""
        return self._purposes[purpose].started[bracket]

    def tried(self, purpose: str) -> Mapping[str, int]:
        """Return family -> the number of its members that were dispatched for a purpose; others are left out."""
        return dict(self._purposes[purpose].families)

    def pending(self, purpose: str) -> list[Task]:
        """Return a purpose's tasks that were dispatched and have not come back, in order of dispatch."""
        return [task for task in self._pending.values() if task.purpose == purpose]

    def running(self) -> int:
        """Return the number of tasks that were dispatched and have not come back."""
        return len(self._pending)

    def outcomes(self) -> Iterator[tuple[Task, Finished | Failure]]:
        """Yield every outcome, lost attempts included, in order of arrival."""
        for told in self._arrived:
            yield (told.task, told) if isinstance(told, Finished) else (self.task(told.task_id), told)

    def failures(self) -> list[dict[str, Any]]:
        """Return all failures, lost attempts included, as entries for `results.json`."""
        return [
            {
                "id": task.id,
                "attempt": told.attempt,
                "reason": told.reason,
                "message": told.message,
                "final": told.final,
            }
            for task, told in self.outcomes()
            if isinstance(told, Failure)
        ]

    def history(
        self,
        purpose: str,
        metric: str,
        targets_N: Targets,
        predictions: Callable[[str], Floats],
        also: Sequence[Task] = (),
        bracket: str = "",
        target: Target | None = None,
    ) -> History:
        """Return the history that search may know, as of now; its finished and failed tasks are not copied.

        Args:
            also: tasks that count as pending too.
            bracket: where members are to be started; known settings are those of the bracket's members.
        """
        kept = self._purposes[purpose]
        pending = [task for task in self.pending(purpose) if task.budget is None or task.member not in kept.places]
        return History(
            finished=self.finished(purpose),
            failed=self.failed(purpose),
            pending=(*pending, *also),
            metric=metric,
            targets_N=targets_N,
            target=target,
            predictions=predictions,
            keys=KeysSnapshot(kept.keys[bracket], frozenset(settings_key(task.settings) for task in also)),
            rungs={key: Rung(ListPrefix(rung.asked), ListPrefix(rung.done)) for key, rung in kept.rungs.items()},
            started=dict(kept.started),
        )

    def reports(self, purpose: str, metric: str) -> History:
        """Return a history for decisions by reports alone; it has no targets and no predictions."""
        return self.history(purpose, metric, np.zeros(0, dtype=np.int64), _unread)


def _unread(task_id: str) -> Floats:
    raise AssertionError(f"what is decided by reports does not read the predictions of {task_id}")


def _id(told: Finished | Failure) -> str:
    return told.task.id if isinstance(told, Finished) else told.task_id


def outcome_kind(outcome: TaskOutcome) -> str:
    """Return the key under which a journal holds an outcome: `report` or `failure`."""
    return "report" if isinstance(outcome, Report) else "failure"
