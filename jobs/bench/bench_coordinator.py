"""The cost of a member besides its training: members learn nothing, so that only the coordinator's cost remains.

    python jobs/bench/bench_coordinator.py --out coordinator.json
    python jobs/bench/bench_coordinator.py --members 1000 --pack 1 --pack auto

Every row is a run of its own in a fresh process: `search: random` over one range, the Ray runner, no tracking, no
student and no baselines, every outcome printed as a line (to a file). The member kind is a class in a file beside the
runs, `kind: constant:Constant`, like a user's own; it predicts the same probabilities for every row. The last row gives
functions of the same cost to Ray Tune (`reuse_actors`), which keeps no predictions.

CPU is the driver's own (all its threads). It is given from the first dispatch to the last outcome, which includes the
start of Ray's first actors; without the first 100 members, which excludes it; and over the whole run with selection,
figures, page and bundle, most of whose cost is the same for any number of members. Memory is the growth of the driver's
resident set after the first 100 members: to the last outcome, and to the end of the run, when the libraries for figures
are loaded.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

MEMBER = '''
"""Predicts the same probabilities for every row: a member that costs nothing."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from distens.records import State


@dataclass
class Constant:
    uses_gpu: ClassVar[bool] = False

    rate: float = 1.0

    def __post_init__(self):
        self._classes = 0

    def fit(self, examples, work):
        self._classes = examples.classes
        return {"parameters": self._classes, "seconds": 1e-6}

    def predict(self, inputs):
        logits_C = self.rate * np.arange(self._classes)
        probs_C = np.exp(logits_C - logits_C.max())
        return np.tile(probs_C / probs_C.sum(), (len(inputs), 1)).astype(np.float32)

    def state(self):
        return State({"classes": np.array([self._classes])})

    def load(self, state):
        self._classes = int(state.arrays["classes"][0])
