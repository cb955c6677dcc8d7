"""A run as a tree on a tracking server: a parent run, and a child run for every attempt.

Everything is looked up before it is written, so that sending a record again changes nothing. The server itself is
behind `Knowledge`, a protocol of the calls that any tracking server has.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distens.config.config import write_yaml
from distens.credentials import redact
from distens.records import Failure, Finished, Task
from distens.storage import editions
from distens.tracking import _records
from distens.tracking.protocol import FinalInfo, Participant, RunInfo

STATUSES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


EDITION = "distens.edition"
"""The tag of the number of the results that a run, or a version of a model, is of; absent for the first."""

CHANGED = "distens.changed."
"""What the tags begin with that have the values of a changed config: MLflow's parameters stay as they were first."""

CONTRIBUTION_METRICS = ("weight", "diversity")
"""Metrics on members' own runs. Those of a part have its name as a suffix: `weight.early`."""

MAX_MEMBERS_FOR_CONTRIBUTIONS = 1000
"""With more members than this, only the selected members get the CONTRIBUTION_METRICS on their own runs, since every
member costs a call to the server. `results.json` in the run's folder has the metrics of all members."""


@dataclass(slots=True)
class LoggedRun:
    """A run as the server holds it."""

    id: str
    status: str
    start_ms: int
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


class TrackingServer(Protocol):
    """A tracking server's runs, in one experiment.

    Example:
        A run is looked up, opened if it is missing, and logged::

            run = next(server.runs("distens.run", key), None) or server.create(name, {"distens.run": key}, now_ms())
            server.log(run.id, now_ms(), metrics={"ensemble.nll": 0.3}, params={"search.members": "8"})
            server.close(run.id, "FINISHED", now_ms())
    """

    def runs(self, tag: str, value: str) -> Iterator[LoggedRun]:
        """Yield the experiment's runs that have this value of a tag, oldest first."""
        ...

    def create(self, name: str, tags: Mapping[str, str], start_ms: int) -> LoggedRun:
        """Open a run, and return it."""
        ...

    def log(
        self,
        run_id: str,
        at_ms: int,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
        history: Mapping[str, Mapping[int, float]] | None = None,
    ) -> None:
        """Add entries to a run, in one call if the server's limits allow it.

        Args:
            at_ms: the time of the metrics.
            step: the step of `metrics`.
            history: metric -> step -> value, for metrics with steps of their own.
        """
        ...

    def steps(self, run_id: str, metric: str) -> set[int]:
        """Return the steps at which a metric was logged."""
        ...

    def close(self, run_id: str, status: str, end_ms: int | None = None) -> None:
        """Set a run's status; `RUNNING` reopens the run."""
        ...

    def text(self, run_id: str, text: str, name: str) -> None:
        """Store a small file with a run."""
        ...

    def file(self, run_id: str, path: Path, folder: str) -> None:
        """Store a local file with a run."""
        ...


def now_ms() -> int:
    """Return the present time in milliseconds since the epoch."""
    return int(time.time() * 1000)


