"""The small frozen values that travel between coordinator, runners, storage and tracking.

A record holds ids, numbers and addresses, never a model. `State` is the one value with arrays in it: it is what a
member is made of, and it goes from a member to storage and back, not through the coordinator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Settings = Mapping[str, Any]
"""What one member is told to be: JSON values only. Always has `family` (its name in the config's `members`)
and `kind` (the plug-in in `distens/members`)."""

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

Reason = Literal["crashed", "out_of_memory", "timed_out", "diverged", "refused"]


class Record:
    """Travels as its fields: a frozen dataclass with slots is otherwise restored by a loop over descriptions of them,
    which takes three times as long."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple([getattr(self, name) for name in self.__slots__])


@dataclass(frozen=True, slots=True)
class Address(Record):
    """Where a finished file lies in a run's folder, and what it must hash to."""

    path: str
    sha256: str
    size_bytes: int


class Files(Mapping[str, Address]):
    """Addresses of files in one folder, in a third of the memory: a driver keeps those of every member.

    Args:
        files: what it is to equal.
    """

    __slots__ = ("_folder", "_names", "_numbers")

    def __init__(self, files: Mapping[str, Address]) -> None:
        split = [(key, *address.path.rpartition("/")) for key, address in files.items()]
        folders = {folder + slash for _, folder, slash, _ in split}
        assert len(folders) <= 1, f"files of one folder, found {folders}"
        self._folder = "".join(folders)
        self._names = _shared(tuple((key, name) for key, _, _, name in split))
        self._numbers = b"".join(bytes.fromhex(a.sha256) + a.size_bytes.to_bytes(8, "big") for a in files.values())
        assert len(self._numbers) == 40 * len(self._names), f"SHA-256 in hexadecimal, found {dict(files)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._folder, self._names, self._numbers)

    def __getitem__(self, key: str) -> Address:
        for place, (known, name) in enumerate(self._names):
            if known == key:
                numbers = self._numbers[40 * place : 40 * place + 40]
                return Address(self._folder + name, numbers[:32].hex(), int.from_bytes(numbers[32:], "big"))
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._names)

    def __len__(self) -> int:
        return len(self._names)


def compact(files: Mapping[str, Address]) -> Mapping[str, Address]:
    """Return `Files`, if they are in one folder; what an earlier attempt left, and the last one used, is in another."""
    folders = {address.path.rpartition("/")[0] for address in files.values()}
    return Files(files) if len(folders) <= 1 else dict(files)


Names = tuple[tuple[str, str], ...]
_NAMES: dict[Names, Names] = {}


def _shared(names: Names) -> Names:
    return _NAMES.setdefault(names, names)  # those of all members are alike


def _restored(folder: str, names: Names, numbers: bytes) -> Files:
    files = Files({})
    files._folder, files._names, files._numbers = folder, _shared(names), numbers
    return files


@dataclass(frozen=True)
class State:
    """What a member has learned: arrays (dense, little-endian) and a JSON-able description of how to use them."""

    arrays: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Held(Record):
    """Something that a runner keeps in memory for tasks, by the runner's own reference; it ends with the process."""

    reference: Any


@dataclass(frozen=True, slots=True)
class Resources(Record):
    """What one member occupies while it trains.

    Attributes:
        memory_gib: 0: nobody counts it.
        custom: name -> amount, of what a cluster's nodes have besides; in order of names.
        processes: how many train it together, each with an equal part of all this, which may be on a node of its own.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gib: float = 0.0
    custom: tuple[tuple[str, float], ...] = ()
    processes: int = 1

    def part(self) -> Resources:
        """Return what each of the member's processes occupies."""
        count = self.processes
        custom = tuple((name, amount / count) for name, amount in self.custom)
        return Resources(self.cpus / count, self.gpus / count, self.memory_gib / count, custom)


