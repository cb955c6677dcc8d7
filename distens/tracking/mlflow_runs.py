"""A tracker for MLflow: the run, a child run for every attempt, figures, tables and registered models.

    calls of the run ──► queue ──► a thread ──► MLflow (a local SQLite file, or any tracking server)

A database gets one record at a time, since SQLite is not faster with several writers. A server, which needs time for
each request, gets several members' records at the same time. While it is away, the records wait and the run continues.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from distens.credentials import has_credentials, redact
from distens.errors import RunError
from distens.records import Failure, Finished, Task
from distens.tracking import _mlflow, _records, _registration
from distens.tracking._address import how_to_look, is_server, is_store, pinned
from distens.tracking._logbook import STATUSES, Logbook, final_records, now_ms
from distens.tracking._mlflow import Mlflow
from distens.tracking._sender import NeedsRepair, Sender, UnsentRecords
from distens.tracking.protocol import FinalInfo, Participant, RunInfo

log = logging.getLogger("distens")

ENVIRONMENT = "MLFLOW_TRACKING_URI"
LOCAL = "sqlite:///mlflow.db"

SIDE_BY_SIDE = 8
"""Records that are sent to a server at the same time, at most."""

IMPATIENT_SECONDS = 5.0

STOPPING_SECONDS = 1.5
"""A job that is stopped has three seconds in all before Ray kills it."""


@dataclass
class MlflowRuns:
    """A tracker that logs to MLflow, and never delays or breaks a run.

    Attributes:
        uri: a tracking server (`http://host:5000`) or a database (`sqlite:///file.db`, `postgresql://host/db`). The
            default is the environment's MLFLOW_TRACKING_URI, else `mlflow.db` in the working directory. A password
            belongs in the environment, since the config is stored with the run.
        experiment: the name of the experiment; the run's name by default.
        wait_seconds: how long `finish` waits for a server that accepts no record; at most 5 seconds for a run that
            failed, and 1.5 in all for a run that was stopped. While the server accepts records, `finish` waits until
            all are sent, and logs that it does; a member costs a server on PostgreSQL about 60 ms of CPU.
        register: whether bundles become versions of registered models.
        within: the name of the sweep that this run belongs to and is nested under; `distens sweep` sets it.
    """

    uri: str | None = None
    experiment: str | None = None
    wait_seconds: Annotated[float, Ge(0)] = 30.0
    register: bool = True
    within: str | None = None
    _sender: Sender[Logbook] | None = field(default=None, init=False, repr=False, compare=False)
    _run: RunInfo | None = field(default=None, init=False, repr=False, compare=False)
    _address: str = field(default="", init=False, repr=False, compare=False)
    _page: tuple[str, str] = field(default=("", ""), init=False, repr=False, compare=False)
    _lines: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _restore: Callable[[], None] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.uri is not None and has_credentials(self.uri):
            raise ValueError(
                f"uri {redact(self.uri)!r} holds credentials, and a config is stored with its run; "
                f"leave uri out and set the environment variable {ENVIRONMENT}"
            )
        address = self._raw_address()
        if not is_store(address):
            origin = "uri" if self.uri is not None else f"the environment's {ENVIRONMENT}"
            raise ValueError(
                f"{origin} {redact(address)!r} is neither a server's address (http://…) nor a database's "
                f"({LOCAL}, postgresql://…); MLflow no longer keeps runs in plain folders"
            )

    def _raw_address(self) -> str:
        return self.uri or os.environ.get(ENVIRONMENT) or LOCAL

    def start(self, run: RunInfo) -> None:
        """Begin the parent run, or continue one that was begun before."""
        if self._sender is not None:
            self._sender.close(0)
            self._sender = None
        self._leave_mlflow_as_found()
        self._restore = _mlflow.prepare()
        self._run, self._address, self._page, self._lines = run, pinned(self._raw_address()), ("", ""), []
        # Here, not in the sender's thread, which ends with the process, whatever it does at that moment.
        with suppress(Exception):  # the sender tries again, and says what is wrong
            _mlflow.prepare_database(self._address)
        width = SIDE_BY_SIDE if is_server(self._address) else 1
        self._sender = Sender(self._connect, width=width, is_away=_mlflow.is_away, warn=self._warn)
        self._sender.put("the run's config", lambda book: book.start())

    def _connect(self) -> Logbook:
        assert self._run is not None
        experiment = self.experiment or self._run.name
        _mlflow.prepare_database(self._address)
        try:
            server = Mlflow(self._address, experiment)
            book = Logbook(server, self._run, self.within)
        except Exception as error:
            raise _mlflow.explain(error, self._address, experiment) from error
        self._page = (server.experiment_id, book.parent.id)
        return book

    def _warn(self, fault: NeedsRepair) -> None:
        log.warning("MLflow: nothing can be sent so far: %s", _one_line(str(fault), 1000))

    def member(self, task: Task, outcome: Finished | Failure) -> None:
        """Log one attempt as a child run."""
        at_ms = now_ms()
        label = f"{task.id}, attempt {_records.attempt_of(outcome)}"
        self._require_sender().put(label, lambda book: book.member(task, outcome, at_ms), beside=True)

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics of the run's progress on the parent run."""
        at_ms, metrics = now_ms(), dict(metrics)
        self._require_sender().put(
            f"progress at step {step}", lambda book: book.progress(step, metrics, at_ms), beside=True
        )

    def participant(self, participant: Participant) -> None:
        """Log the record of a participant as a child run."""
        at_ms, label = now_ms(), f"{participant.kind} {participant.name}"
        self._require_sender().put(label, lambda book: book.participant(participant, at_ms), beside=True)

    def finish(self, final: FinalInfo | None, status: str) -> list[str]:
        """Send the records that are left, register the bundles, and return lines for the user."""
        assert status in STATUSES, status
        if self._sender is None:  # the run failed before it began: nothing was logged
            self._leave_mlflow_as_found()
            return []
        sender, self._sender = self._sender, None
        if final is not None:
            for place, (label, send) in enumerate(final_records(final)):
                sender.put(label, send, beside=place > 0)
            for bundle in final.bundles if self.register else ():
                sender.put(f"the model {bundle}", lambda book, b=bundle: self._register(book, final, b))
        sender.put("the run's status", lambda book: book.end(status))
        # A user who stops a run wants it to end; the remaining records are sent when it is resumed.
        wait_seconds = self.wait_seconds if status == "finished" else min(self.wait_seconds, IMPATIENT_SECONDS)
        left = sender.close(wait_seconds, self._warn_waiting, STOPPING_SECONDS if status == "stopped" else math.inf)
        self._leave_mlflow_as_found()
        return [*self._lines, *self._unsent(left), how_to_look(self._address, *self._page)]

    def _leave_mlflow_as_found(self) -> None:
        if self._restore is not None:
            self._restore()
            self._restore = None

    def _warn_waiting(self, waiting: int, seconds: float) -> None:
        again = f"stop here, and {self._again()} sends the rest"
        log.warning(
            "MLflow: %d records are still to be sent, which takes about %.0f s. Wait, or %s", waiting, seconds, again
        )

    def _register(self, book: Logbook, final: FinalInfo, bundle: str) -> None:
        assert isinstance(book.server, Mlflow)
        self._lines.append(f"MLflow: {_registration.register(book.server, book, final, bundle)}")

    def _require_sender(self) -> Sender[Logbook]:
        if self._sender is None:
            raise RunError("tracking: `start` comes first")
        return self._sender

    def _again(self) -> str:
        """Return the command that sends what is missing, in words."""
        assert self._run is not None
        if not self._run.fingerprint:  # a sweep, which has no data of its own
            return "the same `distens sweep`"
        return f"`distens resume {shlex.quote(redact(self._run.storage))}`"

    def _unsent(self, left: UnsentRecords) -> list[str]:
        lines = [f"MLflow did not accept {_one_line(refusal)}" for refusal in left.refused]
        if left.waiting:
            many = "1 record was" if left.waiting == 1 else f"{left.waiting} records were"
            fault = isinstance(left.error, NeedsRepair)
            why = f": {_one_line(str(left.error), 1000)}" if fault else f" ({_one_line(str(left.error))})"
            then = f"After that, {self._again()} sends" if fault else f"{self._again()} will send"
            lines.append(f"MLflow: {many} not sent{why if left.error is not None else ''}. {then} what is missing.")
        return lines


def _one_line(text: str, most: int = 300) -> str:
    line = " ".join(redact(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
