"""Whole runs: from a config to a bundle, through kills and resumes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from kills import HEEDING, killed
from small_run import blas_threads, config
from threadpoolctl import threadpool_limits

import distens
from distens.config.config import parse_config, to_yaml
from distens.coordinator import open_storage
from distens.data.load import load_data
from distens.errors import ConfigError, RunError, StorageError, StorageFailed
from distens.lifecycle.ledger import Ledger
from distens.records import Failure
from distens.roles.ensemble.plan import build_plan
from distens.storage.store import Store

ROWS = {"ensemble", "best_single", "student", "student_on_labels", "larger_single", "seed_ensemble"}
COLUMNS = {"accuracy", "nll", "brier", "ece", "aurc", "parameters", "train_seconds", "predict_ms_per_1000"}


def test_a_whole_run(tmp_path):
    updates = []
    result = distens.run(config(tmp_path), updates.append)
    assert set(result.rows) == ROWS
    assert not result.missing
    assert all(set(row) >= COLUMNS for row in result.rows.values())
    assert result.rows["ensemble"]["accuracy"] > 0.8
    assert abs(sum(result.weights.values()) - 1) < 1e-9
    assert updates[0].phase == "data"
    assert [u.finished for u in updates if u.phase == "search" and u.outcome] == list(range(1, 10))
    assert any("ensemble" in sentence for sentence in result.verdict)

    store = Store(result.path)
    written = store.read_json("results.json")
    assert set(written) >= ROWS
    assert written["ensemble"] == result.rows["ensemble"]
    assert set(written["combine"]) == ROWS
    assert store.names("figures") == ["diversity.png", "progress.png", "reliability.png", "weights.png"]
    assert store.exists("report.html")

    # the ensemble is the weighted mean of what its members predicted, at the temperature that the table states
    loaded = load_data(build_plan(config(tmp_path)).config.data, 0)
    bundle = distens.load(result.path)
    predicted_NC = bundle.predict_proba(loaded.example_rows)
    stored_NC = store.read_predictions(_address(store, "final/ensemble/test.arrow"))
    assert np.abs(predicted_NC - stored_NC[: len(predicted_NC)]).max() < 1e-6
    student = distens.load(f"{result.path}/final/student")
    assert student.predict_proba(loaded.example_rows).shape == (5, 3)
    best = min(written["members"], key=written["members"].get)
    combine_NC = store.read_predictions(_address(store, f"members/{best}/1/combine.arrow"))
    right = combine_NC.argmax(axis=1) == loaded.dataset.labels["combine"]
    assert written["combine"]["best_single"]["accuracy"] == pytest.approx(right.mean())
    accuracy = np.mean(stored_NC.argmax(axis=1) == loaded.dataset.labels["test"])
    assert accuracy == pytest.approx(written["ensemble"]["accuracy"])


def _address(store, name):
    from distens.records import Address

    return Address(name, "", len(store.read(name)))


def test_members_never_see_the_withheld_labels(tmp_path):
    shared = load_data(build_plan(config(tmp_path)).config.data, 0).dataset.for_members()
    assert set(shared.labels) == {"train", "search"}
    assert set(shared.inputs) == {"train", "search", "combine", "test"}


def test_an_uninterrupted_run_repeats_bit_for_bit(tmp_path):
    one = distens.run(config(tmp_path / "one", baselines=[], distill=None))
    two = distens.run(config(tmp_path / "two", baselines=[], distill=None))
    assert _bytes(one.path) == _bytes(two.path)


def _bytes(path):
    """Return every member's predictions, and the ensemble's (skops' zips hold the hour, so states of estimators do not
    repeat to the byte)."""
    files = [*Path(path).glob("members/*/*/test.arrow"), Path(path, "final", "ensemble", "test.arrow")]
    return {file.parts[-3]: file.read_bytes() for file in files}


def test_the_order_in_which_members_arrive_changes_nothing(tmp_path):
    """Several are trained at once: their order is chance. Here what came back is told in the reverse order, where the
    search does not depend on it."""
    result = distens.run(config(tmp_path, baselines=[], distill=None, search={"kind": "random", "members": 9}))
    before = _delivered(result.path)
    journal = Path(result.path, "journal")
    entries = _journal(result.path)
    for file in journal.iterdir():
        file.unlink()
    told = [entry for entry in entries if "report" in entry]
    asked = [entry for entry in entries if "report" not in entry]
    (journal / "00000000.json").write_text(json.dumps([*asked, *told[::-1]]))
    Path(result.path, "results.json").unlink()
    distens.resume(result.path)
    assert _delivered(result.path) == before


def _delivered(path):
    """Return what an ensemble is, and what it predicts, to the byte."""
    folder = Path(path, "final", "ensemble")
    return (folder / "bundle.json").read_bytes(), (folder / "test.arrow").read_bytes()


def test_a_driver_killed_half_way_resumes_to_the_same_result(tmp_path):
    """SIGKILL after the fourth member; `resume` trains only what is missing, and ends bit for bit where an
    uninterrupted run ends."""
    folder = killed(config(tmp_path / "killed", baselines=[], distill=None), "[4/9]")
    store = Store(str(folder))
    before = {name: store.names(f"members/{name}") for name in store.names("members")}
    assert len(before) >= 4
    assert not store.exists("results.json")
    told = sum("report" in entry for entry in _journal(folder))
    assert 4 <= told < 9

    updates = []
    result = distens.resume(str(folder), updates.append)
    trained = [u for u in updates if u.phase == "search" and u.outcome]
    assert len(trained) == 9 - told
    calm = distens.run(config(tmp_path / "calm", baselines=[], distill=None))
    assert _bytes(result.path) == _bytes(calm.path)
    for name in list(before)[:4]:
        assert store.names(f"members/{name}") == before[name]


@pytest.mark.parametrize("kind", ["inline", "ray_actors"])
def test_storage_that_takes_nothing_ends_the_run_and_no_member_is_given_up_for_it(kind, tmp_path, request):
    """A file is where the second member's folder should be; once it is gone, the run goes on as if nothing had been."""
    if kind == "ray_actors":
        request.getfixturevalue("ray_here")
    values = {"name": "s", "storage": str(tmp_path / "runs"), "data": {"source": "sklearn:iris"}, "tracking": "off"}
    values |= {"members": {"forest": {"kind": "estimator", "estimator": "random_forest"}}, "seed": 1}
    values |= {"search": {"kind": "random", "members": 3}, "runtime": {"kind": kind, "pack": 1}}
    config = parse_config(values)
    folder = tmp_path / "runs" / build_plan(config).config.run_name()
    (folder / "members").mkdir(parents=True)
    (folder / "members" / "m0001").write_text("in the way")
    with pytest.raises(StorageFailed, match=rf"cannot write members/m0001/.*distens resume {folder}") as caught:
        distens.run(config)
    assert "\n" not in str(caught.value)
    (folder / "members" / "m0001").unlink()
    result = distens.resume(str(folder))
    ledger = Ledger(Store(str(folder)))
    assert {entry.task.id for entry in ledger.all_finished()} >= {"m0000", "m0001", "m0002"}
    assert not any(isinstance(outcome, Failure) for _, outcome in ledger.outcomes())
    undisturbed = distens.run(parse_config({**values, "storage": str(tmp_path / "other")}))
    assert result.rows["ensemble"]["nll"] == undisturbed.rows["ensemble"]["nll"]


