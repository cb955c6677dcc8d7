"""A whole run whose target is a number; and a target of somebody's own, dropped in as one file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.pyfunc import load_model
from sklearn.datasets import load_diabetes
from typer.testing import CliRunner

import distens
from distens.cli.main import app
from distens.config.config import load_config, parse_config
from distens.data.load import load_data as read
from distens.errors import ConfigError
from distens.lifecycle.ledger import Ledger
from distens.roles.ensemble.plan import build_plan
from distens.serve.predictor import load
from distens.storage.store import Store

ROOT = Path(__file__).parents[2]
ROWS = load_diabetes(as_frame=True).data


def config(folder, **changes):
    values = {
        "name": "numbers",
        "storage": str(folder),
        "data": {"source": "sklearn:diabetes"},
        "members": {
            "network": {
                "kind": "regressor",
                "model": {"kind": "mlp", "hidden": {"choices": [[8], [16]]}},
                "learning_rate": {"low": 1e-3, "high": 3e-2, "log": True},
                "epochs": 30,
            },
            "ridge": {"kind": "estimator_regressor", "estimator": "ridge"},
            "forest": {
                "kind": "estimator_regressor",
                "estimator": "random_forest",
                "options": {"n_estimators": 20, "max_features": {"low": 0.2, "high": 1.0}},
            },
        },
        "search": {"kind": "random", "members": 9},
        "baselines": ["larger_single", "seed_ensemble"],
        "runtime": "inline",
        "tracking": "off",
    }
    return parse_config({**values, **changes})


def test_from_a_config_to_a_registered_model_that_predicts(tmp_path, mlflow_store):
    uri, client = mlflow_store
    result = distens.run(config(tmp_path, tracking={"kind": "mlflow_runs", "uri": uri}))
    assert set(result.rows) == {"ensemble", "best_single", "larger_single", "seed_ensemble"}
    assert all({"rmse", "mae", "r2"} <= set(row) for row in result.rows.values())
    assert result.rows["ensemble"]["rmse"] < load_diabetes().target.std(), "better than the mean"
    listed = CliRunner().invoke(app, ["list", "--storage", str(tmp_path)]).output.splitlines()
    chosen = json.loads(Path(result.path, "results.json").read_text())["chosen"]
    (head,) = [line for line in listed if "started" in line]
    (line,) = [line for line in listed if "finished" in line]
    assert head.split() == ["run", "started", "state", "members", "RMSE", "MAE"]
    assert line.split()[-2:] == [f"{result.rows[chosen][key]:.4f}" for key in ("rmse", "mae")]
    reported = CliRunner().invoke(app, ["report", result.path]).output.splitlines()
    (row,) = [line.split() for line in reported if line.split()[:1] == ["seed_ensemble"]]
    assert row[1] == f"{result.rows['seed_ensemble']['rmse']:.4f}"
    page = Path(result.path, "report.html").read_text()
    assert "higher is better for R², lower for the others" in page and "Brier" not in page
    assert result.verdict[0].startswith("Lowest RMSE: ")
    ours = load(result.path).predict_proba(ROWS.head(20))
    assert ours.shape == (20, 1) and load(result.path).classes == ("target",)
    np.testing.assert_array_equal(load(result.path).predict(ROWS.head(20)), ours[:, 0])
    version = MlflowClient(uri, uri).get_model_version_by_alias("numbers", "champion")
    assert "RMSE" in version.tags["distens.checked"] or "the first" in version.tags["distens.checked"]
    registered = load_model(client.get_model_version_download_uri("numbers", version.version))
    found = registered.predict(ROWS.head(20))
    assert list(found.columns) == ["target"]
    np.testing.assert_allclose(found.to_numpy(), ours, rtol=1e-9)
    page = Path(result.path, "report.html").read_text()
    assert "RMSE" in page and "Predictions on the test split" in page and "Reliability" not in page
    marker = json.loads(Path(result.path, "final/ensemble/bundle.json").read_text())
    assert (marker["format"], marker["target"], marker["columns"]) == (
        2,
        {"kind": "values", "name": "target"},
        ["target"],
    )


def test_the_selection_is_better_than_the_best_member_where_it_was_made(tmp_path):
    for select in ("greedy", "quadratic"):
        result = distens.run(config(tmp_path, select=select))
        store = Store(result.path)
        entries = Ledger(store).finished("search")
        dataset = read(config(tmp_path).data, 0).dataset
        target, targets_N = dataset.target, dataset.targets["search"]
        chosen = [e for e in entries if e.task.id in result.weights]
        mixed = target.mean(
            [store.read_predictions(e.report.files["search"]) for e in chosen],
            np.array([result.weights[e.task.id] for e in chosen]),
        )
        assert target.metrics(mixed, targets_N)["rmse"] < min(e.report.metrics["rmse"] for e in entries)


def test_it_resumes_as_ever(tmp_path):
    result = distens.run(config(tmp_path))
    Path(result.path, "results.json").unlink()
    assert distens.resume(result.path).rows["ensemble"]["rmse"] == result.rows["ensemble"]["rmse"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "error"}, "metric: 'error' is not measured for this target. Allowed: rmse, mae"),
        ({"combine": "stack"}, "combine.kind: 'stack' combines probabilities, and the target is a number"),
        ({"distill": "student"}, "distill: needs classes, and the target is a number"),
        (
            {"members": {"a": {"kind": "classifier"}}},
            "members.a.kind: 'classifier' learns classes, and the target is a number. Allowed: estimator_regressor",
        ),
        (
            {"data": {"source": "sklearn:iris"}, "members": {"a": {"kind": "regressor"}}},
            "members.a.kind: 'regressor' learns numbers, and the target is classes",
        ),
        (
            {"members": {"a": {"kind": "regressor", "objective": "cross_entropy"}}},
            "members.a: objective: cross_entropy is for classes",
        ),
    ],
)
def test_what_needs_classes_is_refused_when_the_plan_is_made(changes, words, tmp_path):
    with pytest.raises(ConfigError) as caught:
        build_plan(config(tmp_path, **changes))
    assert words in str(caught.value)


def test_the_config_that_is_shown_is_one(tmp_path):
    shown = load_config(ROOT / "configs/diabetes.yaml")
    assert build_plan(shown).config.metric == "rmse" and build_plan(shown).config.calibrate == "none"


COUNTS = '''"""Counts: a prediction is a mean, judged by the Poisson deviance."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from distens.targets.protocol import Phrase
from distens.targets.values import Values


