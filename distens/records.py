"""The small frozen values that travel between coordinator, runners, storage and tracking.

A record holds ids, numbers and addresses, never a model. Only `State` holds arrays: it is what a member has learned,
and it goes from a member to storage and back, not through the coordinator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Settings = Mapping[str, Any]
"""The settings of one member: JSON values only. They always have `family` (its name in the config's `members`)
and `kind` (the plug-in in `distens/members`)."""

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

Curves = Mapping[str, Mapping[int, float]]
"""Name -> epoch, counted from 1 -> value."""

LOGGED_PREFIX = "logged."
"""What the names of metrics begin with that the user's own code logged: no name of distens' own does."""

Reason = Literal["crashed", "out_of_memory", "timed_out", "diverged", "refused"]


class Record:
    """A base of frozen dataclasses with slots that pickles the values of their fields.

    Without it Python restores such a dataclass by a loop over its field descriptions, which takes three times as long.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple([getattr(self, name) for name in self.__slots__])


@dataclass(frozen=True, slots=True)
class Address(Record):
    """The address of a finished file: its path in a run's folder, and the SHA-256 that its content must have."""

    path: str
    sha256: str
    size_bytes: int


class FileAddresses(Mapping[str, Address]):
    """The addresses of files in one folder, in a third of the memory: a driver keeps the addresses of every member.

    Args:
        files: the mapping that the new one equals.
    """

    __slots__ = ("_folder", "_names", "_numbers")

    def __init__(self, files: Mapping[str, Address]) -> None:
        split = [(key, *address.path.rpartition("/")) for key, address in files.items()]
        folders = {folder + slash for _, folder, slash, _ in split}
        assert len(folders) <= 1, f"files of one folder, found {folders}"
        self._folder = "".join(folders)
        self._names = _share_names(tuple((key, name) for key, _, _, name in split))
        self._numbers = b"".join(bytes.fromhex(a.sha256) + a.size_bytes.to_bytes(8, "big") for a in files.values())
        assert len(self._numbers) == 40 * len(self._names), f"SHA-256 in hexadecimal, found {dict(files)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_files, (self._folder, self._names, self._numbers)

    def __getitem__(self, key: str) -> Address:
        for place, (known, name) in enumerate(self._names):
            if known == key:
                return self._address(place, name)
        raise KeyError(key)

    def _address(self, place: int, name: str) -> Address:
        numbers = self._numbers[40 * place : 40 * place + 40]
        return Address(self._folder + name, numbers[:32].hex(), int.from_bytes(numbers[32:], "big"))

    def items(self) -> ItemsView[str, Address]:
        """Return the pairs of names and addresses."""
        return {key: self._address(place, name) for place, (key, name) in enumerate(self._names)}.items()

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._names)

    def __len__(self) -> int:
        return len(self._names)


def compact_files(files: Mapping[str, Address]) -> Mapping[str, Address]:
    """Return the files as `FileAddresses` if they are in one folder, else as a dict.

    There are two folders if the last attempt used files that an earlier attempt left.
    """
    folders = {address.path.rpartition("/")[0] for address in files.values()}
    return FileAddresses(files) if len(folders) <= 1 else dict(files)


Names = tuple[tuple[str, str], ...]
_NAMES: dict[Names, Names] = {}


def _share_names(names: Names) -> Names:
    return _NAMES.setdefault(names, names)  # the names are the same for all members: one tuple serves them all


def _restore_files(folder: str, names: Names, numbers: bytes) -> FileAddresses:
    files = FileAddresses.__new__(FileAddresses)
    files._folder, files._names, files._numbers = folder, _share_names(names), numbers
    return files


@dataclass(frozen=True)
class State:
    """The learned state of a member: arrays (dense, little-endian) and a JSON-able description of how to use them."""

    arrays: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ObjectHandle(Record):
    """A value that a runner keeps in memory for tasks, by the runner's own reference; it is lost with the process."""

    reference: Any


