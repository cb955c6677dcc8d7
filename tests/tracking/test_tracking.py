"""Every tracker sits the same exam; MLflow is asked what it holds, in a SQLite file and on a real server."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from _services import free_port, mlflow_server
from mlflow import MlflowClient
from tracked import held, history, run_info, runs_in, runs_of

from distens import registry
from distens.config.sections import DataSection
from distens.credentials import redact
from distens.data.dataset import Examples
from distens.data.preprocessing import Preprocessing
from distens.errors import ConfigError
from distens.lifecycle.work.train import Train
from distens.records import Address, Failure, Finished, Report, State, Task
from distens.serve import bundle, predictor
from distens.storage.store import Store
from distens.targets.classes import Classes
from distens.tracking import _records
from distens.tracking._logbook import final_records
from distens.tracking._registration import Version, compare
from distens.tracking._sender import Sender
from distens.tracking.mlflow_runs import MlflowRuns
from distens.tracking.protocol import FinalInfo
from distens.training.context import Context


def task(name, attempt=1):
    settings = {"family": "net", "kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}}
    return Task(name, "search", settings, seed=7, attempt=attempt, work=Train())


def finished(name, attempt=1, nll=0.5):
    files = {"state": Address("x", "0" * 64, 1)}
    report = Report(name, attempt, {"nll": nll, "error": 0.25}, 2.0, 99, 1.5, "node-a", files)
    return task(name, attempt), Finished(task(name, attempt), report)


def failure(name, attempt, final):
    return task(name, attempt), Failure(name, attempt, "crashed", "signal 9", 1.0, "node-b", final)


def final_of(tmp_path, bundles=None, **changes):
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "reliability.png").write_bytes(b"\x89PNG")
    (tmp_path / "report.html").write_text("<p>report</p>")
    final = FinalInfo(
        rows={"ensemble": {"accuracy": 0.75, "note": "won"}, "best_single": {"accuracy": 0.5}},
        weights={"m0000": 0.4, "m0001": 0.6},
        diversity={"m0000": 0.1, "m0001": 0.2},
        figures=(tmp_path / "reliability.png",),
        report=tmp_path / "report.html",
        bundles=bundles or {},
        scores={"ensemble": 0.3},
        example=None,
        verdict=("ensemble won.",),
    )
    return replace(final, **changes)


def tell(tracker, run, final=None, status="finished"):
    tracker.start(run)
    tracker.member(*finished("m0000"))
    tracker.member(*failure("m0001", 1, final=False))
    tracker.member(*finished("m0001", attempt=2, nll=0.4))
    tracker.progress(1, {"best_single": 0.5, "finished": 1})
    tracker.progress(2, {"best_single": 0.4, "finished": 2})
    tracker.member(*failure("m0002", 1, final=True))
    return tracker.finish(final, status)


# Every tracker -------------------------------------------------------------------------------------------------------


def built(kind, uri):
    options = {"uri": uri} if kind == "mlflow_runs" else {}
    return registry.make_plugin("tracking", {"kind": kind, **options}, "tracking")


@pytest.mark.parametrize("kind", registry.names("tracking"))
def test_telling_all_again_changes_nothing(kind, tmp_path, mlflow_store):
    uri, _ = mlflow_store
    tracker = built(kind, uri)
    final = final_of(tmp_path)
    assert all(isinstance(line, str) for line in tell(tracker, run_info(tmp_path), final))
    before = held(tracker, uri)
    again = tracker if kind == "memory" else built(kind, uri)
    tell(again, run_info(tmp_path), final)
    assert held(again, uri) == before


@pytest.mark.parametrize("kind", registry.names("tracking"))
def test_a_run_that_never_began_can_be_finished(kind, tmp_path):
    assert built(kind, f"sqlite:///{tmp_path}/mlflow.db").finish(None, "failed") == []


def test_memory_keeps_what_it_is_told(tmp_path):
    tracker = built("memory", "")
    tell(tracker, run_info(tmp_path), None, "stopped")
    assert list(tracker.members) == [("m0000", 1), ("m0001", 1), ("m0001", 2), ("m0002", 1)]
    assert tracker.steps == {1: {"best_single": 0.5, "finished": 1}, 2: {"best_single": 0.4, "finished": 2}}
    assert (tracker.status, tracker.final) == ("stopped", None)


# Texts and names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://user:pw@host:5432/db", "postgresql://***@host:5432/db"),
        ("mysql+pymysql://user:p/w@host/db", "mysql+pymysql://***@host/db"),
        ("error at 'https://me:pw@host/api' and s3://key:secret@b", "error at 'https://***@host/api' and s3://***@b"),
        ("postgresql://host/db?user=me&password=pw&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
        ("models:/digits@champion", "models:/digits@champion"),
    ],
)
def test_credentials_are_not_shown(text, shown):
    assert redact(text) == shown


def test_settings_become_flat_names():
    values = {"model": {"kind": "mlp", "hidden": [8, 4]}, "rows": None, "list": [{"a": True}], "odd key!": 1e-3}
    assert _records.flatten(values) == {
        "model.kind": "mlp",
        "model.hidden": "[8, 4]",
        "rows": "null",
        "list.0.a": "true",
        "odd key_": "0.001",
    }


def test_only_finite_numbers_are_metrics():
    assert _records.finite_entries({"a": 1, "b": float("nan"), "c": "x", "d": None, "e": np.float32(0.5)}) == {
        "a": 1.0,
        "e": 0.5,
    }


# The queue -----------------------------------------------------------------------------------------------------------


def test_a_record_that_is_refused_does_not_hold_up_the_next():
    sent, calls = [], []

    def refuse(book):
        calls.append(book)
        raise ValueError("no such thing")

    sender = Sender(lambda: "book", longest_pause=0.01)
    sender.put("first", lambda book: sent.append(1))
    sender.put("broken", refuse)
    sender.put("last", lambda book: sent.append(2))
    left = sender.close(30)
    assert (sent, len(calls), left.waiting, left.refused) == ([1, 2], 3, 0, ("broken: no such thing",))


def test_order_is_kept_through_an_outage():
    sent, tries = [], iter([True, False, True, True])

    def connect():
        if not next(tries, True):
            raise ConnectionError("away")
        return sent

    lost = iter([True])

    def second(book):
        if next(lost, False):
            raise ConnectionError("lost")
        book.append(2)

    sender = Sender(connect, longest_pause=0.01)
    sender.put("1", lambda book: book.append(1))
    sender.put("2", second)
    sender.put("3", lambda book: book.append(3))
    left = sender.close(30)
    assert (sent, left.waiting, left.refused) == ([1, 2, 3], 0, ())


def test_records_that_may_go_side_by_side_do_and_others_wait_for_them():
    """Four and four that wait for each other, one after all of them, and two more that wait for it."""
    sent, here, gate = [], threading.Barrier(4, timeout=30), threading.Event()

    def together(book, name):
        here.wait()
        book.append(name)

    sender = Sender(lambda: sent, width=4)
    sender.put("until all are queued", lambda book: gate.wait(30))
    for name in range(8):
        sender.put(str(name), lambda book, n=name: together(book, n), beside=True)
    sender.put("alone", lambda book: book.append("alone"))
    for name in ("x", "y"):
        sender.put(name, lambda book, n=name: book.append(n), beside=True)
    gate.set()
    left = sender.close(30)
    assert (left.waiting, left.refused) == (0, ())
    assert [set(sent[:4]), set(sent[4:8]), sent[8], set(sent[9:])] == [{0, 1, 2, 3}, {4, 5, 6, 7}, "alone", {"x", "y"}]


def test_of_records_side_by_side_only_those_that_failed_are_sent_again():
    """Of four, one is lost once, and one is always refused: each other is sent once, and what comes later follows."""
    sent, lost, books, gate = [], iter([True]), [], threading.Event()

    def connect():
        books.append(len(sent))
        return sent

    def second(book):
        if next(lost, False):
            raise ConnectionError("lost")
        book.append(1)

    def refused(book):
        raise ValueError("no such thing")

    sender = Sender(connect, longest_pause=0.01, width=4)
    sender.put("until all are queued", lambda book: gate.wait(30))
    does = [lambda book: book.append(0), second, refused, lambda book: book.append(3), lambda book: book.append(4)]
    for name, send in enumerate(does):
        sender.put(str(name), send, beside=True)
    sender.put("last", lambda book: book.append("last"))
    gate.set()
    left = sender.close(30)
    assert (sorted(sent[:4]), sent[4:], left.waiting) == ([0, 1, 3, 4], ["last"], 0)
    assert left.refused == ("2: no such thing",)
    assert len(books) == 4  # at first, and after each of three refusals


def test_closing_gives_up_when_nothing_moves():
    def connect():
        raise ConnectionError("away")

    sender = Sender(connect, longest_pause=0.01)
    sender.put("1", print)
    sender.put("2", print)
    left = sender.close(0.05)
    assert (left.waiting, left.refused, str(left.error)) == (2, (), "away")


def test_waiting_for_a_long_backlog_is_said():
    """Five records of 0.6 s: whoever waits is told every 1.5 s how many are left, and how long they will take."""
    said = []
    sender = Sender(lambda: "book")
    for i in range(5):
        sender.put(str(i), lambda book: time.sleep(0.6))
    left = sender.close(1.5, lambda waiting, seconds: said.append((waiting, seconds)))
    assert (left.waiting, left.refused) == (0, ())
    assert said and all(0 < waiting < 5 and seconds > 0.05 for waiting, seconds in said)


def test_whoever_was_stopped_does_not_wait_for_a_long_backlog():
    """200 records of 50 ms take 10 s: in 1 s some are sent, and what is left is counted."""
    sender = Sender(lambda: "book")
    for i in range(200):
        sender.put(str(i), lambda book: time.sleep(0.05))
    left = sender.close(30, most_seconds=1)
    assert 100 < left.waiting < 200 and left.error is None


def test_of_very_many_members_only_the_selected_get_further_calls(tmp_path):
    """1,000 with a diversity are all told; of 1,001 only the two with a weight."""
    for count, told in ((1000, 1000), (1001, 2)):
        names = [f"m{i:04d}" for i in range(count)]
        final = final_of(tmp_path, diversity=dict.fromkeys(names, 0.1))
        labels = [label for label, _ in final_records(final)]
        assert sum(label.startswith("the weight of") for label in labels) == told


# MLflow in a SQLite file ---------------------------------------------------------------------------------------------


def test_the_tree_in_mlflow(tmp_path, mlflow_store):
    """3 steps of search make one parent and four children: two members, one lost attempt, one failure."""
    uri, client = mlflow_store
    lines = tell(MlflowRuns(uri), run_info(tmp_path), final_of(tmp_path))
    (parent,), children = runs_of(client)
    assert (parent.info.run_name, parent.info.status) == ("toy-1a2b3c4d", "FINISHED")
    assert parent.data.params["search.members"] == "3"
    assert parent.data.params["storage"] == "s3://***@b/r"
    assert parent.data.metrics["ensemble.accuracy"] == 0.75
    assert parent.data.tags["distens.version.python"] == "3"
    assert parent.data.tags["mlflow.note.content"] == "- ensemble won."
    experiment = client.get_experiment(parent.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert history(client, parent, "best_single") == [(1, 0.5), (2, 0.4)]
    files = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert files == {"config.yaml", "results.json", "report.html", "figures"}
    assert parent.info.artifact_uri.startswith(str(tmp_path / "mlruns/toy"))
    assert "pw" not in (Path(parent.info.artifact_uri) / "config.yaml").read_text()
    statuses = {name: run.info.status for name, run in children.items()}
    assert statuses == {
        "m0000 net": "FINISHED",
        "m0001 net (attempt 1: crashed)": "FAILED",
        "m0001 net": "FINISHED",
        "m0002 net (attempt 1: crashed)": "FAILED",
    }
    member, lost = children["m0001 net"], children["m0001 net (attempt 1: crashed)"]
    assert member.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (member.data.tags["distens.task"], member.data.tags["distens.attempt"]) == ("m0001", "2")
    assert member.data.params == {
        "family": "net",
        "kind": "classifier",
        "model.kind": "mlp",
        "model.hidden": "[8]",
        "seed": "7",
    }
    costs = {"seconds": 2.0, "parameters": 99.0, "predict_ms_per_1000": 1.5}
    assert member.data.metrics == {"nll": 0.4, "error": 0.25, "weight": 0.6, "diversity": 0.2, **costs}
    assert member.info.end_time - member.info.start_time == 2000
    assert (lost.data.tags["distens.reason"], lost.data.tags["distens.message"]) == ("crashed", "signal 9")
    assert lost.data.tags["distens.node"] == "node-b"
    assert lines[-1].startswith(f"MLflow: run `mlflow ui --backend-store-uri {uri}`")
    assert parent.info.run_id in lines[-1]


def test_a_killed_driver_s_run_is_continued(tmp_path, mlflow_store):
    """A parent left RUNNING and a child left half-written are completed, not doubled."""
    uri, client = mlflow_store
    first = MlflowRuns(uri)
    first.start(run_info(tmp_path))
    first.member(*finished("m0000"))
    first._sender.close(60)  # sent, and no `finish`: as after SIGKILL
    (parent,), children = runs_of(client)
    half = children["m0000 net"].info.run_id
    client.update_run(half, status="RUNNING")
    assert parent.info.status == "RUNNING"
    tell(MlflowRuns(uri), run_info(tmp_path))
    (same,), children = runs_of(client)
    assert (same.info.run_id, same.info.status, len(children)) == (parent.info.run_id, "FINISHED", 4)
    assert (children["m0000 net"].info.run_id, children["m0000 net"].info.status) == (half, "FINISHED")
    assert [m.value for m in client.get_metric_history(half, "nll")] == [0.5]


def test_a_stopped_run_is_opened_again(tmp_path, mlflow_store):
    uri, client = mlflow_store
    tell(MlflowRuns(uri), run_info(tmp_path), None, "stopped")
    assert runs_of(client)[0][0].info.status == "KILLED"
    tell(MlflowRuns(uri), run_info(tmp_path), final_of(tmp_path))
    (parent,), _ = runs_of(client)
    assert (parent.info.status, parent.data.metrics["best_single.accuracy"]) == ("FINISHED", 0.5)


def test_other_data_or_another_folder_is_another_run(tmp_path, mlflow_store):
    uri, client = mlflow_store
    for changes in ({}, {"fingerprint": "e" * 64}, {"storage": str(tmp_path / "elsewhere")}):
        tell(MlflowRuns(uri), run_info(tmp_path, **changes))
    assert len(runs_of(client)[0]) == 3


def test_many_values_go_in_several_calls(tmp_path, mlflow_store):
    uri, client = mlflow_store
    tracker = MlflowRuns(uri, experiment="big")
    tracker.start(run_info(tmp_path, config={f"key{i}": i for i in range(250)}))
    tracker.progress(1, {f"metric{i}": i for i in range(1700)})
    assert len(tracker.finish(None, "finished")) == 1
    (parent,), _ = runs_of(client, "big")
    assert (len(parent.data.params), len(parent.data.metrics)) == (250, 1700)
    assert (parent.data.params["key249"], parent.data.metrics["metric1699"]) == ("249", 1699.0)


def test_a_password_stays_out_of_configs_and_lines(tmp_path, monkeypatch):
    with pytest.raises(ConfigError) as error:
        registry.make_plugin("tracking", {"kind": "mlflow_runs", "uri": "postgresql://me:hunter2@host/db"}, "tracking")
    assert "MLFLOW_TRACKING_URI" in str(error.value) and "hunter2" not in str(error.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    tracker = MlflowRuns(wait_seconds=0.1)
    lines = tell(tracker, run_info(tmp_path))
    assert "hunter2" not in repr((lines, tracker))
    assert lines[-1] == "MLflow: http://***@127.0.0.1:9"


def test_plain_folders_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="sqlite:///mlflow"):
        registry.make_plugin("tracking", {"kind": "mlflow_runs", "uri": "./mlruns"}, "tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///tmp/mlruns")
    with pytest.raises(ConfigError, match="environment's MLFLOW_TRACKING_URI"):
        registry.make_plugin("tracking", "mlflow_runs", "tracking")


def test_without_a_uri_it_is_a_file_here(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    tracker = MlflowRuns()
    tracker.start(run_info(tmp_path))
    monkeypatch.chdir("/")  # where the run began counts
    assert (tracker.finish(None, "finished"), (tmp_path / "mlflow.db").is_file())[1]


# Registered models ---------------------------------------------------------------------------------------------------


def test_who_becomes_champion():
    champion = Version("3", {"distens.score": "0.25", "distens.fingerprint": "data"})
    assert compare(0.5, "data", None) == (True, "the first")
    assert compare(0.2, "data", champion) == (True, "NLL 0.2, version 3 has 0.25")
    assert compare(0.25, "data", champion) == (False, "NLL 0.25, version 3 stays with 0.25")
    assert compare(9.0, "other", champion) == (True, "version 3 was scored on other data")


def small_bundle(folder, n_neighbors=5):
    """A bundle of one member over a table with whole numbers, missing values and texts, and what it predicts."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "size": rng.normal(size=40),
            "age": rng.integers(1, 90, 40),
            "hue": pd.Categorical(rng.choice(["red", "blue"], 40)),
            "note": rng.choice(["a", "b"], 40),
        }
    )
    rows.loc[3, "size"] = np.nan
    labels_N = (rows["age"] > 40).astype(int).to_numpy()
    preprocessing = Preprocessing.fit(rows, np.arange(40), DataSection(source="x"))
    settings = {"kind": "estimator", "estimator": "k_nearest_neighbours", "options": {"n_neighbors": n_neighbors}}
    member = registry.build_member(settings)
    member.fit(Examples(preprocessing.transform(rows), labels_N, 2), Context(seed=0))
    store, path = Store(str(folder)), folder / "final/ensemble"
    if not path.exists():  # a run that is resumed has the bundle that it had
        bundle.write_bundle(
            store,
            "final/ensemble",
            name="toy",
            target=Classes(("young", "old")),
            preprocessing=preprocessing.to_json(),
            members=[bundle.BundleMember("m0000", settings, 1.0, store.write_state("state", member.state()))],
            combine="average",
            combine_state=State({"weights": np.ones(1)}),
            temperature=1.0,
            metrics={},
        )
    return path, rows[:6], predictor.load(str(path)).predict_proba(rows[:6])


