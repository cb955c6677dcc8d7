"""A third role: one folder in a copy of the package, and no other edit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import distens

ROLE = '''
"""Two members with settings of their own, and their mean: a toy, without a search."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from distens import registry, seeding
from distens.combine.average import Average
from distens.config.config import Config, section_of
from distens.config.sections import Section
from distens.data.load import load_data
from distens.evaluate import figures
from distens.lifecycle.progress import ProgressEvent, format_outcome
from distens.lifecycle.results import BundleContent, Outcome, PageContent, TableRow, costs, losses_on_test
from distens.lifecycle.work.train import Train
from distens.records import Task
from distens.runtime.protocol import RunContext
from distens.serve.bundle import BundleMember
from distens.tracking.protocol import Participant


class TwinsSection(Section):
    heavier: float = Field(0.5, gt=0, lt=1)


@dataclass(frozen=True)
class Plan:
    config: Config
    heavier: float
    runner: object
    tracker: object


@dataclass(frozen=True)
class Twins:
    unused: ClassVar = ("search", "schedule", "select", "combine", "distill", "baselines", "merge")
    sweep_rows: ClassVar = ()

    def plan(self, config):
        section = section_of(config, TwinsSection, "who is the heavier")
        runner = registry.make_plugin("runtime", config.runtime, "runtime")
        tracker = registry.make_plugin("tracking", config.tracking, "tracking")
        values = {config.role: section.model_dump(), "runtime": registry.resolve_options(runner)}
        values["tracking"] = registry.resolve_options(tracker)
        resolved = Config.model_validate({**config.model_dump(mode="json"), **values})
        return Plan(resolved, section.heavier, runner, tracker)

    def data(self, plan):
        return load_data(plan.config.data, plan.config.seed)

    def carry_out(self, plan, session):
        session.prepare(2)
        loaded = session.open()
        session.start(RunContext(session.store, loaded.dataset.for_members()))
        tasks = [
            Task(name, "twin", {"family": name, **settings}, seeding.derive(plan.config.seed, name), work=Train())
            for name, settings in plan.config.members.items()
        ]
        for task, told in session.complete(iter([[[task]] for task in tasks])):
            line, done = format_outcome(task, told, "nll"), len(session.ledger.finished("twin"))
            session.watch(ProgressEvent("twins", line, "twins", 2, done))
        entries = sorted(session.ledger.finished("twin"), key=lambda entry: entry.task.id)
        weights_M, combiner = np.array([plan.heavier, 1 - plan.heavier]), Average()
        probs = {
            split: np.stack(session.store.read_all_predictions([entry.report.files[split] for entry in entries]))
            for split in ("combine", "test")
        }
        state = combiner.fit(probs["combine"], loaded.dataset.labels["combine"], weights_M)
        rows = {"pair": TableRow(*(combiner.combine(probs[s], state) for s in ("combine", "test")), *costs(entries))}
        members = [
            BundleMember(e.task.id, e.task.settings, float(w), e.report.files["state"])
            for e, w in zip(entries, weights_M, strict=True)
        ]
        labels_N = loaded.dataset.labels["test"]

        def draw(folder):
            figures.reliability({"pair": rows["pair"].test_NK}, labels_N, folder / "pair.png")
            return {"The pair": folder / "pair.png"}

        return Outcome(
            rows=rows,
            losses=losses_on_test(rows, loaded.dataset.target, labels_N),
            units="test rows",
            bundles={"pair": BundleContent(members, "average", state)},
            chosen="pair",
            weights={member.id: member.weight for member in members},
            page=PageContent([{"twin": m.id, "weight": m.weight} for m in members], "Twins", draw=draw),
            participants=[Participant("twin", "both", {"heavier": plan.heavier})],
        )

    def size(self, identity):
        return "2 twins"
