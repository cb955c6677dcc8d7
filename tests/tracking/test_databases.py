"""MLflow's SQLite file: whoever comes first makes it whole, whatever happens, and nobody ever sees half of it."""

import fcntl
import logging
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from mlflow.store.db import utils
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tracked import run_info, runs_in

from distens.tracking import _mlflow
from distens.tracking._address import as_address
from distens.tracking._database import complete_database
from distens.tracking._sender import NeedsRepair
from distens.tracking.mlflow_runs import MlflowRuns

FORK = multiprocessing.get_context("fork")  # MLflow is imported here already, which takes seconds


def tell(tracker, run):
    tracker.start(run)
    tracker.progress(1, {"best": 0.5})
    return tracker.finish(None, "finished")


def tell_here(folder, name="toy-1a2b3c4d"):
    os.chdir(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    tell(MlflowRuns(wait_seconds=120), run_info(folder, run_name=name))


@pytest.fixture
def quick(_empty_mlflow):
    """The tables that are needed, copied from where they were made once: making them takes seconds."""
    return replace(_mlflow._schema(), migrate=lambda path: shutil.copy(_empty_mlflow, path))


def in_process(function, *arguments):
    process = FORK.Process(target=function, args=arguments)
    process.start()
    return process


def assert_tracked(file, names=("toy-1a2b3c4d",)):
    uri = as_address(file)
    client = MlflowClient(uri, uri)
    found = {run.info.run_name: run for run in runs_in(client, client.get_experiment_by_name("toy"))}
    assert sorted(found) == sorted(names)
    for run in found.values():
        assert (run.info.status, run.data.metrics["best"], run.data.params["name"]) == ("FINISHED", 0.5, "toy")
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]


def migrate_and_end(file, start, count):
    """Let MLflow make its tables in place, and end, as if killed, at one of the statements that start so."""
    left = [count]

    @event.listens_for(Engine, "before_cursor_execute")
    def cut(connection, cursor, statement, *_):
        if statement.lstrip().startswith(start):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)

    utils._initialize_tables(utils.create_sqlalchemy_engine(f"sqlite:///{file}"))


def cut_off(file, start, count=0):
    process = in_process(migrate_and_end, file, start, count)
    process.join()
    assert process.exitcode == 9 and file.is_file()
    old = time.time() - 60
    os.utime(file, (old, old))  # else somebody might be busy with it


# Several at once, and processes that end ------------------------------------------------------------------------------


def test_runs_that_start_at_once_in_a_fresh_folder_are_all_tracked(tmp_path):
    names = [f"toy-{i}" for i in range(3)]
    processes = [in_process(tell_here, tmp_path, name) for name in names]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert_tracked(tmp_path / "mlflow.db", names)
    assert sorted(os.listdir(tmp_path)) == ["mlflow.db", "mlruns"]


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 0.3), (signal.SIGINT, 1), (signal.SIGKILL, 1)])
def test_a_first_run_that_ends_at_any_moment_leaves_no_broken_file(tmp_path, quick, number, seconds):
    process = in_process(tell_here, tmp_path)
    time.sleep(seconds)
    os.kill(process.pid, number)
    process.join()
    file = tmp_path / "mlflow.db"
    if file.exists():
        assert utils._all_tables_exist(utils.create_sqlalchemy_engine(f"sqlite:///{file}"))
    complete_database(file, quick)
    tell(MlflowRuns(f"sqlite:///{file}"), run_info(tmp_path))
    assert_tracked(file)
    assert number != signal.SIGINT or not list(tmp_path.glob(".mlflow*"))


def test_what_a_killed_process_left_is_removed(tmp_path, quick):
    left = tmp_path / ".mlflow.db-new-abc"
    left.mkdir()
    (left / "made.db").write_bytes(b"x")
    os.utime(left, (0, 0))
    complete_database(tmp_path / "mlflow.db", quick)
    assert os.listdir(tmp_path) == ["mlflow.db"]


