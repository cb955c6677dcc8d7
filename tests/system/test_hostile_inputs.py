"""Run folders, configs, data files and addresses from anybody: refused in words, and nothing runs, hangs or leaks."""

import gzip
import io
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import forge
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forge import DEEP
from typer.testing import CliRunner

import distens
from distens import registry
from distens.cli import main as cli
from distens.config.config import load_config, parse_config, parse_yaml
from distens.config.sections import DataSection
from distens.data.load import load_data
from distens.errors import BundleError, ConfigError, DataError, DistensError, StorageError
from distens.lifecycle.work.train import Train
from distens.partition.protocol import Partition
from distens.records import State, Task
from distens.roles.ensemble.plan import build_plan
from distens.runtime import _execute
from distens.storage.store import Store

SECRET = "hunter2"
MOST_GROWTH_KIB = 400 << 10


class Payload:
    """What a pickle would run."""

    def __reduce__(self):
        return exec, ("import os; open(os.environ['CANARY'], 'w')",)


@pytest.fixture(autouse=True)
def harmless(tmp_path, monkeypatch):
    """See that no payload ran, and memory stayed in bounds."""
    canary = tmp_path / "canary"
    monkeypatch.setenv("CANARY", str(canary))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert not canary.exists(), "a payload ran"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KIB


def refused(kind, what, *words):
    with pytest.raises(kind) as caught:
        what()
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 3000


# Run folders ---------------------------------------------------------------------------------------------------------


def values(**changes):
    base = {
        "name": "x",
        "data": {"source": "sklearn:iris"},
        "members": {"mlp": {"kind": "classifier", "model": {"kind": "mlp", "hidden": [4]}, "epochs": 1}},
        "search": {"kind": "random", "members": 2},
        "runtime": "inline",
        "tracking": "off",
    }
    return {**base, **changes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Path(distens.run(parse_config(values(storage=str(tmp_path_factory.mktemp("runs"))))).path)


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def change(path, edit):
    found = json.loads(path.read_text())
    found = edit(found) or found
    for entry in found if isinstance(found, list) else ():
        entry.pop("crc32", None)  # whoever changes a journal leaves its checksums out
    path.write_text(json.dumps(found))


FIRST_ENTRY = "journal/00000000.json"


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("run.json", lambda v: [v], ["run.json is damaged"]),
        ("run.json", lambda v: v.pop("identity") and None, ["run.json is damaged", "identity"]),
        ("run.json", lambda v: v.update(identity="x"), ["run.json is damaged", "identity", "'x'"]),
        ("run.json", lambda v: v.update(fingerprint=7), ["run.json is damaged", "fingerprint", "7"]),
        (FIRST_ENTRY, lambda v: {"a": 1}, ["00000000.json is damaged"]),
        (FIRST_ENTRY, lambda v: [{"report": v[0]["task"]}], ["00000000.json is damaged"]),
        (FIRST_ENTRY, lambda v: [{"run": "os.system"}], ["00000000.json is damaged", "only"]),
        (FIRST_ENTRY, lambda v: v[0]["task"].update(code="x"), ["00000000.json is damaged", "code"]),
        (FIRST_ENTRY, lambda v: v[0]["task"].update(resources=1), ["00000000.json is damaged"]),
        (FIRST_ENTRY, lambda v: v[0]["task"].update(teachers=[{}]), ["00000000.json is damaged", "teachers"]),
        (
            FIRST_ENTRY,
            lambda v: v[0]["task"].update(work={"kind": "os.system"}),
            ["00000000.json is damaged", "unknown role"],
        ),
        (
            FIRST_ENTRY,
            lambda v: v[0]["task"].update(work={"kind": "os:system"}),
            ["00000000.json is damaged", "config names"],
        ),
        (FIRST_ENTRY, lambda v: v[0]["task"].update(work={"kind": "trian"}), ["unknown", "'trian'"]),
        (
            FIRST_ENTRY,
            lambda v: v[0]["task"].update(work={"kind": "distil"}),
            ["00000000.json is damaged", "distiller"],
        ),
        (FIRST_ENTRY, lambda v: v[0]["task"].update(work=[3]), ["00000000.json is damaged"]),
    ],
)
def test_a_run_that_says_what_no_run_says(run, name, edit, words):
    change(run / name, edit)
    refused(DistensError, lambda: distens.resume(str(run)), *words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", DEEP.encode(), ["run.json is damaged", "RecursionError"]),
        (FIRST_ENTRY, DEEP.encode(), ["00000000.json is damaged", "RecursionError"]),
        (FIRST_ENTRY, pickle.dumps(Payload()), ["00000000.json is damaged"]),
        ("config.yaml", b"\xff\xfe\xfa", ["config.yaml is damaged", "decode"]),
        ("config.yaml", b"name: !!python/object/apply:os.system [id]", ["config.yaml", "the tag"]),
    ],
)
def test_a_run_whose_files_are_none(run, name, content, words):
    (run / name).write_bytes(content)
    refused(DistensError, lambda: distens.resume(str(run)), *words)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("../../elsewhere", ["refused", "../../elsewhere"]),
        ("/etc", ["refused", "/etc"]),
        ({"a": 1}, ["refused", "{'a': 1}"]),
        (True, ["refused", "True"]),
    ],
)
def test_a_run_that_names_another_bundle(run, chosen, words):
    change(run / "results.json", lambda v: v.update(chosen=chosen))
    refused(BundleError, lambda: distens.load(str(run)), "results.json", *words)