def register(uri, tmp_path, name, score, off=0.0, fingerprint="f" * 64, **kind):
    path, example, expected_NC = small_bundle(tmp_path / name, **kind)
    run = run_info(tmp_path, run_name=f"toy-{name}", fingerprint=fingerprint)
    found = {"bundles": {"ensemble": path}, "scores": {"ensemble": score}}
    final = final_of(tmp_path / name, example=example, expected={"ensemble": expected_NC + off}, **found)
    lines = tell(MlflowRuns(uri), run, final)
    return [line for line in lines if "model toy" in line]


def test_registering(tmp_path, mlflow_store):
    """Scores 0.3, 0.4 and 0.2 on the same data: 1 and 3 become champion; what mispredicts does not."""
    uri, client = mlflow_store
    assert register(uri, tmp_path, "a", 0.3) == ["MLflow: model toy version 1 is champion (the first)"]
    again = register(uri, tmp_path, "a", 0.3)  # as after a resume
    assert again == ["MLflow: model toy version 1 was registered before (champion (the first))"]
    worse = "MLflow: model toy version 2 is not champion (NLL 0.4, version 1 stays with 0.3)"
    assert register(uri, tmp_path, "b", 0.4, n_neighbors=7) == [worse]
    better = "MLflow: model toy version 3 is champion (NLL 0.2, version 1 has 0.3)"
    assert register(uri, tmp_path, "c", 0.2, n_neighbors=9) == [better]
    wrong = register(uri, tmp_path, "d", 0.1, off=2e-6)
    assert len(wrong) == 1 and "version 4 is registered but gets no alias: its probabilities are off" in wrong[0]
    aliases = client.get_registered_model("toy").aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {"champion": "3"}
    other = register(uri, tmp_path, "e", 0.9, fingerprint="e" * 64)
    assert other == ["MLflow: model toy version 5 is champion (version 3 was scored on other data)"]
    tags = client.get_model_version("toy", "5").tags
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id], "tags.`distens.task` = 'm0000'")
    assert json.loads(tags["distens.members"])["m0000"] in {run.info.run_id for run in runs}
    assert (tags["distens.run"], tags["distens.score"]) == (f"toy-e/{'e' * 64}", "0.9")