def test_who_waits_for_another_says_so(tmp_path, quick, caplog):
    side = os.open(tmp_path / ".mlflow.db.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(side, fcntl.LOCK_EX)
    threading.Timer(0.5, os.close, [side]).start()
    with caplog.at_level(logging.WARNING, "distens"):
        complete_database(tmp_path / "mlflow.db", quick)
    assert [record.getMessage() for record in caplog.records] == [
        f"MLflow: another process is making {tmp_path}/mlflow.db; waiting for it"
    ]
    assert os.listdir(tmp_path) == ["mlflow.db"]


def test_tables_that_mlflow_itself_is_making_are_waited_for(tmp_path):
    """`mlflow ui` takes no lock: its file is not touched while it changes."""
    file = tmp_path / "mlflow.db"
    process = in_process(utils._initialize_tables, utils.create_sqlalchemy_engine(f"sqlite:///{file}"))
    while not (file.exists() and file.stat().st_size):
        time.sleep(0.01)
    tell(MlflowRuns(f"sqlite:///{file}"), run_info(tmp_path))
    process.join()
    assert process.exitcode == 0
    assert_tracked(file)


def test_a_database_that_somebody_keeps_locked_is_waited_for(tmp_path, quick):
    """No record is given up, however often SQLite says that it is busy."""
    file = tmp_path / "mlflow.db"
    complete_database(file, quick)
    tracker = MlflowRuns(f"sqlite:///{file}", wait_seconds=60)
    tracker.start(run_info(tmp_path))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker.progress(1, {"best": 0.5})
        time.sleep(3)
        other.execute("COMMIT")
    assert len(tracker.finish(None, "finished")) == 1
    assert_tracked(file)


# Files that are there already ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "count"), [("INSERT INTO _alembic_tmp_", 5), ("UPDATE alembic_version", 8)])
def test_a_file_that_was_cut_off_is_named_with_the_cure(tmp_path, quick, caplog, start, count):
    file = tmp_path / "my flow.db"
    cut_off(file, start, count)
    before = file.read_bytes()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "distens"):
        line, _ = tell(MlflowRuns(f"sqlite:///{file}"), run_info(tmp_path))
    assert time.monotonic() - began < 10
    assert line.startswith("MLflow: 3 records were not sent: ") and f": {file} is an unfinished database" in line
    assert "It holds no runs" in line and line.endswith(" sends what is missing.")
    assert file.read_bytes() == before
    assert len([record for record in caplog.records if "unfinished database" in record.getMessage()]) == 1
    cure = re.search(r"`(mv .*?)`", line)
    assert cure is not None
    subprocess.run(cure[1], shell=True, check=True)
    complete_database(file, quick)
    tell(MlflowRuns(f"sqlite:///{file}"), run_info(tmp_path))
    assert_tracked(file)


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A database of some MLflow before this one, with an experiment in it, and its revision."""
    file = tmp_path_factory.mktemp("older") / "mlflow.db"
    config = utils._get_alembic_config(f"sqlite:///{file}")
    revision = [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()][15]
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{file}")
    utils.InitialBase.metadata.create_all(engine)
    command.upgrade(config, revision)
    engine.dispose()
    with closing(sqlite3.connect(file)) as database:
        database.execute(
            "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES ('a', 'x', 'active')"
        )
        database.commit()
    return file, revision


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_an_older_database_is_upgraded_and_kept(tmp_path, older, caplog, journal):
    (file, revision), new = older, _mlflow._schema().revision
    here = shutil.copy(file, tmp_path)
    with closing(sqlite3.connect(here)) as database:
        database.execute(f"PRAGMA journal_mode = {journal}")
    with caplog.at_level(logging.WARNING, "distens"):
        tell(MlflowRuns(f"sqlite:///{here}"), run_info(tmp_path))
    assert_tracked(here)
    client = MlflowClient(f"sqlite:///{here}", f"sqlite:///{here}")
    assert client.get_experiment_by_name("a") is not None
    kept = Path(f"{here}.before-{new}")
    with closing(sqlite3.connect(kept)) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [(revision,)]
        assert database.execute("SELECT name FROM experiments").fetchall() == [("a",)]
    assert str(kept) in caplog.text


def test_an_upgrade_that_is_killed_changes_nothing(tmp_path, older):
    here = shutil.copy(older[0], tmp_path)
    before = Path(here).read_bytes()
    for seconds in (0.2, 0.6):
        process = in_process(complete_database, Path(here), _mlflow._schema())
        time.sleep(seconds)
        process.kill()
        process.join()
        with closing(sqlite3.connect(here)) as database:
            assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    assert (
        Path(here).read_bytes() == before
        or utils._get_schema_version(utils.create_sqlalchemy_engine(f"sqlite:///{here}")) == _mlflow._schema().revision
    )
    tell(MlflowRuns(f"sqlite:///{here}"), run_info(tmp_path))
    assert_tracked(here)


def newer(path, revision="f00f00f00f00"):
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("INSERT INTO alembic_version VALUES (?)", [revision])
        database.commit()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (newer, "was made by a newer MLflow"),
        (lambda path: newer(path, "v3.0.0.a"), "or by another program"),
        (
            lambda path: path.write_text("not a database at all, though it is long enough for its first page" * 99),
            "mv ",
        ),
        (lambda path: path.mkdir(), "is not a file"),
        (os.mkfifo, "is not a file"),
    ],
    ids=["newer", "another program's", "text", "folder", "pipe"],
)
def test_what_is_no_database_of_ours_is_named(tmp_path, make, words):
    file = tmp_path / "mlflow.db"
    make(file)
    os.utime(file, (0, 0))
    began = time.monotonic()
    with pytest.raises(NeedsRepair, match=re.escape(words)):
        complete_database(file, _mlflow._schema())
    assert time.monotonic() - began < 5
    assert os.listdir(tmp_path) == ["mlflow.db"]


def test_an_empty_file_is_filled(tmp_path, quick):
    file = tmp_path / "mlflow.db"
    file.touch()
    complete_database(file, quick)
    tell(MlflowRuns(f"sqlite:///{file}"), run_info(tmp_path))
    assert_tracked(file)
    assert not list(tmp_path.glob("*before*"))


# Places --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_any_path_will_do(tmp_path, quick, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    name = "a folder/50% o'ff $HOME ü/my flow.db"
    if relative:  # once with MLflow's own tables
        complete_database(tmp_path / name, quick)
    tell(MlflowRuns(as_address(Path(name) if relative else tmp_path / name)), run_info(tmp_path))
    assert sorted(os.listdir((tmp_path / name).parent)) == ["mlruns", "my flow.db"]
    assert os.listdir(tmp_path) == ["a folder"]
    assert_tracked(tmp_path / name)


def test_a_link_stays_a_link(tmp_path, quick):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mlflow.db").symlink_to("elsewhere/real.db")
    complete_database(tmp_path / "mlflow.db", quick)
    tell(MlflowRuns(f"sqlite:///{tmp_path}/mlflow.db"), run_info(tmp_path))
    assert (tmp_path / "mlflow.db").is_symlink()
    assert_tracked(tmp_path / "elsewhere/real.db")


def test_a_journal_without_its_database_does_no_harm(tmp_path, quick):
    """Someone removed `mlflow.db`, and left the journal of a process that was killed: SQLite would play it back."""
    file = tmp_path / "mlflow.db"
    complete_database(file, quick)
    code = "import os, sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    code += "d.execute('PRAGMA cache_size = 1'); d.execute('BEGIN'); d.execute('CREATE TABLE x (y)')\n"
    code += "d.executemany('INSERT INTO x VALUES (?)', [('z' * 999,)] * 999); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, file], check=True)
    journal = tmp_path / "mlflow.db-journal"
    assert journal.stat().st_size > 512
    file.unlink()
    complete_database(file, quick)
    tell(MlflowRuns(f"sqlite:///{file}"), run_info(tmp_path))
    assert_tracked(file)
    assert (tmp_path / "mlflow.db-journal.old").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(NeedsRepair, match=r"/proc/mlflow\.db cannot be written"):
        complete_database(Path("/proc/mlflow.db"), _mlflow._schema())


def fill_the_disk(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        complete_database(folder / "mlflow.db", _mlflow._schema())
    except NeedsRepair as error:
        os._exit(0 if "cannot be written" in str(error) and "Make room" in str(error) else 1)
    os._exit(2)


def test_a_disk_that_is_full_is_named_and_nothing_is_left(tmp_path):
    process = in_process(fill_the_disk, tmp_path)
    process.join()
    assert process.exitcode == 0
    assert os.listdir(tmp_path) == []