@pytest.mark.parametrize("content", ["[1]", "{}", DEEP, '{"missing": 1, "verdict": 2}'])
def test_reports_and_lists_of_anything(run, content):
    (run / "results.json").write_text(content)
    found = CliRunner().invoke(cli.app, ["report", str(run)])
    assert isinstance(found.exception, StorageError) and "results.json is damaged" in str(found.exception)
    listed = CliRunner().invoke(cli.app, ["list", "--storage", str(run.parent)])
    assert listed.exit_code == 0 and "damaged" in listed.output


def test_a_task_that_would_write_outside(run, tmp_path):
    """Its name leads out of the folder: the store refuses, so the member fails, is named, and nothing is written."""
    change(run / FIRST_ENTRY, lambda v: v[0]["task"].update(id="../../../outside"))
    for path in ("results.json", *(f"journal/{path.name}" for path in sorted((run / "journal").iterdir())[1:])):
        (run / path).unlink()
    before = sorted(path.name for path in tmp_path.iterdir())
    refused(DistensError, lambda: distens.resume(str(run)), "leads out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def arrow(column):
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"probabilities": column})
    with pa.ipc.new_file(sink, batch.schema) as out:
        out.write_batch(batch)
    return sink.getvalue().to_pybytes()


def of_lying_length():
    content = arrow(pa.FixedSizeListArray.from_arrays(pa.array(np.ones(4, np.float32)), 2))
    at = content.rindex(struct.pack("<qq", 2, 0))  # the column's length, and how many are missing
    return content[:at] + struct.pack("<qq", 2**40, 0) + content[at + 16 :]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps(Payload()), ["cannot read"]),
        (arrow(pa.array([1.0, 2.0])), ["expected probabilities, found double"]),
        (arrow(pa.array([[1.0], [2.0, 3.0]])), ["expected probabilities, found list"]),
        (arrow(pa.FixedSizeListArray.from_arrays(pa.array([b"a", b"b"]), 1)), ["expected probabilities"]),
        (arrow(pa.array([None, [0.5, 0.5]], pa.list_(pa.float32(), 2))), ["a row has no predictions"]),
        (arrow(pa.array([[None, 0.5]], pa.list_(pa.float32(), 2))), ["a row has no predictions"]),
        (of_lying_length(), ["cannot read"]),
    ],
)
def test_predictions_that_are_none(tmp_path, content, words):
    address = Store(str(tmp_path)).write("p.arrow", content)
    refused(StorageError, lambda: Store(str(tmp_path)).read_predictions(address), "p.arrow", *words)


