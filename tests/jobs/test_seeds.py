"""The script that runs a config with several seeds shows the measures of its target, whatever that is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import config

from distens.config.config import to_yaml

SCRIPT = Path(__file__).parents[2] / "jobs" / "seeds.py"
FOREST = {"kind": "estimator", "estimator": "extra_trees", "options": {"n_estimators": 3}}


@pytest.mark.parametrize(
    ("source", "member", "measures"),
    [
        ("sklearn:iris", FOREST, ["accuracy", "nll"]),
        ("sklearn:diabetes", {**FOREST, "kind": "estimator_regressor"}, ["rmse", "mae"]),
    ],
)
def test_the_measures_of_the_target_are_shown(source, member, measures, tmp_path):
    search = {"kind": "random", "members": 2}
    made = config(tmp_path / "runs", data={"source": source}, members={"m": member}, search=search, distill=None)
    path, out = tmp_path / "small.yaml", tmp_path / "out.json"
    path.write_text(to_yaml(made.model_copy(update={"baselines": ()})))
    command = [sys.executable, str(SCRIPT), str(path), "--seeds", "2", "--out", str(out)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = json.loads(out.read_text())["rows"]
    assert {*rows} == {"ensemble", "best_single"}
    for row in rows.values():
        assert all(len(row[name]) == 2 for name in measures)
    mean = sum(rows["ensemble"][measures[0]]) / 2
    assert f"{mean:.4f} ±" in shown
