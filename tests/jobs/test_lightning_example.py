"""Lightning's quick start with validation and early stopping, as in `jobs/examples/lightning_validation`."""

from pathlib import Path

import distens
from distens.lifecycle.ledger import Ledger
from distens.storage.store import Store

FOLDER = Path(__file__).parents[2] / "jobs" / "examples" / "lightning_validation"


def test_the_example_validates_stops_early_and_keeps_the_best_epoch(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    options = "members.digits.options"
    changes = [
        f"{options}.learning_rate=0.01",
        f"{options}.width=64",
        "search.members=1",
        "data.rows=600",
        f"storage={tmp_path}",
    ]
    config = distens.load_config(FOLDER / "run.yaml", [*changes, "runtime=inline", "tracking=off"])
    result = distens.run(config)
    (entry,) = Ledger(Store(result.path)).finished("search")
    metrics = entry.report.metrics
    assert metrics["epochs"] < 40
    assert metrics["best_epoch"] == metrics["epochs"] - 5
    losses = entry.report.curves["val_loss"]
    assert losses[int(metrics["best_epoch"])] == min(losses.values())
    assert result.rows["best_single"]["accuracy"] > 0.9