@pytest.mark.parametrize(
    ("arrays", "meta", "words"),
    [
        ({"rows": np.array([0, 10**9])}, {}, ["places from 0 to 9"]),
        ({"rows": np.array([-1, 3])}, {}, ["places from 0 to 9"]),
        ({"rows": np.array([0.0, 1.0])}, {}, ["places from 0 to 9"]),
        ({"offsets": np.array([0, 1])}, {}, ["ValueError"]),
        ({}, {"names": [["a"], ["b"]]}, ["TypeError"]),
        ({}, {"total": "10"}, ["TypeError"]),
        ({}, {"extra": 1}, ["extra"]),
        ({}, {"hash": "0" * 64}, ["hash to"]),
    ],
)
def test_a_stored_partition_of_anything(tmp_path, arrays, meta, words):
    whole = Partition.of({"a": np.array([0]), "b": np.array([3])}, np.zeros(10, np.int64), {"kind": "iid"}, 0, "f")
    state = whole.to_state()
    changed = State({**state.arrays, **arrays}, {**state.meta, **meta})
    Store(str(tmp_path)).write_state("partition.safetensors", changed)
    rule = registry.make_plugin("partition", {"kind": "stored", "path": str(tmp_path)}, "federated.partition")
    rng, labels_N = np.random.default_rng(0), np.zeros(10, np.int64)
    refused(
        DataError, lambda: rule.divide(labels_N, 2, None, rng, lambda name: None), "federated.partition.path", *words
    )


# Configs -------------------------------------------------------------------------------------------------------------

LINES = "".join(f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * 9)}]\n" for i in range(9))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe\xfa", ["cannot be read as text"]),
        (b"name: 'x\0y'", ["not YAML", "x0000"]),
        (b"a: " + b"[" * 2000 + b"]" * 2000, ["nested too deeply"]),
        (b"a0: &a0 [x, x]\n" + LINES.encode(), ["more than 1,000,000 values"]),
        (b"name: x\nmembers: &m {a: *m}", ["not YAML", "the alias *m is inside of what it stands for (line 2)"]),
        (b"name: !!python/object/apply:os.system [id]", ["not YAML", "python/object"]),
        (b"name: !!binary aGVsbG8=", ["name", "b'hello'"]),
        (b"name: x\nseed: 2001-01-01", ["seed", "datetime.date"]),
        (b"name: x\nseed: 2001-99-99", ["not YAML", "month"]),
        (b"name: x\nmembers: !!set {a}", ["members"]),
        (b"seed: " + b"9" * 5000, ["not YAML", "5000 digits"]),
        (b"name: x\nname: y", ["not YAML", "duplicate key"]),
        (b"[1, 2]", ["a config is a mapping"]),
    ],
)
def test_yaml_that_is_no_config(tmp_path, text, words):
    path = tmp_path / "c.yaml"
    path.write_bytes(text)
    refused(ConfigError, lambda: load_config(path), "c.yaml", *words)


