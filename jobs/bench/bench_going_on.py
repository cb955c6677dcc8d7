"""Going on with a finished run: the seconds of deciding anew and of adding members, beside those of the run itself.

    python jobs/bench/bench_going_on.py --members 200 --add 5

A run of small networks and trees on breast_cancer, in one process and untracked; then the run goes on, step by step.
Every step is a command of its own, start of Python included, with one thread; CPU seconds are those of that process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = (
    ["select=quadratic"],
    ["combine=stack"],
    ["metric=error"],
    ["calibrate=none"],
    ["distill=student"],
    ["baselines=[larger_single]"],
)


def config(folder: Path, members: int) -> dict[str, Any]:
    """Return the config of the run."""
    network = {
        "kind": "classifier",
        "model": {"kind": "mlp", "hidden": {"choices": [[16], [32], [64]]}},
        "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
        "epochs": 10,
    }
    return {
        "name": "bench",
        "storage": str(folder),
        "data": {"source": "sklearn:breast_cancer"},
        "members": {"network": network, "forest": {"kind": "estimator", "estimator": "random_forest"}},
        "search": {"kind": "random", "members": members},
        "runtime": "inline",
        "tracking": "off",
    }


def measure(*words: str) -> tuple[float, float]:
    """Return wall and CPU seconds of a command of distens."""
    began, before = time.monotonic(), os.times()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "distens.cli", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, cpu


def finished(run: Path) -> list[str]:
    """Return the names of the tasks that finished, in order."""
    entries = [entry for file in sorted((run / "journal").iterdir()) for entry in json.loads(file.read_text())]
    return [entry["report"]["task_id"] for entry in entries if "report" in entry]


def main() -> None:
    """Print a line for the run, and one for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=200)
    parser.add_argument("--add", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file, storage = Path(folder, "bench.yaml"), Path(folder, "runs")
        file.write_text(json.dumps(config(storage, given.members)))
        print(f"{'':32}{'wall s':>8}{'CPU s':>8}  trained")
        wall, cpu = measure("run", str(file))
        (run,) = storage.iterdir()
        before = finished(run)
        print(f"{'the run':32}{wall:8.1f}{cpu:8.1f}  {len(before)} tasks")
        for step in (*STEPS, [f"search.members={given.members + given.add}"]):
            wall, cpu = measure("resume", str(run), *[word for change in step for word in ("--set", change)])
            names = finished(run)[len(before) :]
            before += names
            print(f"{' '.join(step):32}{wall:8.1f}{cpu:8.1f}  {', '.join(names) or 'none'}")


if __name__ == "__main__":
    main()
