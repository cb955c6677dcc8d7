"""Drills for MLflow's database: first runs that are stopped, and several first runs at once, in fresh folders.

    python jobs/drill/databases.py

A first run is stopped by Ctrl-C after 1 to 10 seconds, ten times, each in a folder of its own. Then eight runs start at
once in a fresh folder, five times. No database may be broken, and every run that ended well must be tracked in full.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

MEMBERS = 4

CONFIG = {
    "name": "first",
    "data": {"source": "sklearn:iris", "splits": {"train": 0.4, "search": 0.2, "combine": 0.2, "test": 0.2}},
    "members": {"neighbours": {"kind": "estimator", "estimator": "k_nearest_neighbours"}},
    "search": {"kind": "random", "members": MEMBERS},
    "runtime": "inline",
    "storage": "runs",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the drills, print a line for each; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=10, help="first runs to stop")
    parser.add_argument("--together", type=int, default=8, help="runs that start at once")
    parser.add_argument("--times", type=int, default=5, help="how often they do")
    options = parser.parse_args(arguments)
    wrong = sum(_drill(f"Ctrl-C after {seconds} s", _stopped, seconds) for seconds in range(1, options.stops + 1))
    wrong += sum(_drill(f"{options.together} at once", _together, options.together) for _ in range(options.times))
    print(f"{wrong} of {options.stops + options.times} went wrong")
    return 1 if wrong else 0


def _drill(name: str, drill, number: int) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="databases-"))
    began = time.monotonic()
    try:
        found = drill(folder, number)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{name}: {found or 'fine'} ({time.monotonic() - began:.0f} s)", flush=True)
    return bool(found)


def _stopped(folder: Path, seconds: int) -> str:
    """Stop a first run; return what is wrong with the database, or with the run when it was repeated."""
    first = _start(folder, 0)
    time.sleep(seconds)
    first.send_signal(signal.SIGINT)
    first.wait()
    if (folder / "mlflow.db").exists() and (broken := _broken(folder)):
        return f"after the stop: {broken}"
    _start(folder, 0, "--resume").wait()
    return _broken(folder) or _missing(folder, [0])


def _together(folder: Path, count: int) -> str:
    """Start runs at once; return what is wrong with the database or the records."""
    runs = [_start(folder, seed) for seed in range(count)]
    codes = [run.wait() for run in runs]
    if any(codes):
        return f"exit codes {codes}: {(folder / 'log').read_text()[-500:]}"
    return _broken(folder) or _missing(folder, range(count))


def _start(folder: Path, seed: int, *options: str) -> subprocess.Popen[bytes]:
    (folder / "config.yaml").write_text(json.dumps(CONFIG))
    command = [sys.executable, "-m", "distens.cli", "run", "config.yaml", "--set", f"seed={seed}", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**environment, "OMP_NUM_THREADS": "1"}
        )


def _broken(folder: Path) -> str:
    """Return what keeps MLflow from using the database; an empty text if nothing does."""
    code = "import sys; from mlflow import MlflowClient; MlflowClient(*sys.argv[1:]).search_experiments()"
    uri = f"sqlite:///{folder}/mlflow.db"
    done = subprocess.run([sys.executable, "-c", code, uri, uri], capture_output=True, text=True, check=False)
    return done.stderr[-300:] if done.returncode else ""


def _missing(folder: Path, seeds: Sequence[int]) -> str:
    """Return the records that the database lacks: of each run its end, and a child for every member."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        query = "SELECT r.run_uuid, r.status, t.value FROM runs r JOIN tags t USING (run_uuid) WHERE t.key = ?"
        runs = {storage: (number, status) for number, status, storage in database.execute(query, ["distens.storage"])}
        children = [parent for (parent,) in database.execute("SELECT value FROM tags WHERE key = 'mlflow.parentRunId'")]
    found = [(status, children.count(number)) for number, status in runs.values()]
    expected = [("FINISHED", MEMBERS)] * len(seeds)
    return "" if found == expected else f"expected {expected}, found {found}"


if __name__ == "__main__":
    sys.exit(main())