def test_the_champion_predicts_in_another_process(tmp_path, mlflow_store):
    uri, _ = mlflow_store
    register(uri, tmp_path, "a", 0.3)
    _, rows, expected_NC = small_bundle(tmp_path / "b")
    rows["hue"] = rows["hue"].astype(str)
    rows.to_parquet(tmp_path / "rows.parquet")
    code = (
        "import sys, mlflow, pandas\n"
        "model = mlflow.pyfunc.load_model('models:/toy@champion')\n"
        "rows = pandas.read_parquet(sys.argv[1])\n"
        "model.predict(rows).to_json(sys.argv[2], double_precision=15)\n"
        "model.predict(rows.assign(age=rows['age'].astype(float)))  # as where one is missing\n"
        "print(model.metadata.signature, model.metadata.get_input_schema().input_names())\n"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    arguments = [str(tmp_path / "rows.parquet"), str(tmp_path / "probs.json")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_json(tmp_path / "probs.json")
    assert list(found.columns) == ["young", "old"]
    np.testing.assert_allclose(found.to_numpy(), expected_NC, atol=1e-6)
    assert "['size', 'age', 'hue', 'note']" in done.stdout and "'young': double" in done.stdout
    model = next((tmp_path / "mlruns").rglob("MLmodel")).parent
    assert not list(model.rglob("*.pkl"))
    pins = (model / "requirements.txt").read_text()
    assert "distens==" in pins and "+" not in pins
    assert (model / "input_example.json").is_file()


# A real server -------------------------------------------------------------------------------------------------------


def test_what_a_server_missed_is_sent_when_it_is_back(tmp_path, s3):
    """It ends after the first member and is back before the run ends; nothing is missing or doubled. What is on its
    object store goes through it both ways: nobody is sent to the store with an address that it signed."""
    server, uri = mlflow_server(tmp_path, f"sqlite:///{tmp_path}/server.db", f"s3://{s3.bucket}/files", {}, workers=1)
    path, example, expected_NC = small_bundle(tmp_path / "a")
    tracker, client = MlflowRuns(uri, wait_seconds=60), MlflowClient(uri, uri)
    with server:
        tracker.start(run_info(tmp_path))
        tracker.member(*finished("m0000"))
        while (found := client.get_experiment_by_name("toy")) is None or len(runs_in(client, found)) < 2:
            time.sleep(0.1)
    tracker.member(*failure("m0001", 1, final=False))
    tracker.progress(1, {"best_single": 0.5})
    with server:
        tracker.member(*finished("m0001", attempt=2))
        final = final_of(tmp_path, {"ensemble": path}, example=example, expected={"ensemble": expected_NC})
        lines = tracker.finish(final, "finished")
        (parent,), children = runs_of(client)
        assert (parent.info.status, len(children)) == ("FINISHED", 3)
        assert children["m0001 net"].data.metrics["weight"] == 0.6
        assert history(client, parent, "best_single") == [(1, 0.5)]
        assert {f.path for f in client.list_artifacts(parent.info.run_id)} >= {"report.html", "figures"}
        assert lines[0] == "MLflow: model toy version 1 is champion (the first)"
        assert lines[1:] == [f"MLflow: {uri}/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"]
    asked = s3.asked()
    assert [line for line in asked if "bundle.json" in line] and not [line for line in asked if "Signature" in line]


def test_a_server_that_never_answers(tmp_path):
    """7 calls before the end (start, 4 attempts, 2 steps) and the status are 8 records; nothing raises."""
    uri = f"http://127.0.0.1:{free_port()}"
    lines = tell(MlflowRuns(uri, wait_seconds=0.2), run_info(tmp_path))
    assert lines[0].startswith("MLflow: 8 records were not sent")
    assert lines[0].endswith(f"`distens resume {tmp_path}/runs/toy-1a2b3c4d` will send what is missing.")
    assert lines[1:] == [f"MLflow: {uri}"]
