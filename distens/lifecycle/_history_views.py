"""The counts and lists of a ledger, which only grow, and views by which a history shares them without a copy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar, overload

from distens.records import Failed, Finished, Task, settings_key

T = TypeVar("T")


@dataclass
class GrowingRung:
    """A rung to which tasks and outcomes are still added; a `Rung` is a snapshot of it."""

    asked: list[str] = field(default_factory=list)
    done: list[Finished | Failed] = field(default_factory=list)


@dataclass
class PurposeViews:
    """The tasks of one purpose, counted and listed while they come and go.

    A history may share these lists, so they are changed only by appending; any other change makes a new list.
    """

    finished: list[Finished] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    # bracket -> `settings_key` of all settings ever dispatched there -> its place, in order of dispatch
    keys: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    started: Counter[str] = field(default_factory=Counter)  # bracket -> number of members
    families: Counter[str] = field(default_factory=Counter)  # family -> number of members, of all brackets
    rungs: defaultdict[tuple[str, int], GrowingRung] = field(default_factory=lambda: defaultdict(GrowingRung))
    places: dict[str, int] = field(default_factory=dict)  # member trained in rungs -> its place in `finished`
    begun: set[str] = field(default_factory=set)  # members of which a rung was dispatched

    def ask(self, task: Task) -> None:
        """Record a task that is dispatched for the first time."""
        if task.budget is None or task.member not in self.begun:
            self.started[task.bracket] += 1
            if isinstance(task.settings, Mapping):  # a journal that was tampered with is refused after it was read
                self.families[str(task.settings.get("family"))] += 1
            keys = self.keys[task.bracket]
            keys.setdefault(settings_key(task.settings), len(keys))
        if task.budget is not None:
            self.begun.add(task.member)
            self.rungs[task.bracket, task.budget].asked.append(task.member)

    def finish(self, entry: Finished) -> None:
        """Record a task that finished."""
        task = entry.task
        if task.budget is not None:
            self.rungs[task.bracket, task.budget].done.append(entry)
            if task.member in self.places:
                self._replace(task.member, entry)
                return
            self.places[task.member] = len(self.finished)
        self.finished.append(entry)

    def _replace(self, member: str, entry: Finished) -> None:
        place = self.places[member]
        now, then = entry.task.budget, self.finished[place].task.budget
        assert now is not None and then is not None
        if now > then:  # else a lower rung whose files were lost was trained again
            self.finished = [*self.finished[:place], entry, *self.finished[place + 1 :]]

    def fail(self, entry: Failed) -> None:
        """Record a task that was given up."""
        task = entry.task
        if task.budget is not None:
            self.rungs[task.bracket, task.budget].done.append(entry)
        if task.budget is None or task.member not in self.places:
            self.failed.append(entry)

    def lose(self, entry: Finished) -> None:
        """Forget that a task finished; the member's highest other finished rung, if there is one, takes its place."""
        task = entry.task
        finished = [other for other in self.finished if other is not entry]
        if task.budget is not None:
            rung = self.rungs[task.bracket, task.budget]
            rung.done = [other for other in rung.done if other is not entry]
            if len(finished) < len(self.finished):
                rungs = (other for rung in self.rungs.values() for other in rung.done if isinstance(other, Finished))
                left = [other for other in rungs if other.task.member == task.member]
                finished += sorted(left, key=lambda other: other.task.budget or 0)[-1:]
        self.finished = finished
        self.places = {e.task.member: i for i, e in enumerate(finished) if e.task.budget is not None}


class ListPrefix(Sequence[T]):
    """A snapshot, without a copy, of a list that only grows: the entries that it has now."""

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


class KeysSnapshot(Set[str]):
    """A snapshot, without a copy, of the keys of a dictionary that only grows, together with some more keys."""

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