@dataclass(frozen=True, slots=True)
class Teacher(Record):
    """One selected model as a distiller sees it.

    Attributes:
        name: of its task, or `<task>/<part>`; older journals have none.
    """

    settings: Settings
    state: Address
    weight: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class Task(Record):
    """Something to be done on an actor: a member to be trained, or one rung of it, …. The same id and seed give the
    same result on any attempt.

    Attributes:
        id: unique in the run, e.g. `m0007` for search, `student`, `larger_single-1`; `m0007-9` for a rung.
        purpose: why it is done, of an enumeration of its role's.
        settings: what to train.
        seed: the only source of chance.
        work: what is done (see `distens.runtime.protocol.Work`): a frozen dataclass of JSON values.
        member: the name that the rungs of one member share; its id, where it is trained in one go.
        attempt: 1 for the first; fences off a late writer.
        budget: epochs to train up to, from where the member's rung below ended; None: all that the settings say.
        bracket: the members that a schedule compares with each other share it; empty where there is only one.
        given: what the work is given in memory, by name; it ends with the process, and no journal has it.
        limit_seconds: after which it is ended, if the runner's own limit does not come first.
    """

    id: str
    purpose: str
    settings: Settings
    seed: int
    resources: Resources = Resources()
    work: Any = None
    member: str = ""
    attempt: int = 1
    budget: int | None = None
    bracket: str = ""
    given: Mapping[str, Held] = field(default_factory=dict)
    limit_seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.member:
            object.__setattr__(self, "member", self.id)


@dataclass(frozen=True, slots=True)
class Part(Record):
    """One of several models that a training left.

    Attributes:
        name: within its task; everywhere else it is `<task>/<part>`.
        metrics: measured of this part alone, and what its training adds.
        parameters, predict_ms_per_1000: see `Report`.
        files: `state`; and predictions, if it can be selected by itself.
    """

    name: str
    metrics: Mapping[str, float]
    parameters: int
    predict_ms_per_1000: float
    files: Mapping[str, Address]


@dataclass(frozen=True, slots=True)
class Report(Record):
    """A task that finished: one model, or several parts.

    Parts are *averaged* (folds of one member: one prediction, the mean of theirs) or *selectable* (snapshots, members
    of a joint group: each is a model by itself). Metrics, cost and predictions of the report are the average's; or, so
    that search has one number and one prediction of a task, those of the selectable part that is best by the target's
    usual metric.

    Attributes:
        metrics: measured on the *search* split: `nll` and `error` (lower is better); and what the member adds.
        seconds: training time of this attempt, and of the attempts whose checkpoints it went on from.
        parameters: numbers that the member learned or stores.
        predict_ms_per_1000: milliseconds to predict 1,000 rows, loading excluded.
        node: the host that trained it.
        files: `state`, and predictions (probs_NC) on the splits `search`, `combine` and `test`; an average has no
            state.
        parts: in the order in which they were left; none of a training that leaves one model.
        averaged: whether the parts make one prediction together.
    """

    task_id: str
    attempt: int
    metrics: Mapping[str, float]
    seconds: float
    parameters: int
    predict_ms_per_1000: float
    node: str
    files: Mapping[str, Address]
    parts: tuple[Part, ...] = ()
    averaged: bool = False

    def states(self) -> dict[str, Address]:
        """Return the states whose predictions are averaged to the report's, by name: one, but for averaged parts."""
        if self.averaged:
            return {f"{self.task_id}/{part.name}": part.files["state"] for part in self.parts}
        return {self.task_id: self.files["state"]}

    def addresses(self) -> Iterator[Address]:
        """Yield the address of every file that it names."""
        for files in (self.files, *(part.files for part in self.parts)):
            yield from files.values()


@dataclass(frozen=True, slots=True)
class Failure(Record):
    """A task that did not finish. `final` is false when it will be tried again."""

    task_id: str
    attempt: int
    reason: Reason
    message: str
    seconds: float
    node: str
    final: bool = True


Pack = Sequence[Task]
"""Tasks that are carried out together, in one slot of a runner."""

Outcome = Report | Failure


class Answer(Protocol):
    """What a runner gives back of a task: an outcome, or an answer of the work's own, which nobody journals."""

    @property
    def task_id(self) -> str:
        """Return which task it is of."""
        ...

    @property
    def attempt(self) -> int:
        """Return which attempt at it."""
        ...