def test_a_stopped_run_says_how_to_resume(tmp_path):
    path = tmp_path / "config.yaml"
    members = {"mlp": {"kind": "classifier", "epochs": {"low": 3000, "high": 4000}}}
    path.write_text(to_yaml(config(tmp_path / "runs", members=members)))
    command = [*HEEDING, sys.executable, "-m", "distens.cli", "run", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "rows:" not in process.stdout.readline():  # from then on there is something to resume
        pass
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    folder = next((tmp_path / "runs").iterdir())
    assert f"distens resume {folder}" in errors
    assert "Traceback" not in errors


def test_the_driver_takes_one_thread_beside_its_members(tmp_path):
    """Two threads of linear algebra wait for each other where members have all cores: a stack took 45 times as long."""
    seen = []

    def watch(update):
        if update.phase in ("search", "finish"):
            seen.append(blas_threads())

    with threadpool_limits(2, "blas"):
        distens.run(config(tmp_path, search={"kind": "random", "members": 3}, baselines=[]), watch)
        assert blas_threads() == {2}
    assert seen
    assert set.union(*seen) == {1}


def test_a_run_is_not_overwritten_by_accident(tmp_path):
    small = config(tmp_path, search={"kind": "random", "members": 2}, baselines=[], distill=None)
    path = distens.run(small).path
    with pytest.raises(RunError, match=r"has finished; `distens report .*--overwrite"):
        distens.run(small)
    assert distens.run(small, overwrite=True).path == path
    Path(path, "results.json").unlink()
    with pytest.raises(RunError, match="was not finished; `distens resume"):
        distens.run(small)


def test_resuming_with_a_changed_config_or_data_is_refused(tmp_path):
    data = tmp_path / "rows.npz"
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.normal(size=(80, 3)), y=np.arange(80) % 2)
    small = config(
        tmp_path / "runs",
        data={"source": str(data)},
        search={"kind": "random", "members": 2},
        baselines=[],
        distill=None,
    )
    path = distens.run(small).path
    Path(path, "results.json").unlink()
    with pytest.raises(ConfigError, match=r"changed since the run started \(seed\)"):
        distens.resume(path, overrides=["seed=3"])
    np.savez(data, x=rng.normal(size=(80, 3)), y=np.arange(80) % 2)
    before = [Path(path, name).read_bytes() for name in ("config.yaml", "run.json")]
    for overrides in ([], ["search.members=3"]):
        with pytest.raises(RunError, match="the data changed since the run started"):
            distens.resume(path, overrides=overrides)
    assert [Path(path, name).read_bytes() for name in ("config.yaml", "run.json")] == before
    with pytest.raises(RunError, match=r"no run here \(run.json is missing\)"):
        distens.resume(str(tmp_path))


