"""A run as a tree in MLflow: the run, a child run for every attempt, figures, tables and registered models.

    calls of the run ──► queue ──► one thread ──► MLflow (a local SQLite file, or any tracking server)

One writer, because a SQLite store is not faster with several, and because then what comes after an outage comes in
order. While the server is away everything waits; the run does not.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from distens.credentials import holds, redact
from distens.errors import RunError
from distens.records import Failure, Finished, Floats, Task
from distens.tracking import _records, _registration
from distens.tracking._address import artifacts_beside, how_to_look, is_server, is_store, pinned
from distens.tracking._logbook import STATUSES, ClientRun, Logbook, Run, final_records, now_ms
from distens.tracking._registration import Version
from distens.tracking._sender import Left, Sender
from distens.tracking.protocol import Final, RunInfo

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("distens")

ENVIRONMENT = "MLFLOW_TRACKING_URI"
LOCAL = "sqlite:///mlflow.db"

RUNS_PER_PAGE = 1000

SIDE_BY_SIDE = 8
"""So many records are sent to a server at the same time."""

IMPATIENT_SECONDS = 5.0

STOPPING_SECONDS = 1.5
"""A job that is stopped has three seconds in all before Ray kills it."""


@dataclass
class MlflowRuns:
    """Logs to MLflow without ever holding up or breaking a run.

    Attributes:
        uri: a tracking server (`http://host:5000`) or a database (`sqlite:///file.db`, `postgresql://host/db`). Without
            it the environment's MLFLOW_TRACKING_URI, else `mlflow.db` in the working directory. A password belongs
            into the environment, since the config is stored with the run.
        experiment: the run's name unless given.
        wait_seconds: how long `finish` waits for a server that takes nothing; at most 5 for a run that did not finish,
            and 1.5 in all for one that was stopped.
            A server that takes what it is sent is waited for as long as that lasts, and that is said; a member costs
            one on PostgreSQL about 65 ms of CPU.
        register: whether bundles become versions of registered models.
        within: the name of the sweep that this run is one of and is nested under; `distens sweep` fills it in.
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

    def __post_init__(self) -> None:
        if self.uri is not None and holds(self.uri):
            raise ValueError(
                f"uri {redact(self.uri)!r} holds credentials, and a config is stored with its run; "
                f"leave uri out and set the environment variable {ENVIRONMENT}"
            )
        address = self._given()
        if not is_store(address):
            origin = "uri" if self.uri is not None else f"the environment's {ENVIRONMENT}"
            raise ValueError(
                f"{origin} {redact(address)!r} is neither a server's address (http://…) nor a database's "
                f"({LOCAL}, postgresql://…); MLflow keeps no runs in plain folders any more"
            )

    def _given(self) -> str:
        return self.uri or os.environ.get(ENVIRONMENT) or LOCAL

    def start(self, run: RunInfo) -> None:
        """Begin, or go on with, the parent run."""
        _prepare()
        if self._sender is not None:
            self._sender.close(0)
        self._run, self._address, self._page, self._lines = run, pinned(self._given()), ("", ""), []
        self._sender = Sender(self._connect, width=SIDE_BY_SIDE if is_server(self._address) else 1)
        self._sender.put("the run's config", lambda book: book.start())

    def _connect(self) -> Logbook:
        assert self._run is not None
        server = _Mlflow(self._address, self.experiment or self._run.name)
        book = Logbook(server, self._run, self.within)
        self._page = (server.experiment_id, book.parent.id)
        return book

    def member(self, task: Task, outcome: Finished | Failure) -> None:
        """Log one attempt."""
        at_ms = now_ms()
        label = f"{task.id}, attempt {_records.attempt_of(outcome)}"
        self._started().put(label, lambda book: book.member(task, outcome, at_ms), beside=True)

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the search so far on the parent run."""
        at_ms, metrics = now_ms(), dict(metrics)
        self._started().put(f"progress at step {step}", lambda book: book.progress(step, metrics, at_ms), beside=True)

    def client(
        self,
        name: str,
        metrics: Mapping[str, float],
        history: Mapping[str, Mapping[int, float]],
        failures: Sequence[str] = (),
    ) -> None:
        """Log what a federation's client did, as a child run."""
        at_ms, done = now_ms(), ClientRun(name, dict(metrics), dict(history), tuple(failures))
        self._started().put(f"client {name}", lambda book: book.client(done, at_ms), beside=True)

    def finish(self, final: Final | None, status: str) -> list[str]:
        """Send what is left, register the bundles, and return lines for the user."""
        assert status in STATUSES, status
        if self._sender is None:  # the run failed before it began: there is nothing to say
            return []
        sender, self._sender = self._sender, None
        if final is not None:
            for place, (label, send) in enumerate(final_records(final)):
                sender.put(label, send, beside=place > 0)
            for bundle in final.bundles if self.register else ():
                sender.put(f"the model {bundle}", lambda book, b=bundle: self._register(book, final, b))
        sender.put("the run's status", lambda book: book.end(status))
        # Whoever stopped a run wants it to end; what is not sent now is sent when it is resumed.
        wait_seconds = self.wait_seconds if status == "finished" else min(self.wait_seconds, IMPATIENT_SECONDS)
        left = sender.close(wait_seconds, self._still, STOPPING_SECONDS if status == "stopped" else math.inf)
        return [*self._lines, *self._unsent(left), how_to_look(self._address, *self._page)]

    def _still(self, waiting: int, seconds: float) -> None:
        assert self._run is not None
        again = f"stop here, and `distens resume {redact(self._run.storage)}` sends the rest"
        log.warning("MLflow: %d records are still to be sent, about %.0f s; or %s", waiting, seconds, again)

    def _register(self, book: Logbook, final: Final, bundle: str) -> None:
        assert isinstance(book.server, _Mlflow)
        self._lines.append(f"MLflow: {_registration.register(book.server, book, final, bundle)}")

    def _started(self) -> Sender[Logbook]:
        if self._sender is None:
            raise RunError("tracking: `start` comes first")
        return self._sender

    def _unsent(self, left: Left) -> list[str]:
        lines = [f"MLflow did not take {_one_line(refusal)}" for refusal in left.refused]
        if left.waiting:
            assert self._run is not None
            many = "1 record was" if left.waiting == 1 else f"{left.waiting} records were"
            why = f" ({_one_line(str(left.error))})" if left.error is not None else ""
            again = f"`distens resume {redact(self._run.storage)}` will send what is missing."
            lines.append(f"MLflow: {many} not sent{why}. {again}")
        return lines