@dataclass(frozen=True, slots=True)
class Finished(Record):
    """A task with its report."""

    task: Task
    report: Report

    def models(self) -> Sequence[Finished]:
        """Return what can be selected of it, each as if it were a task of its own: itself, or its selectable parts."""
        task, report = self.task, self.report
        if report.averaged or not report.parts:
            return [self]
        found = []
        for part in report.parts:
            name = f"{task.id}/{part.name}"
            costs = {"parameters": part.parameters, "predict_ms_per_1000": part.predict_ms_per_1000}
            alone = replace(report, task_id=name, metrics=part.metrics, files=part.files, parts=(), **costs)
            found.append(Finished(replace(task, id=name), alone))
        return found

    def teachers(self, weight: float) -> list[Teacher]:
        """Return it as a distiller sees it, who mixes probabilities: states that are averaged share its weight."""
        states = self.report.states()
        return [Teacher(self.task.settings, state, weight / len(states), name) for name, state in states.items()]


@dataclass(frozen=True, slots=True)
class Failed(Record):
    """A task with its final failure."""

    task: Task
    failure: Failure


@dataclass(frozen=True, slots=True)
class Rung(Record):
    """The tasks of one bracket that train up to one number of epochs.

    Attributes:
        asked: the members that were sent here, in order of dispatch.
        done: what came back, in order of arrival.
    """

    asked: Sequence[str] = ()
    done: Sequence[Finished | Failed] = ()


def _no_predictions(task_id: str) -> Floats:
    raise KeyError(task_id)


@dataclass(frozen=True)
class History:
    """All that search and schedule may know, in order of arrival (finished, failed) or of dispatch (pending).

    Of a member trained in rungs, `finished` holds the highest rung that finished, at its first one's place; it is
    failed or pending only while it has none. A rung that failed above another is in `rungs` alone.

    Attributes:
        metric: the key of `Report.metrics` that search minimises.
        targets_N: of the *search* split.
        predictions: task id -> probs_NC on the *search* split (read on demand, memory-mapped, read-only).
        keys: what `known` returns; None to gather it from the entries.
        rungs: (bracket, epochs) -> what was sent there and what came back; empty without a schedule.
        started: bracket -> how many members, those that no rung takes included.
        target: what targets and predictions are (see `distens.targets.protocol.Target`); None: classes.
    """

    finished: Sequence[Finished] = ()
    failed: Sequence[Failed] = ()
    pending: Sequence[Task] = ()
    metric: str = "nll"
    targets_N: NDArray[Any] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    predictions: Callable[[str], Floats] = _no_predictions
    keys: Set[str] | None = None
    rungs: Mapping[tuple[str, int], Rung] = field(default_factory=dict)
    started: Mapping[str, int] = field(default_factory=dict)
    target: Any = None

    def values(self) -> Floats:
        """Return the metric of every finished member, in order of arrival; read-only."""
        return self._values

    def known(self) -> Set[str]:
        """Return the `settings_key` of all settings that were ever dispatched (in the bracket that is being filled,
        where there are several). A look-up, not to be copied lightly: it holds as many keys as there are members."""
        return self._known

    @cached_property
    def _values(self) -> Floats:
        values_M = np.array([entry.report.metrics[self.metric] for entry in self.finished], dtype=np.float64)
        values_M.flags.writeable = False
        return values_M

    @cached_property
    def _known(self) -> Set[str]:
        if self.keys is not None:
            return self.keys
        done = (entry.task for entries in (self.finished, self.failed) for entry in entries)
        return frozenset(settings_key(task.settings) for tasks in (done, self.pending) for task in tasks)


def task_of(name: str) -> str:
    """Return the id of the task that left a model: the name itself, or what stands before a part's."""
    return name.partition("/")[0]


_encode = json.JSONEncoder(sort_keys=True).encode  # made once: `json.dumps` would make one at every call


def settings_key(settings: Settings) -> str:
    """Return a string that equal settings share."""
    return _encode(settings)
