"""What is logged automatically in a user's own MLflow: a run in the same process adds and changes nothing there."""

import json
import logging
import os

import mlflow
import pytest
from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS
from sklearn.linear_model import LogisticRegression

import distens
from distens.training.autologging import without_autologging


@pytest.fixture
def users_own(mlflow_store, monkeypatch):
    """The user's own store, in an experiment of theirs, with everything logged automatically."""
    uri, client = mlflow_store
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("mine")
    yield client
    while mlflow.active_run():
        mlflow.end_run()
    for flavor in (mlflow.sklearn, mlflow.lightgbm, mlflow.pytorch):
        flavor.autolog(disable=True, silent=True)
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


def config(tmp_path, tracking):
    values = {
        "name": "ours",
        "storage": str(tmp_path / "runs"),
        "data": {"source": "sklearn:iris", "splits": {"train": 0.4, "search": 0.2, "combine": 0.2, "test": 0.2}},
        "members": {
            "net": {"kind": "classifier", "model": {"kind": "mlp", "hidden": [4]}, "epochs": 2},
            "trees": {"kind": "estimator", "estimator": "lightgbm"},
            "neighbours": {"kind": "estimator", "estimator": "k_nearest_neighbours"},
        },
        "search": {"kind": "bayes", "members": 6},
        "runtime": "inline",
        "tracking": tracking,
    }
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    return distens.load_config(tmp_path / "config.yaml")


def seen(client):
    """What the user's experiment holds."""
    mine = client.get_experiment_by_name("mine")
    return {
        run.info.run_id: (run.data.metrics, run.data.params, run.data.tags, run.info.status)
        for run in client.search_runs([mine.experiment_id])
    }, client.search_logged_models([mine.experiment_id])


def state():
    """The settings of MLflow in this process that are the user's."""
    run = mlflow.active_run()
    loggers = ("alembic", "mlflow", "mlflow.pyfunc", "mlflow.store.db.utils")
    return (
        run and run.info.run_id,
        mlflow.get_tracking_uri(),
        mlflow.get_registry_uri(),
        {name: dict(options) for name, options in AUTOLOGGING_INTEGRATIONS.items()},
        {name: value for name, value in os.environ.items() if name.startswith("MLFLOW")},
        [logging.getLogger(name).level for name in loggers],
        mlflow.get_active_model_id(),
    )


@pytest.mark.parametrize("active", [True, False], ids=["active run", "no active run"])
@pytest.mark.parametrize("tracking", ["off", "mlflow_runs"])
def test_a_run_leaves_the_users_mlflow_alone(tmp_path, users_own, active, tracking):
    mlflow.sklearn.autolog(silent=True)
    mlflow.lightgbm.autolog(silent=True)
    mlflow.pytorch.autolog(silent=True)
    if active:
        mlflow.start_run(run_name="theirs")
    before, held = state(), seen(users_own)
    distens.run(config(tmp_path, tracking))
    assert state() == before
    assert seen(users_own) == held
    names = {experiment.name for experiment in users_own.search_experiments()}
    assert names == {"Default", "mine", *(["ours"] if tracking != "off" else [])}
    LogisticRegression().fit([[0.0], [1.0]], [0, 1])  # theirs is logged as before
    runs, models = seen(users_own)
    assert any("C" in params for _, params, _, _ in runs.values()) and len(models) == 1


def test_autologging_that_was_off_stays_off():
    from mlflow.utils import autologging_utils

    with autologging_utils.disable_autologging():
        with without_autologging():
            pass
        assert autologging_utils._AUTOLOGGING_GLOBALLY_DISABLED