@dataclass(frozen=True)
class Counts(Values):
    minimised: ClassVar = ("deviance",)
    headings: ClassVar = {"deviance": "Poisson deviance"}
    higher_is_better: ClassVar = ()
    phrases: ClassVar = (Phrase("deviance", "deviance", "deviance"),)

    def losses(self, predictions_NK, targets_N):
        mean_N = np.maximum(np.asarray(predictions_NK, dtype=float)[:, 0], 1e-6)
        ratio_N = np.where(targets_N > 0, targets_N, 1) / mean_N
        return {"deviance": 2 * (np.where(targets_N > 0, targets_N * np.log(ratio_N), 0) - targets_N + mean_N)}

    def metrics(self, predictions_NK, targets_N, importance_N=None):
        return {"deviance": float(self.losses(predictions_NK, targets_N)["deviance"].mean())}

    table = metrics

    def summed(self, predictions_NK, targets_N, metric):
        return float(self.losses(predictions_NK, targets_N)["deviance"].sum())

    def pools(self, predictions_MNK, targets_N, metric):
        return Pools(self, [np.asarray(one, dtype=float) for one in predictions_MNK], targets_N)


class Pools:
    def __init__(self, target, predictions, targets_N):
        self.target, self.predictions, self.targets_N = target, predictions, targets_N

    def on(self, importance_N=None):
        return Pool(self, np.ones(len(self.targets_N)) if importance_N is None else importance_N)


class Pool:
    def __init__(self, pools, importance_N):
        self.pools, self.importance_N, self.sum, self.added = pools, importance_N, 0.0, 0

    def with_each(self):
        means = [(self.sum + one) / (self.added + 1) for one in self.pools.predictions]
        losses = [self.pools.target.losses(mean, self.pools.targets_N)["deviance"] for mean in means]
        return np.array([np.average(one, weights=self.importance_N) for one in losses])

    def add(self, member):
        self.sum, self.added = self.sum + self.pools.predictions[member], self.added + 1
'''

RUN = """
import json, sys
from pathlib import Path
import numpy as np, pandas as pd
import distens
from distens.config.config import parse_config

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.normal(size=(300, 2))
table = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "calls": rng.poisson(np.exp(0.5 * x[:, 0] + 1))})
table.to_csv(folder / "calls.csv", index=False)
result = distens.run(parse_config({
    "name": "calls", "storage": str(folder / "runs"), "runtime": "inline",
    "tracking": {"kind": "mlflow_runs", "uri": f"sqlite:///{folder}/m.db"},
    "data": {"source": str(folder / "calls.csv"), "target": "calls", "task": "counts"},
    "members": {
        "forest": {"kind": "estimator_regressor", "estimator": "random_forest",
                   "options": {"n_estimators": 10, "max_features": {"low": 0.2, "high": 1.0}}},
        "ridge": {"kind": "estimator_regressor", "estimator": "ridge"},
    },
    "search": {"kind": "gain", "members": 8, "proposals": 200}, "select": "greedy",
}))
predicted = distens.load(result.path).predict(table.head(5))
print(json.dumps({"path": result.path, "rows": result.rows, "verdict": result.verdict[0],
                  "predicted": predicted.tolist(), "notes": list(result.notes)}))
"""


def test_a_target_dropped_in_as_one_file_goes_all_the_way(tmp_path):
    """Counts, by mean Poisson deviance: searched, selected, weighted, deployed, drawn, registered; nothing else is
    touched."""
    house = tmp_path / "house"
    shutil.copytree(Path(distens.__file__).parent, house / "distens", ignore=shutil.ignore_patterns("__pycache__"))
    (house / "distens/targets/counts.py").write_text(COUNTS)
    env = {**__import__("os").environ, "PYTHONPATH": str(house)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)], cwd=house, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["verdict"].startswith("Lowest deviance: ")
    deviance = {name: row["deviance"] for name, row in found["rows"].items()}
    assert 0 < deviance["ensemble"] < 2.5 and len(found["predicted"]) == 5
    assert any("champion" in note for note in found["notes"])
    assert "Poisson deviance" in Path(found["path"], "report.html").read_text()
    marker = json.loads(Path(found["path"], "final/ensemble/bundle.json").read_text())
    assert marker["target"] == {"kind": "counts", "name": "calls"}
