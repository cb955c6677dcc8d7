"""Runs on an object store: whole, killed, resumed, while it fails, and with nothing of what opens it left behind."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from s3_server import KEYS
from typer.testing import CliRunner

import distens
from distens.cli import main as cli
from distens.config.config import parse_config, to_yaml
from distens.data.load import load_data
from distens.errors import StorageError
from distens.records import State
from distens.storage import filesystem
from distens.storage.checkpoint import Checkpoint
from distens.storage.journal import Journal
from distens.storage.store import Store

KEY, SECRET = KEYS.values()


@pytest.fixture
def store(s3):
    return Store(f"s3://{s3.bucket}/run")


def config(s3, **changes):
    values = {
        "name": "iris",
        "storage": f"s3://{s3.bucket}/runs",
        "data": {"source": "sklearn:iris"},
        "members": {
            "mlp": {
                "kind": "classifier",
                "model": {"kind": "mlp", "hidden": [8]},
                "learning_rate": {"low": 1e-2, "high": 1e-1, "log": True},
                "epochs": 4,
            },
            "knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"},
        },
        "search": {"kind": "random", "members": 3},
        "runtime": "inline",
        "tracking": "off",
    }
    return parse_config({**values, **changes})


def command(*words):
    """Return what a command prints."""
    return CliRunner().invoke(cli.app, words, catch_exceptions=False).output


def process(*words):
    return subprocess.run([sys.executable, "-m", "distens.cli", *words], capture_output=True, text=True, check=False)


def killed(config, path, said, times):
    """Run a config by the command line and SIGKILL it when its log has said something so many times."""
    path.write_text(to_yaml(config))
    words = [sys.executable, "-m", "distens.cli", "run", str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as run:
        for line in run.stdout:
            times -= said in line
            if not times:
                run.kill()
                break
        assert not times, "it ended before"
    return only_run(config.storage)


def only_run(storage):
    (name,) = Store(storage).names()
    return f"{storage}/{name}"


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_whole_run_lies_in_the_bucket_and_nowhere_else(s3, tmp_path, mlflow_store, monkeypatch):
    """What it leaves is found by its address, by every command, and no secret is in it."""
    monkeypatch.chdir(tmp_path)
    asked = config(s3, distill="student", baselines=["seed_ensemble"], tracking="mlflow_runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store[0])
    result = distens.run(asked)
    assert result.path == only_run(asked.storage)
    assert not result.missing and set(result.rows) >= {"ensemble", "student", "seed_ensemble"}
    store = Store(result.path)
    assert store.names("figures") == ["diversity.png", "progress.png", "reliability.png", "weights.png"]
    assert {"report.html", "results.json", "final", "journal", "members"} <= set(store.names())
    predictor, rows = distens.load(result.path), load_data(asked.data, 0).example_rows
    rows_at = f"s3://{s3.bucket}/data/rows.csv"
    Store(f"s3://{s3.bucket}/data").write("rows.csv", rows.to_csv(index=False).encode())
    said = [
        command("predict", result.path, rows_at),
        command("predict", result.path, rows_at, "--student"),
        command("report", result.path, "--out", str(tmp_path / "page.html")),
        command("report", result.path),
        command("list", "--storage", asked.storage),
    ]
    assert [line.split(",")[0] for line in said[0].splitlines()[1:]] == predictor.predict(rows).tolist()
    assert len(said[1].splitlines()) == 1 + len(rows)
    assert said[3].splitlines()[-1] == f"report: {result.path}/report.html"
    assert result.path.rpartition("/")[2] in said[4] and "finished" in said[4]
    assert (tmp_path / "page.html").read_bytes() == store.read("report.html")
    assert sorted(os.listdir(tmp_path)) == ["mlflow.db", "mlruns", "page.html"]
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    texts += [store.read(name) for name in store.tree("")]
    texts += [one.encode() for one in said]
    assert len(texts) > 30 and not [text for text in texts if KEY.encode() in text or SECRET.encode() in text]


def test_a_killed_run_of_actors_goes_on_and_they_outlive_storage_that_fails(s3, tmp_path):
    """SIGKILL after two of four members: those two are not trained again. When it goes on, no member can
    read or write for six seconds: they wait in their actors, as the driver had met the storage, and none is lost."""
    runtime = {"kind": "ray_actors", "concurrency": 2, "pack": 1}
    asked = config(s3, search={"kind": "random", "members": 4}, runtime=runtime)
    path = killed(asked, tmp_path / "iris.yaml", "] m", 2)
    store = Store(path)
    told = [e["report"]["task_id"] for e in Journal(store).entries() if "report" in e]
    reports = {name: store.read(f"members/{name}/1/report.json") for name in told}
    assert 2 <= len(told) < 4
    s3.fail(status=500, code="InternalError", match="checkpoint|PUT.*/members/|members%2Fm", seconds=6)
    done = process("resume", path)
    assert done.returncode == 0, done.stderr
    results = store.read_json("results.json")
    assert (len(results["members"]), results["failures"]) == (4, [])
    assert all(store.read(f"members/{name}/1/report.json") == report for name, report in reports.items())
    assert [name for name in told if len(store.names(f"members/{name}")) > 1] == []


def test_a_killed_federation_goes_on_with_the_same_bits(s3, tmp_path):
    values = {
        "role": "federated",
        "data": {"source": "sklearn:iris", "splits": {"train": 0.6, "search": 0.1, "combine": 0.1, "test": 0.2}},
        "federated": {"clients": 3, "partition": "iid", "rounds": 5},
        "members": {"c": {"kind": "client", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 1, "batch_size": 16}},
        "search": {},
    }
    path = killed(config(s3, **values), tmp_path / "fed.yaml", "round", 3)
    result = distens.resume(path)
    whole = distens.run(config(s3, **values, storage=f"s3://{s3.bucket}/whole"))
    files = [
        {name: Store(one.path).read(f"final/global/{name}") for name in Store(one.path).tree("final/global")}
        for one in (result, whole)
    ]
    assert files[0]["members/global.safetensors"] == files[1]["members/global.safetensors"]
    assert len(Store(path).names("rounds-weights")) == 2


def test_what_a_member_costs(s3):
    """A member: 5 files written, a look for its checkpoint before and after, and its predictions read (2). An entry of
    the journal, of which a member has two: written, and looked at (2). No more of them for more members, although the
    search reads all predictions for each."""
    spent = {}
    for count in (6, 12):
        knn = {"kind": "estimator", "estimator": "k_nearest_neighbours"}
        search = {"kind": "gain", "members": count, "proposals": 60}
        distens.run(config(s3, name=f"m{count}", search=search, members={"knn": knn}))
        kinds = ("/search.arrow", "/checkpoint", "/journal", "journal%2F")
        spent[count] = sum(line.startswith("PUT") or any(k in line for k in kinds) for line in s3.asked())
    assert 6 * 9 <= spent[12] - spent[6] <= 6 * 13 + 6, spent  # a larger ensemble writes more states


# Storage that fails ---------------------------------------------------------------------------------------------------


def test_a_run_outlives_storage_that_fails_for_a_while(s3, caplog):
    """From request 60 on nothing works for three seconds."""
    s3.fail(status=503, code="SlowDown", after=60, seconds=3)
    result = distens.run(config(s3))
    assert len(Store(result.path).read_json("results.json")["members"]) == 3
    said = [record.getMessage() for record in caplog.records if "trying again" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith(result.path), said
    assert [m for m in caplog.messages if "answers again" in m]


def test_only_what_waiting_mends_is_waited_for(store, s3, monkeypatch):
    monkeypatch.setattr(filesystem, "PATIENCE_SECONDS", 1.0)
    store.write("there", b"1")
    for code, status, most in (("AccessDenied", 403, 1), ("NoSuchBucket", 404, 1), ("SlowDown", 503, 1000)):
        s3.fail(status=status, code=code, match="PUT")
        s3.asked()
        with pytest.raises(StorageError, match="cannot write"):
            store.write("a", b"")
        assert len(s3.asked()) <= most
    assert len(s3.asked()) == 0
    s3.fail(status=503, code="SlowDown", match="PUT", seconds=0.8)
    monkeypatch.setattr(filesystem, "PATIENCE_SECONDS", 60.0)
    store.write("a", b"1")
    assert store.read("a") == b"1"


def test_waiting_is_said_once(caplog):
    """Two failures are one outage: a line when it begins, a line when it is over."""
    failures = [OSError("HTTP status 503"), OSError("HTTP status 503")]

    def call():
        if failures:
            raise failures.pop()
        return "done"

    assert filesystem.OutageRetries("s3://bucket/runs").ask(call, 60.0) == "done"
    began, ended = caplog.messages
    assert began == "s3://bucket/runs: HTTP status 503; trying again for 60 s"
    assert ended.startswith("s3://bucket/runs answers again, after")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 403, "code": "InvalidAccessKeyId"}, ["INVALID_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"]),
        ({"status": 403, "code": "SignatureDoesNotMatch"}, ["SIGNATURE_DOES_NOT_MATCH", "AWS_SECRET_ACCESS_KEY"]),
        ({"status": 503, "code": "SlowDown"}, ["SLOW_DOWN"]),  # storage that has never answered is not waited for
        ({}, ["NO_SUCH_BUCKET", "Create the bucket first"]),
    ],
)
def test_what_a_user_must_mend_is_said_at_once(s3, fault, words):
    s3.fail(**fault)
    asked = config(s3)
    if not fault:
        asked = asked.model_copy(update={"storage": "s3://no-such-bucket/runs"})
    began = time.monotonic()
    with pytest.raises(StorageError) as error:
        distens.run(asked)
    assert all(word in str(error.value) for word in [*words, asked.storage])
    assert SECRET not in str(error.value) and KEY not in str(error.value)
    assert time.monotonic() - began < 30


def test_nobody_there(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL is http://\*\*\*@127.0.0.1:9"):
        Store("s3://bucket/runs").names()
    with pytest.raises(StorageError, match="no bucket"):
        Store("s3:///runs")


def test_a_bucket_that_is_missing_is_no_empty_list(s3):
    assert Store(f"s3://{s3.bucket}/nothing/yet").names() == []
    with pytest.raises(StorageError, match="there is no bucket no-such-bucket"):
        command("list", "--storage", "s3://no-such-bucket/runs")


@pytest.mark.parametrize("url", ["s3://AKIA:hunter2@bucket/runs", "s3://AKIA:hun/ter2@bucket/runs"])
def test_an_address_with_a_password_is_refused_and_not_repeated(url):
    with pytest.raises(StorageError, match="credentials") as error:
        Store(url)
    assert "ter2" not in str(error.value)


def test_the_environment_says_where_storage_is(s3):
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        Store(f"s3://{s3.bucket}/runs?endpoint_override=127.0.0.1:9")


# Files ----------------------------------------------------------------------------------------------------------------


def test_files_come_back(store, s3):
    state = State({"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"classes": 3})
    address = store.write_state("m/state.safetensors", state)
    assert np.array_equal(store.read_state(address.path, address).arrays["a"], state.arrays["a"])
    large = store.write("large", bytes(12_000_000))
    assert store.has_file(large) and len(store.read("large", large)) == large.size_bytes
    probs_NC = np.full((4000, 2), 0.5)
    predictions = store.write_predictions("p.arrow", probs_NC)
    s3.asked()
    for _ in range(3):  # a copy is kept: searches read the same predictions for every member
        found = store.read_predictions(predictions)
    assert Counter(line.split()[0] for line in s3.asked()) == {"HEAD": 1, "GET": 1}
    assert np.array_equal(found, probs_NC) and not found.flags.writeable
    assert store.tree("") == ["large", "m/state.safetensors", "p.arrow"]
    store.remove("large")
    store.remove("large")
    store.delete("m")
    assert store.tree("") == ["p.arrow"]


def test_a_checkpoint_costs_one_request_where_there_is_none(store, s3):
    checkpoint = Checkpoint(store, "m0")
    s3.asked()
    assert checkpoint.load() is None
    checkpoint.clear()
    assert len(s3.asked()) == 2
    checkpoint.save(State({"w": np.ones(2)}, {"epoch": 1}))
    assert checkpoint.load().meta == {"epoch": 1}
    checkpoint.clear()
    assert checkpoint.load() is None


# The journal: of two drivers at most one goes on ----------------------------------------------------------------------


def test_of_two_drivers_one_goes_on(store):
    one, two = Journal(store), Journal(store)
    one.append({"a": 1})
    with pytest.raises(StorageError, match="another process is running this run"):
        two.append({"b": 2})
    one.append({"c": 3})
    assert list(Journal(store).entries()) == [{"a": 1}, {"c": 3}]
    assert len(store.tree("journal")) == 2


def test_a_driver_that_was_cut_off_replaces_nothing(store, s3):
    """Its write is under way while another driver takes the number and goes on."""
    late = Journal(store)
    other = Journal(store)
    s3.fail(match=f"PUT /{s3.bucket}/run/journal/00000000/{late._writer}", hang=5.0)
    with ThreadPoolExecutor() as pool:
        writing = pool.submit(late.append, {"late": 1})
        while not any(f"00000000/{late._writer}" in line for line in s3.asked()):
            time.sleep(0.01)
        other.append({"a": 1})
        other.append({"b": 2})
        with pytest.raises(StorageError, match="another process"):
            writing.result()
    assert list(Journal(store).entries()) == [{"a": 1}, {"b": 2}]


def test_what_a_killed_loser_left_is_ignored(store):
    """It wrote its entry and was killed before it looked; whoever went on is known by the next entry."""
    for loser in ("000000000000", "zzzzzzzzzzzz"):
        first = Journal(store, loser)
        first.append({"a": 1})
        store.write(f"{loser}/00000001/{loser}-{first._writer}.json", json.dumps([{"lost": 1}]).encode())
        with pytest.raises(StorageError, match="another process"):
            first.append({"b": 2})  # whoever sees another entry stops, also before that other driver does
        second = Journal(store, loser)
        second.append({"c": 3})
        assert list(Journal(store, loser).entries()) == [{"a": 1}, {"lost": 1}, {"c": 3}]
        store.write(f"{loser}/00000000/{loser}-first.json", json.dumps([{"late": 1}]).encode())
        assert list(Journal(store, loser).entries()) == [{"a": 1}, {"lost": 1}, {"c": 3}]


def test_at_once(store):
    """Eight drivers on one journal, all at once, five times: never do two go on."""

    def went_on(journal):
        try:
            journal.append({"by": journal._writer})
        except StorageError:
            return None
        return journal._writer

    entries = []
    for _ in range(5):
        drivers = [Journal(store) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            found = [name for name in pool.map(went_on, drivers) if name]
        assert len(found) <= 1
        entries += [{"by": name} for name in found]
        assert list(Journal(store).entries()) == entries


def test_a_missing_entry_is_noticed(store):
    journal = Journal(store)
    for number in range(3):
        journal.append({"n": number})
    store.delete("journal/00000001")
    with pytest.raises(StorageError, match="entry 1 is missing"):
        Journal(store)
