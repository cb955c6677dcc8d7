"""All calls to MLflow's API: runs and models through an explicit client, without MLflow's global state."""

from __future__ import annotations

import json
import logging
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distens.records import Floats
from distens.tracking import _registration
from distens.tracking._address import artifacts_beside, as_address, database_file
from distens.tracking._database import Schema, complete_database
from distens.tracking._logbook import LoggedRun
from distens.tracking._registration import Version
from distens.tracking._sender import NeedsRepair

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUNS_PER_PAGE = 1000


DEFAULTS = {
    # Our own thread tries again, and reports at the end; MLflow's own retries would take minutes each.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # A server on an object store would send us to that store for its files; we may have no access to it.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Options of MLflow's, which it reads from the environment. A value that the user has set is kept."""

CHATTY = ("alembic", "mlflow.pyfunc", "mlflow.store.db.utils")

AWAY = (408, 429, 502, 503, 504)
"""HTTP statuses of a server, or of a database, that will answer later; MLflow has them for its errors of SQLite too."""


def prepare() -> Callable[[], None]:
    """Import MLflow, and set it to fail soon, since our sender tries again; return a function that sets it back."""
    # Imported here, not in the sender's thread: two threads that import packages with cycles may see half of one.
    import mlflow.models
    import mlflow.pyfunc  # noqa: F401

    ours = [name for name in DEFAULTS if name not in os.environ]
    os.environ.update({name: DEFAULTS[name] for name in ours})
    levels = {logger: logger.level for logger in map(logging.getLogger, CHATTY)}
    for logger in levels:
        logger.setLevel(logging.WARNING)

    def restore() -> None:
        for name in ours:
            os.environ.pop(name, None)
        for logger, level in levels.items():
            logger.setLevel(level)

    return restore


def prepare_database(address: str) -> None:
    """Make, or upgrade, the database at an address if it is a SQLite file.

    Raises:
        NeedsRepair, sqlite3.OperationalError: see `complete_database`.
    """
    path = database_file(address)
    if path is not None:
        complete_database(path, _schema())


@cache
def _schema() -> Schema:
    from mlflow.store.db import utils
    from mlflow.store.db.base_sql_model import Base

    def migrate(path: Path) -> None:
        # As MLflow itself does when it opens a file, and as `mlflow db upgrade` does.
        engine = utils.create_sqlalchemy_engine(as_address(path))
        try:
            utils._initialize_tables(engine)
        finally:
            engine.dispose()

    return Schema(utils._get_latest_schema_revision(), frozenset(Base.metadata.tables), migrate)


def is_away(error: BaseException) -> bool:
    """Return True for an error of a server or a database that will answer later."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.get_http_status_code() in AWAY


def explain(error: Exception, address: str, experiment: str) -> Exception:
    """Return an error of an attempt to connect, as `NeedsRepair` if no later attempt can do better."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, ImportError):
        return NeedsRepair(f"{address} needs a package that is not installed ({error})", "Install it")
    if not isinstance(error, MlflowException):
        return error
    status, said = error.get_http_status_code(), f"({str(error)[:200]})"
    if status == 401:
        keys = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN,"
        return NeedsRepair(f"{address} asks who we are {said}", f"Set {keys} in the environment")
    if status == 403:
        cure = "Ask whoever runs it for leave to write there, or set tracking.experiment to another name"
        return NeedsRepair(f"{address} refuses access to experiment {experiment!r} {said}", cure)
    if status in (404, 405) or "not in a valid JSON format" in str(error):
        cure = "Set tracking.uri, or MLFLOW_TRACKING_URI in the environment, to the server's own address"
        return NeedsRepair(f"no MLflow answers at {address} {said}", cure)
    if error.error_code == "INVALID_PARAMETER_VALUE":
        return NeedsRepair(f"{address} does not take experiment {experiment!r} {said}", "Set tracking.experiment")
    return error


class Mlflow:
    """The runs, files and models at one address, in one experiment, which is created if it is missing."""

    def __init__(self, address: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self.address = address
        self.client: MlflowClient = MlflowClient(tracking_uri=address, registry_uri=address)
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            # For this kind, the page opens on runs and models; without it, on pages for chat models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            self.experiment_id = self.client.create_experiment(experiment, artifacts_beside(address, experiment), kind)
        elif found.lifecycle_stage == "deleted":
            raise _deleted(address, experiment, found.experiment_id)
        else:
            self.experiment_id = found.experiment_id

    def runs(self, tag: str, value: str) -> Iterator[LoggedRun]:
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

    def create(self, name: str, tags: Mapping[str, str], start_ms: int) -> LoggedRun:
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

        logged = self.client.create_logged_model(self.experiment_id, model, source_run_id=run_id)
        with tempfile.TemporaryDirectory() as folder:
            save_model(
                path=f"{folder}/model",
                # A path, not an object: MLflow stores the code, and nothing is pickled.
                python_model=str(Path(distens.__file__).parent / "serve" / "pyfunc.py"),
                artifacts={"bundle": str(bundle)},
                signature=_signature(example, _columns(json.loads((bundle / "bundle.json").read_text()))),
                input_example=_registration.plain_values(example),
                pip_requirements=_registration.requirements(),
            )
            self.client.log_model_artifacts(logged.model_id, f"{folder}/model")
        self.client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        with suppress(MlflowException):  # the model exists already
            self.client.create_registered_model(model)
        # By its location, not as `models:/<id>`: a database store would look up the id through MLflow's global address.
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
            return load_model(path).predict(_registration.plain_columns(example)).to_numpy()

    def tag(self, model: str, version: Version, key: str, value: str) -> None:
        self.client.set_model_version_tag(model, version.number, key, value)

    def promote(self, model: str, version: Version) -> None:
        self.client.set_registered_model_alias(model, _registration.CHAMPION, version.number)


def _chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _run(found: Any) -> LoggedRun:
    data = found.data
    return LoggedRun(found.info.run_id, found.info.status, found.info.start_time, data.tags, data.params, data.metrics)


def _version(found: Any) -> Version:
    return Version(str(found.version), dict(found.tags))


def _columns(marker: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the columns of predictions from a bundle's marker: the class names, if it has classes."""
    return marker.get("classes") or marker["columns"]


def _deleted(address: str, experiment: str, experiment_id: str) -> NeedsRepair:
    command = f"mlflow experiments restore --experiment-id {experiment_id}"
    if database_file(address) is not None:
        command = f"MLFLOW_TRACKING_URI={shlex.quote(address)} {command}"
    return NeedsRepair(
        f"the experiment {experiment!r} was deleted",
        f"Restore it (`{command}`), or set tracking.experiment to another name",
    )


def _signature(rows: Any, classes: Sequence[str]) -> Any:
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import AnyType, ColSpec, ParamSchema, ParamSpec, Schema

    if hasattr(rows, "columns"):
        inputs = Schema(
            [ColSpec(kind or AnyType(), str(name)) for name, kind in _registration.column_types(rows).items()]
        )
    else:
        inputs = infer_signature(rows).inputs
    budget = [ParamSpec(name, "double", None) for name in ("mean_members", "tolerance")]
    params = ParamSchema([*budget, ParamSpec("output", "string", "predictions")])
    return ModelSignature(inputs, Schema([ColSpec("double", str(name)) for name in classes]), params)