'''

CONFIG = {
    "name": "pair",
    "role": "twins",
    "twins": {"heavier": 0.75},
    "data": {"source": "sklearn:iris"},
    "members": {
        "a": {"kind": "estimator", "estimator": "k_nearest_neighbours", "options": {}},
        "b": {"kind": "estimator", "estimator": "logistic_regression", "options": {}},
    },
    "runtime": {"kind": "inline"},
}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Return a folder with a copy of the package that has one more role."""
    folder = tmp_path_factory.mktemp("house")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(distens.__file__).parent, folder / "distens", ignore=ignored)
    (folder / "distens" / "roles" / "twins").mkdir()
    (folder / "distens" / "roles" / "twins" / "__init__.py").write_text(ROLE)
    return folder


def command(house, *words):
    env = {**os.environ, "PYTHONPATH": str(house)}
    words = [sys.executable, "-m", "distens.cli", *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, cwd=house, env=env, timeout=200)


def test_a_role_is_one_folder(house, mlflow_store):
    """It is run, stopped after its first member, resumed without training that again, tracked, drawn and delivered."""
    uri, client = mlflow_store
    (house / "pair.yaml").write_text(json.dumps({**CONFIG, "tracking": {"kind": "mlflow_runs", "uri": uri}}))
    found = command(house, "run", "pair.yaml")
    assert found.returncode == 0, found.stderr
    assert "[1/2] a: nll" in found.stdout and "[2/2] b: nll" in found.stdout
    (run,) = (house / "runs").iterdir()
    results = json.loads((run / "results.json").read_text())
    assert (results["chosen"], results["weights"]) == ("pair", {"a": 0.75, "b": 0.25})
    for path in (run / "results.json", *(run / "members" / "b").rglob("*.*")):
        path.unlink()  # as if it had been killed while b was trained
    (last,) = [path for path in sorted((run / "journal").iterdir()) if '"task_id": "b"' in path.read_text()]
    last.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (run / "members" / "a").rglob("*.*")}
    again = command(house, "resume", run)
    assert again.returncode == 0, again.stderr
    assert " b: nll" in again.stdout and " a: nll" not in again.stdout
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    resumed = json.loads((run / "results.json").read_text())
    assert resumed["pair"]["nll"] == results["pair"]["nll"]
    page = (run / "report.html").read_text()
    assert "Twins (2)" in page and "The pair" in page
    listed = command(house, "list").stdout
    assert "2 twins" in listed and f"{results['pair']['accuracy']:.4f}" in listed
    (house / "rows.csv").write_text(iris_rows())
    predicted = command(house, "predict", run, "rows.csv")
    assert predicted.returncode == 0 and predicted.stdout.startswith("prediction,"), predicted.stderr
    (experiment,) = client.search_experiments(filter_string="name = 'pair'")
    tagged = {run.data.tags.get("distens.purpose") for run in client.search_runs([experiment.experiment_id])}
    assert tagged == {None, "twin"}
    assert client.get_model_version_by_alias("pair-pair", "champion").version == 1


def iris_rows():
    from sklearn.datasets import load_iris

    frame = load_iris(as_frame=True)["data"].head(3)
    return frame.to_csv(index=False)


def test_its_section_is_its_own(house):
    (house / "wrong.yaml").write_text(json.dumps({**CONFIG, "twins": {"heavier": 2, "lighter": 1}}))
    found = command(house, "run", "wrong.yaml")
    assert found.returncode == 2
    assert "twins.heavier: Input should be less than 1, found 2" in found.stderr
    assert "twins.lighter: unknown key. Allowed: heavier" in found.stderr
    (house / "idle.yaml").write_text(json.dumps({**CONFIG, "search": {"kind": "random"}}))
    assert "search: has no effect with role `twins`" in command(house, "run", "idle.yaml").stderr
    (house / "unknown.yaml").write_text(json.dumps({**CONFIG, "role": "twin", "twins": None}))
    assert "role: unknown role 'twin'. Did you mean 'twins'?" in command(house, "run", "unknown.yaml").stderr