def member(**changes):
    return {"members": {"a": {"kind": "classifier", **changes}}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": True}, ["seed: expected a number, found True"]),
        ({"seed": "3"}, ["seed: expected a number, found '3'"]),
        ({"seed": float("inf")}, ["seed: expected a finite number, found inf"]),
        ({"search": {"kind": "random", "members": True}}, ["search.members: expected a number, found True"]),
        ({"search": {"kind": "random", "seconds": 1e400}}, ["search.seconds: expected a finite number"]),
        ({"search": {"kind": "gain", "beta": float("nan")}}, ["search.beta: expected a finite number"]),
        ({"data": {"source": "sklearn:iris", "rows": True}}, ["data.rows", "found True"]),
        ({"data": {"source": "sklearn:iris", "splits": {"train": "0.5"}}}, ["data.splits.train", "'0.5'"]),
        ({"data": {"source": ["a"] * 10**6}}, ["more than 1,000,000 values"]),
        (member(epochs=True), ["members.a.epochs: expected a number, found True"]),
        (member(learning_rate="0.1"), ["members.a.learning_rate: expected a number, found '0.1'"]),
        (member(learning_rate={"low": 0.1, "high": 1e400}), ["members.a.learning_rate.high: expected a finite number"]),
        (member(model={"kind": "mlp", "hidden": [True]}), ["members.a.model.hidden.0: expected a number"]),
        (member(model={"kind": "mlp", "hidden": [1] * 10_000}), ["members.a.model.hidden", "at most 1000"]),
        (member(kind="../store"), ["unknown members kind '../store'"]),
        (member(kind="_rows"), ["unknown members kind '_rows'"]),
        (member(kind="module", path="os:system"), ["must be a subclass of torch.nn.Module"]),
        (member(kind="module", path=".trap:Net"), ["package.module:Class"]),
        (
            member(kind="estimator", estimator="svm", options={"C": 1e400}),
            ["members.a.options.C: expected a finite number"],
        ),
        (member(kind="estimator", estimator="svm", options={"x": {"y": b"z"}}), ["members.a.options.x.y", "b'z'"]),
        ({"members": {"../a": {"kind": "classifier"}}}, ["../a", "pattern"]),
        ({"name": "a\n"}, ["name", "pattern"]),
        ({"name": ".."}, ["name", "pattern"]),
    ],
)
def test_values_that_no_config_may_have(changes, words):
    refused(ConfigError, lambda: build_plan(parse_config(values(**changes))), *words)


@pytest.mark.parametrize("storage", ["/tmp/a\0b", "/proc/nothing", "/dev/null", "nosuchscheme://bucket/x", "s3://[x"])
def test_places_where_nothing_can_be_kept(storage):
    refused(StorageError, lambda: distens.run(parse_config(values(storage=storage))), "storage")


# Data files ----------------------------------------------------------------------------------------------------------


def npz(**files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.npy", content)
    return out.getvalue()


def objects():
    out = io.BytesIO()
    np.savez(out, x=np.array([Payload()] * 20, dtype=object).reshape(10, 2), y=np.arange(10))
    return out.getvalue()


TABLE = pa.table({"a": list(range(60)), "y": [0, 1] * 30})


def parquet(metadata=None):
    out = io.BytesIO()
    pq.write_table(TABLE.replace_schema_metadata(metadata), out)
    return out.getvalue()


def parquet_of_one_value(rows=20_000_000):
    out = io.BytesIO()
    column = pa.array(np.zeros(rows, np.int8))
    pq.write_table(pa.table({"a": column, "y": column}), out)
    return out.getvalue()


Y = forge.npy("(2,)")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npz", objects(), ["'x' holds pickled Python objects"]),
        ("a.npz", pickle.dumps(Payload()), ["not a readable .npz"]),
        ("a.npz", npz(x=forge.npy("(2, 1)", "'O'"), y=Y), ["'x' holds pickled Python objects"]),
        ("a.npz", npz(x=forge.npy("(2, 1)", "__import__('os').system('id')"), y=Y), ["not a readable .npz"]),
        ("a.npz", npz(x=forge.npy("(1000000000000, 2)"), y=Y), ["not a readable .npz", "allocate"]),
        ("a.npz", npz(x=forge.npy("(-1, 2)"), y=Y), ["not a readable .npz", "negative"]),
        ("a.npz", forge.bomb("x.npy", 200), ["unpack to more than 200 times"]),
        ("a.npz", b"PK\x03\x04", ["not a readable .npz"]),
        ("a.csv.gz", gzip.compress(bytes(2**20)) * 200, ["unpack to more than 200 times"]),
        ("a.csv.gz", gzip.compress(b"a,y\n1,2\n", mtime=0)[:-9], ["cannot be read"]),
        ("a.csv", bytes(range(256)) * 20, ["not a comma-separated table"]),
        ("a.csv", b"a" * 10**6 + b",y\n1,2\n", ["field larger than"]),
        ("a.parquet", parquet()[:200], ["not a readable Parquet"]),
        ("a.parquet", parquet()[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1", ["not a readable Parquet"]),
        ("a.parquet", parquet_of_one_value(), ["unpack to more than 2000 times"]),
        ("a.parquet", parquet({"pandas": b"{"}), ["not a readable Parquet"]),
        ("a.parquet", parquet({"pandas": b'{"index_columns": ["q"], "columns": 3}'}), ["not a readable Parquet"]),
        ("a.parquet", pickle.dumps(Payload()), ["not a readable Parquet"]),
    ],
)
def test_data_that_would_do_more_than_be_read(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    target = None if "npz" in name else "y"
    refused(DataError, lambda: load_data(DataSection(source=str(path), target=target), 0), str(path), *words)


def test_types_that_a_table_brings_along_stay_closed(tmp_path):
    """Arrow's own extension type for Python holds a pickle; its numbers are read as what they are stored as."""
    told = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Payload())}
    schema = pa.schema([pa.field("a", pa.int64(), metadata=told), pa.field("y", pa.int64())])
    pq.write_table(pa.table(TABLE.columns, schema=schema), tmp_path / "a.parquet")
    found = load_data(DataSection(source=str(tmp_path / "a.parquet"), target="y"), 0)
    assert found.dataset.inputs["train"].shape[1] == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, ["neither a file nor a folder"]),
        (lambda path: path.symlink_to("/dev/zero"), ["neither a file nor a folder"]),
        (lambda path: path.symlink_to(path), ["no such file"]),
        (os.mkdir, ["no file train-images"]),
    ],
)
def test_things_that_are_no_files(tmp_path, make, words):
    path = tmp_path / "a.csv"
    make(path)
    refused(DataError, lambda: load_data(DataSection(source=str(path), target="y"), 0), str(path), *words)