def _prepare() -> None:
    # Imported here and not in the thread: two threads that import packages with cycles may see half of one.
    import mlflow.models
    import mlflow.pyfunc  # noqa: F401

    # Ours is the thread that tries again and says so at the end; MLflow's own retries would take minutes each.
    # A value that the user has set stays.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    # A server on an object store would send us there for its files; we may not reach it.
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for chatty in ("alembic", "mlflow.pyfunc", "mlflow.store.db.utils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _one_line(text: str) -> str:
    line = " ".join(redact(text).split())
    return line if len(line) <= 300 else f"{line[:299]}…"


class _Mlflow:
    """The one place that speaks MLflow: an explicit client, none of MLflow's global state."""

    def __init__(self, address: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self.address = address
        self.client: MlflowClient = MlflowClient(tracking_uri=address, registry_uri=address)
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            # Of this kind the page opens on runs and models; without it MLflow shows what belongs to chat models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            self.experiment_id = self.client.create_experiment(experiment, artifacts_beside(address, experiment), kind)
        else:
            self.experiment_id = found.experiment_id

    def runs(self, tag: str, value: str) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                f"tags.`{tag}` = '{value}'",
                max_results=RUNS_PER_PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from map(_run, page)
            token = page.token
            if not token:
                return

    def create(self, name: str, tags: Mapping[str, str], start_ms: int) -> Run:
        return _run(self.client.create_run(self.experiment_id, start_time=start_ms, tags=dict(tags), run_name=name))

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
        from mlflow.entities import Metric, Param, RunTag

        measured = [Metric(key, value, at_ms, step) for key, value in (metrics or {}).items()]
        measured += [Metric(key, v, at_ms, at) for key, values in (history or {}).items() for at, v in values.items()]
        given = [Param(key, value) for key, value in (params or {}).items()]
        tagged = [RunTag(key, value) for key, value in (tags or {}).items()]
        # MLflow takes 100 params, 100 tags and 1,000 entries of all kinds in one call.
        calls = zip_longest(_chunks(measured, 800), _chunks(given, 100), _chunks(tagged, 100), fillvalue=())
        for metrics_now, params_now, tags_now in calls:
            self.client.log_batch(run_id, metrics=metrics_now, params=params_now, tags=tags_now)

    def steps(self, run_id: str, metric: str) -> set[int]:
        return {entry.step for entry in self.client.get_metric_history(run_id, metric)}

    def close(self, run_id: str, status: str, end_ms: int | None = None) -> None:
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, end_ms)

    def text(self, run_id: str, text: str, name: str) -> None:
        self.client.log_text(run_id, text, name)

    def file(self, run_id: str, path: Path, folder: str) -> None:
        self.client.log_artifact(run_id, str(path), folder or None)

    def versions(self, model: str) -> list[Version]:
        return [_version(found) for found in self.client.search_model_versions(f"name = '{model}'")]

    def champion(self, model: str) -> Version | None:
        number = self.client.get_registered_model(model).aliases.get(_registration.CHAMPION)
        return None if number is None else _version(self.client.get_model_version(model, str(number)))

    def add(self, model: str, run_id: str, bundle: Path, example: Any, tags: Mapping[str, str]) -> Version:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.exceptions import MlflowException
        from mlflow.pyfunc import save_model

        import distens

        rows = _registration.plain(example)
        logged = self.client.create_logged_model(self.experiment_id, model, source_run_id=run_id)
        with tempfile.TemporaryDirectory() as folder:
            save_model(
                path=f"{folder}/model",
                # A path, not an object: MLflow stores the code, and nothing is pickled.
                python_model=str(Path(distens.__file__).parent / "serve" / "pyfunc.py"),
                artifacts={"bundle": str(bundle)},
                signature=_signature(rows, json.loads((bundle / "bundle.json").read_text())["classes"]),
                input_example=rows,
                pip_requirements=_registration.requirements(),
            )
            self.client.log_model_artifacts(logged.model_id, f"{folder}/model")
        self.client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        with suppress(MlflowException):  # it exists
            self.client.create_registered_model(model)
        # By its place, not as `models:/<id>`: a database store would look that up through MLflow's global address.
        return _version(
            self.client.create_model_version(
                model, logged.artifact_location, run_id, dict(tags), model_id=logged.model_id, await_creation_for=0
            )
        )

    def predict(self, model: str, version: Version, example: Any) -> Floats:
        from mlflow.artifacts import download_artifacts
        from mlflow.pyfunc import load_model

        place = self.client.get_model_version_download_uri(model, version.number)
        with tempfile.TemporaryDirectory() as folder:
            path = download_artifacts(place, dst_path=folder, tracking_uri=self.address, registry_uri=self.address)
            return load_model(path).predict(_registration.plain(example)).to_numpy()

    def tag(self, model: str, version: Version, key: str, value: str) -> None:
        self.client.set_model_version_tag(model, version.number, key, value)

    def promote(self, model: str, version: Version) -> None:
        self.client.set_registered_model_alias(model, _registration.CHAMPION, version.number)


def _chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _run(found: Any) -> Run:
    data = found.data
    return Run(found.info.run_id, found.info.status, found.info.start_time, data.tags, data.params, data.metrics)


def _version(found: Any) -> Version:
    return Version(str(found.version), dict(found.tags))


def _signature(rows: Any, classes: Sequence[str]) -> Any:
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import AnyType, ColSpec, ParamSchema, ParamSpec, Schema

    if not hasattr(rows, "columns"):
        inputs = infer_signature(rows).inputs
    else:
        whole = [name for name, kind in rows.dtypes.items() if kind.kind in "iu"]
        found = infer_signature(rows.astype(dict.fromkeys(whole, float))).inputs
        # A column of whole numbers is of floats where one is missing, and MLflow would refuse the one type or the
        # other; the bundle's own preprocessing checks these columns.
        inputs = Schema([ColSpec(AnyType(), spec.name) if spec.name in whole else spec for spec in found.inputs])
    budget = ParamSchema([ParamSpec(name, "double", None) for name in ("mean_members", "tolerance")])
    return ModelSignature(inputs, Schema([ColSpec("double", str(name)) for name in classes]), budget)