class Logbook:
    """A connection's view of a run: its parent run and the children of that, read once at the start.

    Args:
        within: the name of the sweep that the run belongs to, whose folder holds the run's; None for a run by itself.
    """

    def __init__(self, server: TrackingServer, run: RunInfo, within: str | None = None) -> None:
        self.server = server
        self.run = run
        above = {}
        if within is not None:  # the first of a sweep's runs opens the sweep's own
            sweep = RunInfo(run.name, within, {}, run.storage.rpartition("/")[0], {}, "")
            above = {"mlflow.parentRunId": self._open(sweep, {}, "sweep").id}
        self.parent = self._open(run, above)
        self.children: dict[str, LoggedRun] = {}
        self.members: dict[str, LoggedRun] = {}
        for child in server.runs("mlflow.parentRunId", self.parent.id):
            self._keep(child)
        self._steps: dict[str, set[int]] = {}
        self._steps_lock = threading.Lock()  # records may come from several threads

    def _open(self, run: RunInfo, above: Mapping[str, str], kind: str = "run") -> LoggedRun:
        storage = run.storage if "://" in run.storage else str(Path(run.storage).absolute())
        tags = {
            "distens.kind": kind,
            "distens.run": run_key(run),
            "distens.storage": redact(storage)[: _records.TAG_LENGTH],
            "distens.fingerprint": run.fingerprint,
        }
        for found in self.server.runs("distens.run", tags["distens.run"]):
            if found.tags.get("distens.storage") == tags["distens.storage"]:
                return found
        return self.server.create(run.run_name, {**tags, **above}, now_ms())

    def _keep(self, child: LoggedRun) -> None:
        # There may be thousands of children: only the fields that are needed again are kept.
        contributed = {
            key: value for key, value in child.metrics.items() if key.partition(".")[0] in CONTRIBUTION_METRICS
        }
        tags = {key: child.tags[key] for key in (EDITION,) if key in child.tags}
        kept = LoggedRun(child.id, child.status, child.start_ms, tags, metrics=contributed)
        self.children[child.tags.get("distens.record", child.id)] = kept
        # A failed attempt never replaces the member of a successful one; of several, the newest is kept.
        if "distens.reason" not in child.tags:
            self.members[child.tags.get("distens.task", "")] = kept

    def start(self) -> None:
        """Log the run's config and versions on the parent run, and open it again unless it runs or has finished.

        A run that was asked for more since it finished is open again, too.
        """
        goes_on = self.parent.status == "FINISHED" and self._is_earlier(self.parent)
        if self.parent.status not in ("RUNNING", "FINISHED") or goes_on:
            self.server.close(self.parent.id, "RUNNING")
            self.parent.status = "RUNNING"
        params = _records.flatten(self.run.config)
        fresh = {key: value for key, value in params.items() if key not in self.parent.params}
        versions = {f"distens.version.{name}": text for name, text in self.run.versions.items()}
        tags = {**versions, **self._changed(params), **self._edition()}
        self.server.log(self.parent.id, now_ms(), params=fresh, tags=tags)
        self.server.text(self.parent.id, write_yaml(_records.redacted(self.run.config)), "config.yaml")

    def _is_earlier(self, found: LoggedRun) -> bool:
        """Return True if what the server holds is of earlier results."""
        return found.tags.get(EDITION, "1") != str(self.run.edition)

    def _edition(self) -> dict[str, str]:
        """Return the tag of the number of the results."""
        return {EDITION: str(self.run.edition)} if self.run.edition > 1 else {}

    def _changed(self, params: Mapping[str, str]) -> dict[str, str]:
        """Return tags with the values of the config that are not those of the parent run's parameters any more."""
        found: dict[str, str] = {}
        for key, first in self.parent.params.items():
            now, tag = params.get(key, "(not set)"), _records.safe_key(CHANGED + key)
            if now != first or tag in self.parent.tags:
                found[tag] = now[: _records.TAG_LENGTH]
        return found

    def member(self, task: Task, outcome: Finished | Failure, at_ms: int) -> None:
        """Log one attempt as a child run, unless the server has it; complete a child run that was interrupted."""
        tags = _records.labels(task, outcome)
        known = self.children.get(tags["distens.record"])
        if known is not None and known.status != "RUNNING":
            if isinstance(outcome, Finished):
                self.members[task.id] = known
            return
        child = known
        if child is None:
            seconds = outcome.report.seconds if isinstance(outcome, Finished) else outcome.seconds
            parent = {"mlflow.parentRunId": self.parent.id}
            start_ms = at_ms - int(1000 * seconds)
            child = self.server.create(_records.title(task, outcome), {**tags, **parent}, start_ms)
        params = _records.flatten({**task.settings, "seed": task.seed})
        # The metrics' time is the run's own start, so that metrics sent again are not further entries.
        metrics, history = _records.measures(outcome), _records.curves(outcome)
        self.server.log(child.id, child.start_ms, metrics=metrics, params=params, history=history)
        child.status = "FINISHED" if isinstance(outcome, Finished) else "FAILED"
        self.server.close(child.id, child.status, at_ms)
        self._keep(LoggedRun(child.id, child.status, child.start_ms, tags))

    def participant(self, done: Participant, at_ms: int) -> None:
        """Log a participant as a child run, unless the server has it; complete a child run that was interrupted."""
        record = f"{done.kind}/{done.name}"
        child = self.children.get(record)
        goes_on = child is not None and child.status != "RUNNING"
        if child is not None and goes_on and not self._is_earlier(child):
            return
        tags = self._edition()
        if done.failures:
            tags["distens.failures"] = redact("\n".join(done.failures))
        tags = {key: value[: _records.TAG_LENGTH] for key, value in tags.items()}
        if child is None:
            known = {
                "distens.kind": "member",
                "distens.task": done.name,
                "distens.purpose": done.kind,
                "distens.record": record,
            }
            known = {key: value[: _records.TAG_LENGTH] for key, value in known.items()}
            child = self.server.create(done.name, {**known, **tags, "mlflow.parentRunId": self.parent.id}, at_ms)
        metrics = _records.finite_entries(done.metrics)
        history = {_records.safe_key(key): _finite(values) for key, values in done.history.items()}
        if goes_on:  # its numbers are newer; of the points, those that the server has keep their time
            self.server.log(child.id, at_ms, metrics=metrics, tags=tags)
            metrics = {}
        self.server.log(child.id, child.start_ms, metrics=metrics, history=history)
        self.server.close(child.id, "FINISHED", at_ms)
        self.children[record] = LoggedRun(child.id, "FINISHED", child.start_ms, tags)

    def progress(self, step: int, metrics: Mapping[str, float], at_ms: int) -> None:
        """Log the metrics of a step on the parent run, unless the server has them."""
        fresh = {}
        with self._steps_lock:
            for key, value in _records.finite_entries(metrics).items():
                if key not in self._steps:
                    self._steps[key] = self.server.steps(self.parent.id, key) if key in self.parent.metrics else set()
                if step not in self._steps[key]:
                    fresh[key] = value
                    self._steps[key].add(step)
        if fresh:
            self.server.log(self.parent.id, at_ms, metrics=fresh, step=step)

    def contribution(self, name: str, metrics: Mapping[str, float]) -> None:
        """Log the weight and diversity of a member, or of a part of it, on the member's own run."""
        task_id, _, part = name.partition("/")
        child = self.members.get(task_id)
        if child is not None:
            self._log_new(
                child, _records.finite_entries({f"{key}.{part}" if part else key: v for key, v in metrics.items()})
            )

    def results(self, final: FinalInfo) -> None:
        """Log the table of results on the parent run.

        Its numbers become metrics (`ensemble.accuracy`), the whole table a file, and the verdict the description.
        """
        metrics: dict[str, float] = {}
        for row, values in final.rows.items():
            metrics |= _records.finite_entries(values, f"{row}.")
        self._log_new(self.parent, metrics)
        self._unselect(final.weights)
        self.server.text(self.parent.id, _json(final.rows), editions.file_of(editions.RESULTS, self.run.edition))
        if final.verdict:
            note = "\n".join(f"- {sentence}" for sentence in final.verdict)
            self.server.log(self.parent.id, now_ms(), tags={"mlflow.note.content": note})

    def _unselect(self, weights: Mapping[str, float]) -> None:
        """Log a weight of zero for members, and parts, that earlier results selected and these do not."""
        if not weights:  # there is no ensemble; a client's weights are those of its rounds
            return
        for task_id, child in self.members.items():
            for key in [key for key, value in child.metrics.items() if value]:
                name, _, part = key.partition(".")
                if name == "weight" and (f"{task_id}/{part}" if part else task_id) not in weights:
                    self._log_new(child, {key: 0.0})

    def file(self, path: Path, folder: str = "") -> None:
        """Store a local file with the parent run, in a folder of the run's edition, or beside all."""
        self.server.file(self.parent.id, path, editions.folder_of(folder, self.run.edition) if folder else "")

    def end(self, status: str) -> None:
        """Close the parent run with a status of `Tracker.finish`."""
        if self.parent.status != STATUSES[status]:
            self.server.close(self.parent.id, STATUSES[status], now_ms())
            self.parent.status = STATUSES[status]

    def _log_new(self, run: LoggedRun, metrics: Mapping[str, float]) -> None:
        fresh = {key: value for key, value in metrics.items() if run.metrics.get(key) != value}
        if fresh:
            self.server.log(run.id, now_ms(), metrics=fresh)
            run.metrics = {**run.metrics, **fresh}