@dataclass(frozen=True, slots=True)
class Resources(Record):
    """The resources that one member occupies while it trains.

    Attributes:
        memory_gib: 0: memory is not counted.
        custom: (name, amount) of each custom resource of a cluster's nodes, in order of names.
        processes: the number of processes that train the member together. Each occupies an equal part of all the
            resources, and may be on a node of its own.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gib: float = 0.0
    custom: tuple[tuple[str, float], ...] = ()
    processes: int = 1

    def part(self) -> Resources:
        """Return the resources that each of the member's processes occupies."""
        count = self.processes
        custom = tuple((name, amount / count) for name, amount in self.custom)
        return Resources(self.cpus / count, self.gpus / count, self.memory_gib / count, custom)


@dataclass(frozen=True, slots=True)
class Teacher(Record):
    """A selected model as a distiller uses it.

    Attributes:
        name: the name of its task, or `<task>/<part>`; empty in older journals.
    """

    settings: Settings
    state: Address
    weight: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class Task(Record):
    """A unit of work for an actor: to train a member, or one rung of it, ….

    The same id and seed give the same result on any attempt.

    Attributes:
        id: unique in the run, e.g. `m0007` for search, `student`, `larger_single-1`; `m0007-9` for a rung.
        purpose: why the task is carried out, a value of its role's enumeration.
        settings: the settings of the member to train.
        seed: the only source of randomness.
        work: what to do (see `distens.runtime.protocol.Work`): a frozen dataclass of JSON values.
        member: the name that the rungs of one member share; the task's id if the member is trained in one go.
        attempt: 1 for the first; it keeps a late writer of an earlier attempt apart.
        budget: the epochs to train up to, from where the member's rung below ended; None: the epochs in the settings.
        bracket: the name shared by members that a schedule compares with each other; empty if there is only one.
        given: values in memory for the work, by name; they are lost with the process, and no journal holds them.
        limit_seconds: the time after which the task is ended, if the runner's own limit does not end it before.
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
    given: Mapping[str, ObjectHandle] = field(default_factory=dict)
    limit_seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.member:
            object.__setattr__(self, "member", self.id)


@dataclass(frozen=True, slots=True)
class Part(Record):
    """One of several models that one training produced.

    Attributes:
        name: its name within the task; everywhere else the model is called `<task>/<part>`.
        metrics: metrics measured on this part alone, and those that its training adds.
        parameters, predict_ms_per_1000: see `Report`.
        files: `state`; and predictions, if the part can be selected by itself.
    """

    name: str
    metrics: Mapping[str, float]
    parameters: int
    predict_ms_per_1000: float
    files: Mapping[str, Address]


@dataclass(frozen=True, slots=True)
class Report(Record):
    """The report of a finished task, which produced one model or several parts.

    Parts are *averaged* (folds of one member: the mean of their predictions is one prediction) or *selectable*
    (snapshots, members of a joint group: each is a model by itself). If parts are averaged, the report has the
    average's metrics, cost and predictions. If they are selectable, it has those of the part that is best by the
    target's usual metric, so that a search has one number and one prediction for each task.

    Attributes:
        metrics: measured on the *search* split: `nll` and `error` (lower is better), and those that the member adds.
        seconds: training time of this attempt, and of the attempts whose checkpoints it resumed from.
        parameters: the count of numbers that the member learned or stores.
        predict_ms_per_1000: milliseconds to predict 1,000 rows, loading excluded.
        node: the host that trained the member.
        files: `state`, and predictions (predictions_NK) on the splits `search`, `combine` and `test`; an average has no
            state.
        parts: the parts in the order in which they were produced; empty if there is one model.
        averaged: True if the parts are averaged to one prediction.
        curves: what the user's own code logged in each epoch; of long curves, evenly spread points and the last one.
            The last values are also among the metrics, as `logged.NAME`.
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
    curves: Curves = field(default_factory=dict)

    def states(self) -> dict[str, Address]:
        """Return the states behind the report's prediction, by name: one for each averaged part, else a single one."""
        if self.averaged:
            return {f"{self.task_id}/{part.name}": part.files["state"] for part in self.parts}
        return {self.task_id: self.files["state"]}

    def addresses(self) -> Iterator[Address]:
        """Yield the address of every file of the report and its parts."""
        for files in (self.files, *(part.files for part in self.parts)):
            yield from files.values()


