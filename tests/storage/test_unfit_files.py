"""What is no regular file, or larger than any such file, is refused at once wherever a run's folder is read."""

import json
import os
import resource
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import small_run
from typer.testing import CliRunner

import distens
from distens.cli import main as cli
from distens.errors import ConfigError, DistensError, StorageError
from distens.records import Address, State
from distens.storage.checkpoint import Checkpoint
from distens.storage.parts import Parts
from distens.storage.store import Store

pytestmark = pytest.mark.timeout(60)


def bind(path):
    server, here = socket.socket(socket.AF_UNIX), os.getcwd()
    os.chdir(path.parent)  # an address of a socket is at most 107 bytes
    server.bind(path.name)
    os.chdir(here)


def sparse(size):
    def make(path):
        path.touch()
        os.truncate(path, size)

    return make


UNFIT = {
    "pipe": (os.mkfifo, "expected a file, found a pipe"),
    "folder": (os.mkdir, "expected a file, found a folder"),
    "socket": (bind, "expected a file, found a socket"),
    "device": (lambda path: os.mknod(path, 0o20600, os.makedev(1, 5)), "expected a file, found a device"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_every_way_to_read(kind, tmp_path):
    make, words = UNFIT[kind]
    if kind == "device" and os.geteuid():
        make = UNFIT["pipe"][0]
        words = UNFIT["pipe"][1]
    store, address = Store(str(tmp_path)), Address("it.safetensors", "ab" * 32, 40)
    make(tmp_path / "it.safetensors")
    for use in (
        store.read,
        store.read_json,
        store.read_state,
        lambda name: store.read(name, address),
        lambda name: store.read_predictions(address),
        lambda name: store.read_predictions(Address(name, "ab" * 32, 1 << 20)),
    ):
        with pytest.raises(StorageError, match=words):
            use("it.safetensors")
    assert store.size_bytes("it.safetensors") is None and not store.has_file(address)
    with pytest.raises(StorageError, match="missing"):
        store.verify(address)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_checkpoint_or_part_that_is_none_is_made_again(kind, tmp_path):
    store = Store(str(tmp_path))
    (tmp_path / "members/m/1/early").mkdir(parents=True)
    for name in ("checkpoint.safetensors", "1/early/part.json"):
        UNFIT[kind][0](tmp_path / "members/m" / name)
    checkpoint = Checkpoint(store, "m")
    assert checkpoint.load() is None
    assert len(Parts(store, "m", 2)) == 0
    checkpoint.save(State({"w": np.ones(1)}))
    assert checkpoint.load() is not None


@pytest.mark.parametrize("size", [1 << 32, 1 << 40])
@pytest.mark.parametrize(
    "name", ["run.json", "results.json", "config.yaml", "journal/00000000.json", "members/m/checkpoint.safetensors"]
)
def test_a_file_with_a_hole(name, size, tmp_path):
    store, before = Store(str(tmp_path)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    sparse(size)(tmp_path / name)
    start = time.monotonic()
    with pytest.raises(StorageError, match=f"it has {size:,} bytes, and at most|{size:,} bytes without a header"):
        store.read(name)
    assert time.monotonic() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_a_large_state_with_a_header_is_read(tmp_path):
    store = Store(str(tmp_path))
    address = store.write_state("s.safetensors", State({"w": np.zeros(17 << 20, np.float32)}), durable=False)
    assert store.read_state("s.safetensors").arrays["w"].shape == (17 << 20,)
    store.verify(address)
    with open(tmp_path / "s.safetensors", "r+b") as file:
        file.write((1 << 50).to_bytes(8, "little"))
    with pytest.raises(StorageError, match="without a header"):
        store.read_state("s.safetensors")


# Whole commands -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    members = {"knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"}}
    search = {"kind": "random", "members": 2}
    given = {"members": members, "search": search, "distill": None, "baselines": []}
    return Path(distens.run(small_run.config(tmp_path_factory.mktemp("runs"), **given)).path)


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "runs/run", symlinks=True)


def replaced(path, make):
    path.unlink()
    make(path)


@pytest.mark.parametrize("make", [os.mkfifo, bind, sparse(1 << 40)], ids=["pipe", "socket", "hole"])
@pytest.mark.parametrize("name", ["config.yaml", "run.json", "journal/00000000.json", "results.json"])
@pytest.mark.parametrize("command", ["resume", "report", "list", "predict"])
def test_commands_end_at_once_with_words(command, name, make, run, tmp_path):
    replaced(run / name, make)
    np.savez(tmp_path / "rows.npz", x=np.zeros((1, 4)))
    words = {
        "list": ["list", "--storage", str(run.parent)],
        "predict": ["predict", str(run), str(tmp_path / "rows.npz")],
    }
    start = time.monotonic()
    found = CliRunner().invoke(cli.app, words.get(command, [command, str(run)]))
    assert time.monotonic() - start < 20
    if found.exit_code:
        assert isinstance(found.exception, DistensError | SystemExit), found.exception
    if command == "resume" and name != "results.json":
        assert isinstance(found.exception, StorageError) and name in str(found.exception)


@pytest.mark.parametrize("name", ["state.safetensors", "search.arrow", "test.arrow"])
def test_a_member_whose_file_became_a_pipe_is_trained_again(name, run):
    (run / "results.json").unlink()
    replaced(run / f"members/m0000/1/{name}", os.mkfifo)
    assert distens.resume(str(run)).weights
    assert [path.is_file() for path in run.glob(f"members/m0000/[23]/{name}")] == [True]


@pytest.mark.parametrize("make", [os.mkfifo, bind, sparse(1 << 40)], ids=["pipe", "socket", "hole"])
def test_a_config_that_is_none(make, tmp_path):
    make(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read as text: .*(expected a file|at most)"):
        distens.load_config(tmp_path / "c.yaml")


def test_a_list_goes_on_after_what_cannot_be_read(run):
    """Links that lead out, files that are none, and times and names of anything."""
    whole, storage = run, run.parent
    edits = {
        "linked": lambda path: replaced(path / "run.json", lambda p: p.symlink_to("/etc/passwd")),
        "deep": lambda path: (path / "run.json").write_text("[" * 100_000),
        "bytes": lambda path: (path / "run.json").write_bytes(b"\xff\x00"),
        "late": lambda path: change(path / "run.json", started=1e300),
        "later": lambda path: change(path / "run.json", started=float(2**62)),
        "identity": lambda path: change(path / "run.json", identity=7),
        "number": lambda path: (path / "run.json").write_text("7"),
        "huge": lambda path: sparse(1 << 40)(path / "results.json"),
    }
    for name, edit in edits.items():
        edit(shutil.copytree(whole, storage / f"a-{name}"))
    (storage / "z-link").symlink_to("/etc")
    (storage / ".DS_Store").write_bytes(b"\0")
    found = CliRunner().invoke(cli.app, ["list", "--storage", str(storage)])
    assert found.exit_code == 0, found.exception
    lines = {line.split()[0]: line for line in found.output.splitlines() if line.split()}
    assert "finished" in lines["run"]
    assert [name for name in edits if "damaged" not in lines[f"a-{name}"]] == []


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
