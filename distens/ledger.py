"""What was asked and what came back: the journal, and the history that follows from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar, overload

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
    settings_key,
    task_from_json,
    to_json,
)
from distens.store import Journal, Store

T = TypeVar("T")


class Ledger:
    """All tasks of a run. Whatever it answers, it would answer again after a restart, from the journal alone."""

    def __init__(self, store: Store) -> None:
        self._journal = Journal(store)
        self._pending: dict[str, Task] = {}
        self._done: dict[str, Finished | Failed] = {}
        self._arrived: list[Finished | Failure] = []
        self._purposes: dict[str, _Purpose] = defaultdict(_Purpose)
        for entry in self._journal.entries():
            if "task" in entry:
                self._asked(task_from_json(entry["task"]))
            elif "report" in entry:
                self._told(report_from_json(entry["report"]))
            else:
                self._told(failure_from_json(entry["failure"]))

    def ask(self, pack: Sequence[Task]) -> list[Task]:
        """Journal tasks that are about to be dispatched together, and return them with their attempt numbers."""
        asked = [self._next_attempt(task) for task in pack]
        self._journal.append(*({"task": to_json(task)} for task in asked))
        for task in asked:
            self._asked(task)
        return asked

    def tell(self, outcomes: Sequence[Outcome]) -> list[Finished | Failure]:
        """Journal outcomes that came together, before anyone acts on them. A late double of one is left out."""
        fresh = [outcome for outcome in outcomes if outcome.task_id not in self._done]
        if fresh:
            self._journal.append(*({_kind(outcome): to_json(outcome)} for outcome in fresh))
        return [self._told(outcome) for outcome in fresh]

    def lose(self, entries: Sequence[Finished]) -> None:
        """Journal that what finished members wrote is gone: they are pending again."""
        why = "its files did not survive the machine that wrote them"
        failures = [Failure(e.task.id, e.task.attempt, "crashed", why, 0.0, e.report.node, False) for e in entries]
        self._journal.append(*({"failure": to_json(failure)} for failure in failures))
        for failure in failures:
            self._told(failure)

    def _next_attempt(self, task: Task) -> Task:
        before = self._pending.get(task.id)
        return task if before is None else replace(before, attempt=before.attempt + 1, resources=task.resources)

    def _asked(self, task: Task) -> None:
        if task.id not in self._pending:
            purpose = self._purposes[task.purpose]
            purpose.count += 1
            purpose.keys.setdefault(settings_key(task.settings), len(purpose.keys))
        self._pending[task.id] = task

    def _told(self, outcome: Outcome) -> Finished | Failure:
        told: Finished | Failure
        if isinstance(outcome, Report):
            task = self._pending.pop(outcome.task_id)
            if task.attempt != outcome.attempt:
                task = replace(task, attempt=outcome.attempt)
            told = self._done[task.id] = Finished(task, outcome)
            self._purposes[task.purpose].finished.append(told)
        else:
            told = outcome
            if outcome.final:
                task = self._pending.pop(outcome.task_id)
                self._done[task.id] = failed = Failed(task, outcome)
                self._purposes[task.purpose].failed.append(failed)
            else:
                task = self._lost(outcome.task_id)  # and the runner has already begun the next attempt
                self._pending[task.id] = replace(task, attempt=outcome.attempt + 1)
        self._arrived.append(told)
        return told

    def _lost(self, task_id: str) -> Task:
        entry = self._done.pop(task_id, None)
        if entry is None:
            return self._pending[task_id]
        assert isinstance(entry, Finished)
        purpose = self._purposes[entry.task.purpose]
        purpose.finished = [other for other in purpose.finished if other is not entry]
        return entry.task

    def done(self, task_id: str) -> bool:
        """Return whether a task has finished or was given up."""
        return task_id in self._done

    def task(self, task_id: str) -> Task:
        """Return a task as it was last dispatched."""
        return self._pending[task_id] if task_id in self._pending else self._done[task_id].task

    def report(self, task_id: str) -> Report:
        """Return the report of a finished task."""
        entry = self._done[task_id]
        assert isinstance(entry, Finished), f"{task_id} did not finish"
        return entry.report

    def finished(self, purpose: str) -> Sequence[Finished]:
        """Return a purpose's finished tasks, in order of arrival."""
        return Prefix(self._purposes[purpose].finished)

    def failed(self, purpose: str) -> Sequence[Failed]:
        """Return a purpose's tasks that were given up, in order of arrival."""
        return Prefix(self._purposes[purpose].failed)

    def all_finished(self) -> list[Finished]:
        """Return every finished task, whatever it was for."""
        return [entry for entry in self._done.values() if isinstance(entry, Finished)]

    def count(self, purpose: str) -> int:
        """Return how many tasks were asked for a purpose."""
        return self._purposes[purpose].count

    def pending(self, purpose: str) -> list[Task]:
        """Return tasks that were dispatched and have not come back, in order of dispatch."""
        return [task for task in self._pending.values() if task.purpose == purpose]

    def running(self) -> int:
        """Return how many tasks were dispatched and have not come back."""
        return len(self._pending)

    def outcomes(self) -> Iterator[tuple[Task, Finished | Failure]]:
        """Yield every outcome, lost attempts included, in order of arrival."""
        for told in self._arrived:
            yield (told.task, told) if isinstance(told, Finished) else (self.task(told.task_id), told)

    def history(
        self,
        purpose: str,
        metric: str,
        labels_N: Integers,
        predictions: Callable[[str], Floats],
        also: Sequence[Task] = (),
    ) -> History:
        """Return what search may know, as of now; `also` are pending too. Costs nothing for what is done."""
        return History(
            finished=self.finished(purpose),
            failed=self.failed(purpose),
            pending=(*self.pending(purpose), *also),
            metric=metric,
            labels_N=labels_N,
            predictions=predictions,
            keys=Keys(self._purposes[purpose].keys, frozenset(settings_key(task.settings) for task in also)),
        )


@dataclass
class _Purpose:
    """What grows while tasks of one purpose come and go; entries are never moved while a history is about."""

    finished: list[Finished] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)  # the key of every settings ever dispatched -> its place
    count: int = 0


class Prefix(Sequence[T]):
    """A list that only grows, as long as it is now: a snapshot without a copy."""

    __slots__ = ("_entries", "_length")

    def __init__(self, entries: list[T]) -> None:
        self._entries, self._length = entries, len(entries)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        return islice(self._entries, self._length)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: Any) -> Any:
        places = range(self._length)[index]
        return self._entries[places] if isinstance(places, int) else [self._entries[i] for i in places]


class Keys(Set[str]):
    """The keys of a dictionary that only grows, as many as there are now, and some more."""

    __slots__ = ("_length", "_more", "_places")

    def __init__(self, places: dict[str, int], more: Set[str] = frozenset()) -> None:
        self._places, self._length = places, len(places)
        self._more = frozenset(key for key in more if key not in places)

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> frozenset[Any]:  # what `|` and `&` return
        return frozenset(it)

    def __contains__(self, key: object) -> bool:
        return self._places.get(key, self._length) < self._length or key in self._more  # pyright: ignore

    def __iter__(self) -> Iterator[str]:
        yield from islice(self._places, self._length)
        yield from self._more

    def __len__(self) -> int:
        return self._length + len(self._more)


def _kind(outcome: Outcome) -> str:
    return "report" if isinstance(outcome, Report) else "failure"
