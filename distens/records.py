"""The small frozen values that travel between coordinator, runners, storage and tracking.

A record holds ids, numbers and addresses, never a model. `State` is the one value with arrays in it: it is what a
member is made of, and it goes from a member to storage and back, not through the coordinator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Settings = Mapping[str, Any]
"""What one member is told to be: JSON values only. Always has `family` (its name in the config's `members`)
and `kind` (the plug-in in `distens/members`)."""

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

Reason = Literal["crashed", "out_of_memory", "timed_out", "diverged", "refused"]


@dataclass(frozen=True)
class Address:
    """Where a finished file lies in a run's folder, and what it must hash to."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class State:
    """What a member has learned: arrays (dense, little-endian) and a JSON-able description of how to use them."""

    arrays: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Resources:
    """What one member occupies while it trains."""

    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Teacher:
    """One selected member as a distiller sees it."""

    settings: Settings
    state: Address
    weight: float


@dataclass(frozen=True)
class Task:
    """One member to be trained. The same id and seed give the same member on any attempt.

    Attributes:
        id: unique in the run, e.g. `m0007` for search, `student`, `larger_single-1`.
        purpose: why it is trained: `search`, `student`, `student_on_labels`, `larger_single`, `seed_ensemble`.
        settings: what to train.
        seed: the only source of chance.
        distill: the distiller's kind and options; None to train on labels.
        teachers: who is distilled; empty unless `distill` is given.
        attempt: 1 for the first; fences off a late writer.
    """

    id: str
    purpose: str
    settings: Settings
    seed: int
    resources: Resources = Resources()
    distill: Mapping[str, Any] | None = None
    teachers: tuple[Teacher, ...] = ()
    attempt: int = 1


@dataclass(frozen=True)
class Report:
    """A task that finished.

    Attributes:
        metrics: measured on the *search* split: `nll` and `error` (lower is better); and what the member adds.
        seconds: training time of this attempt, and of the attempts whose checkpoints it went on from.
        parameters: numbers that the member learned or stores.
        predict_ms_per_1000: milliseconds to predict 1,000 rows, loading excluded.
        node: the host that trained it.
        files: `state`, and predictions (probs_NC) on the splits `search`, `combine` and `test`.
    """

    task_id: str
    attempt: int
    metrics: Mapping[str, float]
    seconds: float
    parameters: int
    predict_ms_per_1000: float
    node: str
    files: Mapping[str, Address]


@dataclass(frozen=True)
class Failure:
    """A task that did not finish. `final` is false when it will be tried again."""

    task_id: str
    attempt: int
    reason: Reason
    message: str
    seconds: float
    node: str
    final: bool = True


Outcome = Report | Failure


@dataclass(frozen=True)
class Finished:
    """A task with its report."""

    task: Task
    report: Report


@dataclass(frozen=True)
class Failed:
    """A task with its final failure."""

    task: Task
    failure: Failure


def _no_predictions(task_id: str) -> Floats:
    raise KeyError(task_id)


@dataclass(frozen=True)
class History:
    """All that search may know, in order of arrival (finished, failed) or of dispatch (pending).

    Attributes:
        metric: the key of `Report.metrics` that search minimises.
        labels_N: the labels of the *search* split.
        predictions: task id -> probs_NC on the *search* split (read on demand, memory-mapped, read-only).
    """

    finished: tuple[Finished, ...] = ()
    failed: tuple[Failed, ...] = ()
    pending: tuple[Task, ...] = ()
    metric: str = "nll"
    labels_N: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    predictions: Callable[[str], Floats] = _no_predictions

    def values(self) -> Floats:
        """Return the metric of every finished member, in order of arrival."""
        return np.array([entry.report.metrics[self.metric] for entry in self.finished], dtype=np.float64)


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as a JSON-able mapping."""
    return asdict(record)


def task_from_json(values: Mapping[str, Any]) -> Task:
    """Return the task that `to_json` wrote."""
    teachers = tuple(Teacher(t["settings"], Address(**t["state"]), t["weight"]) for t in values.get("teachers", ()))
    return Task(**{**values, "resources": Resources(**values["resources"]), "teachers": teachers})


def report_from_json(values: Mapping[str, Any]) -> Report:
    """Return the report that `to_json` wrote."""
    return Report(**{**values, "files": {name: Address(**a) for name, a in values["files"].items()}})


def failure_from_json(values: Mapping[str, Any]) -> Failure:
    """Return the failure that `to_json` wrote."""
    return Failure(**values)
