"""What the user's own code logs in training: in the report, on the page and in MLflow's curves, by epoch."""

import json
from pathlib import Path

import pytest
from small_run import config
from tracked import history, runs_of

import distens
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.work import _training
from distens.storage.store import Store

MEMBER = {"kind": "module", "path": "user_module:Watched", "batch_size": 20, "epochs": 6, "keep": "best"}


def run(folder, **changes):
    values = {"members": {"mine": MEMBER}, "search": {"kind": "random", "members": 1}, "distill": None, "baselines": []}
    return distens.run(config(folder, **{**values, **changes}))


def test_what_a_module_logs_is_in_the_report_on_the_page_and_in_mlflow(tmp_path, mlflow_store):
    uri, client = mlflow_store
    result = run(tmp_path, tracking={"kind": "mlflow_runs", "uri": uri})
    (entry,) = Ledger(Store(result.path)).finished("search")
    metrics, curves = entry.report.metrics, entry.report.curves
    assert set(curves) == {"train_loss", "val_loss"}
    epochs = int(metrics["epochs"])
    assert list(curves["val_loss"]) == list(range(1, epochs + 1))
    assert metrics["logged.val_loss"] == curves["val_loss"][epochs]
    assert curves["val_loss"][int(metrics["best_epoch"])] == min(curves["val_loss"].values())

    (child,) = runs_of(client, "iris")[1].values()
    for name, values in curves.items():
        assert history(client, child, f"logged.{name}") == [(epoch, pytest.approx(v)) for epoch, v in values.items()]
    assert child.data.metrics["logged.val_loss"] == pytest.approx(metrics["logged.val_loss"])
    assert child.data.metrics["best_epoch"] == metrics["best_epoch"]

    page = (Path(result.path) / "report.html").read_text()
    assert all(f"{name}: {metrics[f'logged.{name}']:.4g}" in page for name in curves)


def test_a_model_checkpoint_writes_into_the_run_s_folder_and_nothing_loads_it(tmp_path):
    result = run(tmp_path)
    folder = Path(result.path)
    (written,) = folder.glob("members/*/lightning/*.ckpt")
    assert written.parent.parent.name == "m0000"
    written.write_bytes(b"no pickle")
    assert distens.resume(str(folder)).rows == result.rows


def test_members_without_logged_values_have_no_entry_for_them(tmp_path):
    members = {"plain": {"kind": "module", "path": "user_module:Plain", "epochs": 1}}
    result = run(tmp_path, members=members)
    (report,) = Path(result.path).glob("members/*/1/report.json")
    assert "curves" not in json.loads(report.read_text())
    assert "<th>logged</th>" not in (Path(result.path) / "report.html").read_text()


@pytest.mark.parametrize(("points", "step"), [(1, 1), (100, 1), (101, 2), (250, 3)])
def test_long_curves_are_thinned_out_and_keep_their_end(points, step):
    values = {epoch: float(epoch) for epoch in range(1, points + 1)}
    kept = _training._thin_out(values)
    assert list(kept) == list(range(points, 0, -step))[::-1]
    assert len(kept) <= _training.CURVE_POINTS
    assert all(values[epoch] == value for epoch, value in kept.items())