@dataclass(frozen=True, slots=True)
class Failure(Record):
    """The failure of a task that did not finish; `final` is False if the task will be tried again."""

    task_id: str
    attempt: int
    reason: Reason
    message: str
    seconds: float
    node: str
    final: bool = True


Pack = Sequence[Task]
"""Tasks that are carried out together, in one slot of a runner."""

WAIT: tuple[()] = ()
"""In place of a pack, or of packs: there is none before the next outcome, and the caller asks again then."""

TaskOutcome = Report | Failure


class Answer(Protocol):
    """What a runner returns for a task: an outcome, or an answer of the work's own class, which is not journalled.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, slots=True)
        ... class Counted(Record):
        ...     task_id: str
        ...     attempt: int
        ...     rows: int
        >>> answer: Answer = Counted("client-3", attempt=1, rows=120)  # for a task with this id
    """

    @property
    def task_id(self) -> str:
        """Return the id of the task."""
        ...

    @property
    def attempt(self) -> int:
        """Return the number of the attempt at the task."""
        ...


@dataclass(frozen=True, slots=True)
class Finished(Record):
    """A finished task with its report."""

    task: Task
    report: Report

    def models(self) -> Sequence[Finished]:
        """Return the models to select from, each as if it had its own task: the task's model or selectable parts."""
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
        """Return the task's teachers for a distiller, which mixes probabilities: averaged states share the weight."""
        states = self.report.states()
        return [Teacher(self.task.settings, state, weight / len(states), name) for name, state in states.items()]


@dataclass(frozen=True, slots=True)
class Failed(Record):
    """A failed task with its final failure."""

    task: Task
    failure: Failure


@dataclass(frozen=True, slots=True)
class Rung(Record):
    """The tasks of one bracket that train up to the same number of epochs.

    Attributes:
        asked: the names of the members that were sent to this rung, in order of dispatch.
        done: the tasks that came back, in order of arrival.
    """

    asked: Sequence[str] = ()
    done: Sequence[Finished | Failed] = ()


def _no_predictions(task_id: str) -> Floats:
    raise KeyError(task_id)


@dataclass(frozen=True)
class History:
    """All that a search and a schedule may know, in order of arrival (finished, failed) or of dispatch (pending).

    For a member trained in rungs, `finished` holds its highest finished rung, at the place of its first. The member is
    in `failed` or `pending` only while none of its rungs has finished. A rung that failed after a lower one finished is
    in `rungs` alone.

    Attributes:
        metric: the key of `Report.metrics` that the search minimises.
        targets_N: the targets of the *search* split.
        predictions: task id -> predictions_NK on the *search* split (read on demand, memory-mapped, read-only).
        keys: the keys that `known` returns; None to gather them from the entries.
        rungs: (bracket, epochs) -> the members sent there and the tasks that came back; empty without a schedule.
        started: bracket -> the number of members started, including those that no rung takes.
        target: the kind of targets and predictions (see `distens.targets.protocol.Target`); None: classes.
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

    def merit(self, entry: Finished) -> tuple[float, float]:
        """Return the metric of a finished task, and the target's usual metric, which decides between equals.

        Lower is better. Under a coarse metric, such as the share of errors, many members are equal.
        """
        usual = "nll" if self.target is None else self.target.minimised[0]
        return entry.report.metrics[self.metric], entry.report.metrics.get(usual, 0.0)

    def known(self) -> Set[str]:
        """Return the `settings_key` of all settings ever dispatched; with several brackets, in the one being filled.

        The set has one key for each member, so avoid copying it.
        """
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
    """Return the id of the task that produced a model: the name itself, or the text before a part's `/`."""
    return name.partition("/")[0]


_encode = json.JSONEncoder(sort_keys=True).encode  # made once: `json.dumps` would make an encoder at every call


def settings_key(settings: Settings) -> str:
    """Return a string that equal settings share."""
    return _encode(settings)