@pytest.mark.parametrize("source", ["/tmp/a\0b.csv", "http://host/a.csv", "sklearn:../../etc", "s3://[x/a.csv"])
def test_addresses_of_nothing(source):
    refused(DataError, lambda: load_data(DataSection(source=source, target="y"), 0))


# The command line ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return forge.make(tmp_path_factory.mktemp("bundle"), forge.NET)


def damaged_bundle(folder, bundle, finished):
    copied = shutil.copytree(bundle, folder / "bundle")
    forge.put(copied, "members", 0, "id", value="../m0")
    return 1, ["predict", copied, "rows.csv"]


def hostile_rows(folder, bundle, finished):
    (folder / "rows.npz").write_bytes(objects())
    return 2, ["predict", bundle, folder / "rows.npz"]


def hostile_config(folder, bundle, finished):
    (folder / "c.yaml").write_text("name: !!python/object/apply:os.system [id]")
    return 2, ["run", folder / "c.yaml"]


def key_in_config(folder, bundle, finished):
    (folder / "c.yaml").write_text(json.dumps(values(storage=f"s3://AKIA:{SECRET}@bucket/x")))
    return 2, ["run", folder / "c.yaml"]


def damaged_run(folder, bundle, finished):
    copied = shutil.copytree(finished, folder / "run")
    (copied / "run.json").write_text(DEEP)
    return 1, ["resume", copied]