def test_what_failed_before_any_work_can_be_started_again_with_other_resources(tmp_path, ray_here):
    small = {"search": {"kind": "random", "members": 2}, "baselines": [], "distill": None}
    with pytest.raises(RunError, match="gpus_per_member: 9 GPUs"):
        distens.run(config(tmp_path, runtime={"kind": "ray_actors", "gpus_per_member": 9}, **small))
    result = distens.run(config(tmp_path, **small))
    Path(result.path, "results.json").unlink()
    again = distens.resume(result.path, overrides=["runtime.threads=1", "tracking=memory"])
    assert again.rows["ensemble"]["nll"] == result.rows["ensemble"]["nll"]


def test_a_storage_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"storage: cannot be written: .*/file: "):
        distens.run(config(tmp_path / "file"))


def test_runs_that_start_at_once_in_one_storage_do_not_disturb_each_other(tmp_path):
    """Each looks whether it can write there, and takes away its own probe alone."""
    small = build_plan(config(tmp_path)).config
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(open_storage, [small] * 400))
    assert {store.url for store in stores} == {f"{tmp_path}/{small.run_name()}"}
    assert not list(tmp_path.iterdir())


def test_a_run_in_which_every_member_fails_names_them(tmp_path):
    members = {
        "mlp": {
            "kind": "classifier",
            "optimizer": "sgd",
            "learning_rate": {"low": 1e11, "high": 1e12},
            "epochs": 2,
        }
    }
    search = {"kind": "random", "members": 3}
    with pytest.raises(RunError, match=r"every member failed \(3 of 3\)(?s:.*)m0000: diverged"):
        distens.run(config(tmp_path, members=members, search=search, distill=None, baselines=[]))


def test_failed_members_are_named_and_the_rest_is_used(tmp_path):
    members = {
        "good": {"kind": "classifier", "epochs": {"choices": [5, 6]}},
        "bad": {"kind": "classifier", "optimizer": "sgd", "learning_rate": {"choices": [1e11, 1e12]}, "epochs": 2},
    }
    search = {"kind": "random", "members": 6}
    result = distens.run(config(tmp_path, members=members, search=search, distill=None, baselines=[]))
    written = json.loads(Path(result.path, "results.json").read_text())
    assert {f["reason"] for f in written["failures"]} == {"diverged"}
    failed = {f["id"] for f in written["failures"]}
    assert failed
    assert failed.isdisjoint(result.weights)
    assert len(written["members"]) + len(failed) == 6


def test_a_search_and_a_combiner_dropped_in_as_one_file_each_are_found_and_run(tmp_path):
    """No other edit of a copy of the package: the file name is the name."""
    package = shutil.copytree(Path(distens.__file__).parent, tmp_path / "copy" / "distens")
    (package / "search" / "first_corner.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class FirstCorner:\n"
        "    def propose(self, history, space, count, rng):\n"
        "        return [next(space.corners())] * count\n"
    )
    (package / "combine" / "middle.py").write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from distens.records import State\n"
        "@dataclass(frozen=True)\n"
        "class Middle:\n"
        "    def fit(self, probs_MNC, labels_N, weights_M):\n"
        "        return State({})\n"
        "    def combine(self, probs_MNC, state):\n"
        "        p = np.median(np.asarray(probs_MNC, dtype=float), axis=0)\n"
        "        return p / p.sum(axis=1, keepdims=True)\n"
    )
    search = {"kind": "first_corner", "members": 2, "all_families_before": 0}
    small = config(
        tmp_path / "runs", search=search, combine="middle", select="top", calibrate="none", distill=None, baselines=[]
    )
    (tmp_path / "small.yaml").write_text(to_yaml(small))
    command = [sys.executable, "-m", "distens.cli", "run", str(tmp_path / "small.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    (path,) = (tmp_path / "runs").iterdir()
    store = Store(str(path))
    members_MNC = [store.read_predictions(_address(store, f"members/m000{i}/1/test.arrow")) for i in range(2)]
    ensemble_NC = store.read_predictions(_address(store, "final/ensemble/test.arrow"))
    assert np.allclose(ensemble_NC, np.median(members_MNC, axis=0), atol=1e-6)
    settings = [e["task"]["settings"] for e in _journal(path) if "task" in e]
    assert settings[0] == settings[1]


def _journal(path):
    return [entry for file in sorted(Path(path, "journal").glob("*.json")) for entry in json.loads(file.read_text())]