def final_records(final: FinalInfo) -> Iterator[tuple[str, Callable[[Logbook], None]]]:
    """Yield the label and the call of every record of a finished run, each small enough to show progress."""
    yield "the table of results", lambda book: book.results(final)
    few = len(final.diversity) <= MAX_MEMBERS_FOR_CONTRIBUTIONS
    for name in sorted({*final.weights, *final.diversity} if few else final.weights):
        sources = {"weight": final.weights, "diversity": final.diversity}
        metrics = {key: values[name] for key, values in sources.items() if name in values}
        yield f"the weight of {name}", lambda book, n=name, m=metrics: book.contribution(n, m)
    for path in final.figures:
        yield f"the figure {path.name}", lambda book, p=path: book.file(p, "figures")
    if final.report is not None:
        yield "the report", lambda book, p=final.report: book.file(p)


def run_key(run: RunInfo) -> str:
    """Return a run's permanent key: its name, which has its config's hash, and its data's fingerprint."""
    return f"{run.run_name}/{run.fingerprint}"


def _json(rows: Mapping[str, Mapping[str, Any]]) -> str:
    return json.dumps(_records.redacted({name: dict(row) for name, row in rows.items()}), indent=1, default=str)


def _finite(values: Mapping[int, float]) -> dict[int, float]:
    return {step: float(value) for step, value in values.items() if math.isfinite(value)}