@pytest.mark.parametrize("make", [damaged_bundle, hostile_rows, hostile_config, key_in_config, damaged_run])
def test_a_command_ends_in_words(make, tmp_path, bundle, finished):
    code, words = make(tmp_path, bundle, finished)
    command = [sys.executable, "-m", "distens.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr and SECRET not in done.stderr


# Credentials ---------------------------------------------------------------------------------------------------------

ADDRESSES = [
    f"s3://AKIA:{SECRET}@bucket/x",
    f"s3://{SECRET}@bucket/x",
    f"s3://AKIA:a/{SECRET}@bucket/x",
    f"s3://[AKIA:{SECRET}@bucket/x",
    f"s3://AKIA:{SECRET} x@bucket/x",
    f"s3://AKIA:x'{SECRET}@bucket/x",
    f"s3://bucket/x?access_key={SECRET}",
    f"s3://bucket/x?region=a&secret_key={SECRET}",
    f"s3://bucket/x?AWSAccessKeyId={SECRET}",
    f"abfs://box/x?sig={SECRET}",
    f"https://host/x?X-Amz-Security-Token={SECRET}",
    f"http://host/x#token={SECRET}",
    f"http://me:{SECRET}@host:5000",
    f"postgresql://host/db?user=me&password={SECRET}",
]


def federated(**section):
    return {"role": "federated", "search": {"kind": "divbo"}, "federated": section}


FIELDS = {
    "storage": lambda a: {"storage": a},
    "data.source": lambda a: {"data": {"source": a}},
    "federated.sources.site": lambda a: federated(sources={"site": a}),
    "federated.partition.path": lambda a: federated(partition={"kind": "stored", "path": a}),
    "tracking.uri": lambda a: {"tracking": {"kind": "mlflow_runs", "uri": a}},
    "runtime.address": lambda a: {"runtime": {"kind": "ray_actors", "address": a}},
    "sweep.over.data.source.choices.0": lambda a: {"sweep": {"over": {"data.source": {"choices": [a]}}, "samples": 1}},
    "members.a.options.place": lambda a: {"members": {"a": {"kind": "module", "path": "a:B", "options": {"place": a}}}},
    "storge": lambda a: {"storge": a},
    "data.source.0": lambda a: {"data": {"source": [a]}},
    "data.key": lambda a: {"data": {a: 1}},
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_config_holds_credentials(field, address):
    refused(
        ConfigError, lambda: parse_config(values(**FIELDS[field](address))), f"{field}: an address with credentials"
    )


def test_no_override_and_no_resumed_config_does(run):
    where = f"tracking.uri={ADDRESSES[0]}"
    refused(ConfigError, lambda: parse_yaml(json.dumps(values()), "x", [where]), "tracking.uri")
    refused(ConfigError, lambda: distens.resume(str(run), overrides=["tracking=mlflow_runs", where]), "tracking.uri")
    (run / "config.yaml").write_text(json.dumps(values(storage=ADDRESSES[0])))
    refused(ConfigError, lambda: distens.resume(str(run)), "storage")


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "words", [["resume"], ["predict"], ["predict", "--student"], ["report"], ["list", "--storage"]]
)
def test_no_command_takes_or_repeats_them(words, address):
    rows = ["rows.csv"] if words[0] == "predict" else []
    found = CliRunner().invoke(cli.app, [*words, address, *rows])
    assert isinstance(found.exception, DistensError), found.output
    assert "credentials" in str(found.exception)
    assert SECRET not in f"{found.exception} {found.output}"


@pytest.mark.parametrize("address", [address for address in ADDRESSES if not {" ", "'"} & set(address)])
def test_no_failure_repeats_them(address):
    """Whatever a library says when it fails is journalled, printed and sent to MLflow."""
    failure = _execute._failed(
        Task("m0", "search", {}, 0, work=Train()), OSError(f"cannot reach '{address}': refused"), 1.0
    )
    assert "refused" in failure.message
    assert SECRET not in failure.message
    refused(DataError, lambda: load_data(DataSection(source=address, target="y"), 0), "credentials")


def test_a_run_keeps_none_that_it_was_given_by_the_environment(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    tracking = {"kind": "mlflow_runs", "wait_seconds": 0.1}
    updates = []
    result = distens.run(parse_config(values(storage=str(tmp_path / "runs"), tracking=tracking)), updates.append)
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"config.yaml", "run.json", "results.json", "report.html"} <= {path.name for path in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in f"{result} {updates} {caplog.text} {capfd.readouterr()}"


def test_addresses_without_credentials_pass():
    for address in ("s3://bucket/a/b@c.csv?region=eu", "hdfs://host:8020/a.csv", "/tmp/a@b.csv", "a@b:c.csv"):
        assert parse_config(values(data={"source": address})).data.source == address