'''

TUNE = "Ray Tune, function trials"


def main(
    members: Annotated[list[int] | None, typer.Option(help="How many; give it several times for several rows.")] = None,
    pack: Annotated[list[str] | None, typer.Option(help="`auto` or how many members are dispatched at once.")] = None,
    tune: Annotated[int, typer.Option(help="Trials of Ray Tune; 0 leaves that row out.")] = 200,
    repetitions: Annotated[int, typer.Option(help="Each row is the median of this many runs.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Also write the table here, as JSON.")] = None,
    child: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print the table; write it as JSON with --out."""
    if child:
        _measure(json.loads(child))
        return
    asked = [{"members": m, "pack": p} for m in members or (1000, 10_000) for p in pack or ("auto",)]
    asked += [{"members": tune, "pack": TUNE}] * bool(tune)
    found: list[list[dict[str, float]]] = [[] for _ in asked]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        Path(folder, "constant.py").write_text(MEMBER)
        for repetition in range(repetitions):  # interleaved, so that a busy moment affects all rows alike
            for row, results in zip(asked, found, strict=True):
                results.append(_in_a_process(row, Path(folder), repetition))
                print(row, results[-1], file=sys.stderr, flush=True)
    rows = [{**row, "runs": results, "median": _medians(results)} for row, results in zip(asked, found, strict=True)]
    _show(rows)
    if out is not None:
        out.write_text(json.dumps(rows, indent=1))


def _in_a_process(row: dict[str, Any], folder: Path, repetition: int) -> dict[str, float]:
    import distens

    asked = {**row, "storage": str(folder / "runs"), "seed": repetition}
    found_in = os.pathsep.join([str(folder), str(Path(distens.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": found_in, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, __file__, "--child", json.dumps(asked)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{row}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _medians(results: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(r[name] for r in results) for name in results[0]}


class Meter:
    """A meter of the process's CPU and wall seconds, without those of reading it, and of its resident megabytes."""

    spent = (0.0, 0.0)

    def __init__(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.wall, self.cpu = wall - Meter.spent[0], cpu - Meter.spent[1]
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.megabytes = pages * resource.getpagesize() / 2**20
        spent_wall, spent_cpu = time.perf_counter() - wall, time.process_time() - cpu
        Meter.spent = (Meter.spent[0] + spent_wall, Meter.spent[1] + spent_cpu)


def _measure(asked: dict[str, Any]) -> None:
    print(json.dumps(_tuned(asked) if asked["pack"] == TUNE else _run(asked)))


def _run(asked: dict[str, Any]) -> dict[str, float]:
    import ray

    import distens
    from distens.cli.live import print_line
    from distens.config.config import parse_config

    members = asked["members"]
    pack = asked["pack"] if asked["pack"] == "auto" else int(asked["pack"])
    config = parse_config(
        {
            "name": f"bench-{members}-{asked['pack']}",
            "seed": asked["seed"],
            "storage": asked["storage"],
            "data": {"source": "sklearn:iris"},
            "members": {"constant": {"kind": "constant:Constant", "rate": {"low": -1.0, "high": 1.0}}},
            "search": {"kind": "random", "members": members},
            "runtime": {"kind": "ray_actors", "pack": pack},
            "tracking": "off",
        }
    )
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    marks: dict[str, Meter] = {}
    lines, terminal = open(f"{asked['storage']}.log", "w"), sys.stdout  # noqa: SIM115

    def watch(update: Any) -> None:
        print_line(update)
        if update.phase == "search":
            if "first" not in marks:
                marks["first"] = Meter()
            done = update.finished + update.failed
            if update.outcome and done == min(100, members // 2):
                marks["warm"] = Meter()
            if update.outcome and done == members:
                marks["last"] = Meter()

    sys.stdout = lines
    began = Meter()
    try:
        result = distens.run(config, watch, overwrite=True)
    finally:
        sys.stdout = terminal
    end = Meter()
    first, warm, last = marks["first"], marks["warm"], marks["last"]
    journal = list(Path(result.path, "journal").iterdir())
    return {
        "cpu_ms": 1000 * (last.cpu - first.cpu) / members,
        "cpu_ms_after_100": 1000 * (last.cpu - warm.cpu) / (members - min(100, members // 2)),
        "run_cpu_ms": 1000 * (end.cpu - began.cpu) / members,
        "finish_cpu_seconds": end.cpu - last.cpu,
        "wall_ms": 1000 * (last.wall - first.wall) / members,
        "growth_mb": last.megabytes - warm.megabytes,
        "run_growth_mb": end.megabytes - warm.megabytes,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "journal_files": len(journal) / members,
        "journal_bytes": sum(file.stat().st_size for file in journal) / members,
    }


def _tuned(asked: dict[str, Any]) -> dict[str, float]:
    import logging

    import ray
    from ray import tune

    members = asked["members"]
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    marks: list[Meter] = []

    class Watch(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            marks.append(Meter())

    def constant(config: dict[str, float]) -> None:
        tune.report({"nll": config["rate"] ** 2})

    terminal, sys.stdout = sys.stdout, sys.stderr
    tuner = tune.Tuner(
        tune.with_resources(constant, {"cpu": 1}),
        param_space={"rate": tune.uniform(-1.0, 1.0)},
        tune_config=tune.TuneConfig(num_samples=members, metric="nll", mode="min", reuse_actors=True),
        run_config=tune.RunConfig(storage_path=asked["storage"], verbose=0, callbacks=[Watch()]),
    )
    began = Meter()
    tuner.fit()
    end = Meter()
    sys.stdout = terminal
    warm = marks[members // 2 - 1]
    return {
        "cpu_ms": 1000 * (marks[-1].cpu - began.cpu) / members,
        "cpu_ms_after_100": 1000 * (marks[-1].cpu - warm.cpu) / (members - members // 2),
        "run_cpu_ms": 1000 * (end.cpu - began.cpu) / members,
        "wall_ms": 1000 * (marks[-1].wall - began.wall) / members,
        "growth_mb": marks[-1].megabytes - warm.megabytes,
        "run_growth_mb": end.megabytes - warm.megabytes,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


COLUMNS = {
    "cpu_ms": "CPU ms/member",
    "cpu_ms_after_100": "after the first 100",
    "run_cpu_ms": "whole run",
    "wall_ms": "wall ms/member",
    "growth_mb": "memory growth MB",
    "run_growth_mb": "whole run",
    "journal_files": "journal files/member",
    "journal_bytes": "bytes/member",
}


def _show(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="The driver's cost of one member (median; least to most)")
    for heading in ("members", "pack", *COLUMNS.values()):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [str(row["members"]), str(row["pack"])]
        for name in COLUMNS:
            values = [run[name] for run in row["runs"] if name in run]
            spread = f"\n({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
            cells.append(f"{row['median'][name]:.3g}{spread}" if values else "–")
        table.add_row(*cells)
    Console(width=150).print(table)


if __name__ == "__main__":
    typer.run(main)
