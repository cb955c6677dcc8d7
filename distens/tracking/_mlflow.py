"""All calls to MLflow's API: runs and models through an explicit client, without MLflow's global state."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distens.records import Floats
from distens.tracking import _registration
from distens.tracking._address import artifacts_beside
from distens.tracking._logbook import LoggedRun
from distens.tracking._registration import Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUNS_PER_PAGE = 1000


def prepare() -> None:
    """Import MLflow, and set it to fail soon, since our sender tries again."""
    # Imported here, not in the sender's thread: two threads that import packages with cycles may see half of one.
    import mlflow.models
    import mlflow.pyfunc  # noqa: F401

    # Our own thread tries again, and reports at the end; MLflow's own retries would take minutes each.
    # A value that the user has set is kept.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    # A server on an object store would send us to that store for its files; we may have no access to it.
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for chatty in ("alembic", "mlflow.pyfunc", "mlflow.store.db.utils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


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

        rows = _registration.plain_columns(example)
        logged = self.client.create_logged_model(self.experiment_id, model, source_run_id=run_id)
        with tempfile.TemporaryDirectory() as folder:
            save_model(
                path=f"{folder}/model",
                # A path, not an object: MLflow stores the code, and nothing is pickled.
                python_model=str(Path(distens.__file__).parent / "serve" / "pyfunc.py"),
                artifacts={"bundle": str(bundle)},
                signature=_signature(rows, _columns(json.loads((bundle / "bundle.json").read_text()))),
                input_example=rows,
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


def _signature(rows: Any, classes: Sequence[str]) -> Any:
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import AnyType, ColSpec, ParamSchema, ParamSpec, Schema

    if not hasattr(rows, "columns"):
        inputs = infer_signature(rows).inputs
    else:
        whole = [name for name, kind in rows.dtypes.items() if kind.kind in "iu"]
        found = infer_signature(rows.astype(dict.fromkeys(whole, float))).inputs
        # A column of whole numbers has floats if a value is missing, and MLflow would refuse one of the two types. The
        # bundle's own preprocessing checks these columns.
        inputs = Schema([ColSpec(AnyType(), spec.name) if spec.name in whole else spec for spec in found.inputs])
    budget = ParamSchema([ParamSpec(name, "double", None) for name in ("mean_members", "tolerance")])
    return ModelSignature(inputs, Schema([ColSpec("double", str(name)) for name in classes]), budget)
