"""The scaling of a run with its cluster: measured on two cores, simulated beyond.

    python jobs/bench/bench_scaling.py measure --out scaling.json
    python jobs/bench/bench_scaling.py simulate --gpus 8 --gpus 64 --gpus 512 --out simulated.json

`measure` carries out the same run on one and on two nodes of one core each, with a head that takes no members. Each
node is bound to a core of its own; the driver and the head use both cores. Efficiency is the time on one node over
twice the time on two, from the first dispatch to the last outcome.

`simulate` runs the real coordinator (search, schedule, journal, selection, bundle) against members that take virtual
time: the CPU seconds of the driver's one thread are measured and added to the clock, training is lognormal.
A journal entry also costs its wait for storage, measured on the temporary folder's disk or at the address `--journal`
(`s3://bucket/folder`). MLflow is a thread that takes `--logging-ms` a member, which `bench_tracking.py` measures.
`training` is the share of GPU time, from the first dispatch to the last outcome, in which members train. `without the
driver` is that share if the driver took no time: the rest is idle only because the last members end at different times.
The network and Ray's own head are not simulated.
"""

from __future__ import annotations

import heapq
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).parents[1] / "drill"))  # clusters and services are defined there

RUNNER = '''
"""A cluster of any size, in virtual time. What the coordinator does between two packs is measured."""

import heapq
import random
import time
from dataclasses import dataclass
from typing import ClassVar

from distens.records import ObjectHandle, Resources
from distens.runtime._execute import execute


@dataclass
class Simulated:
    dispatch_seconds: ClassVar[float] = 0.002
    sized: ClassVar[bool] = False
    entries: ClassVar[int] = 0

    gpus: int = 8
    mean_seconds: float = 60.0
    spread: float = 0.25
    journal_seconds: float = 0.0
    pack: int = 1

    def __post_init__(self):
        self.now, self.driver_seconds, self.ends, self.durations, self.busy = 0.0, 0.0, [], [], []
        Simulated.last = self

    @property
    def usual(self):
        return Resources()

    def prepare(self, packs):
        pass

    def start(self, shared, also={}):
        self._shared = shared

    def slots(self):
        return self.gpus

    def free(self):
        return max(1, self.gpus - len(self.busy))

    def hold(self, value):
        return ObjectHandle(value)

    def run(self, packs):
        chance, busy, number = random.Random(0), self.busy, 0
        while True:
            while len(busy) < self.gpus:
                began = time.thread_time()
                pack = next(packs, None)
                self._took(time.thread_time() - began)
                if not pack:
                    break
                seconds = self.mean_seconds * chance.lognormvariate(-(self.spread**2) / 2, self.spread)
                self.durations.append(seconds)
                heapq.heappush(busy, (self.now + seconds, number, pack))
                number += 1
            if not busy:
                return
            self.now = max(self.now, busy[0][0])
            done = []
            while busy and busy[0][0] <= self.now:  # all that have ended, as on Ray
                done.append(heapq.heappop(busy)[2])
            came = [answer for pack in done for answer in execute(pack, self._shared, 1)]
            began = time.thread_time()
            yield came
            self._took(time.thread_time() - began)
            self.ends += [self.now] * len(done)

    def _took(self, seconds):
        seconds += Simulated.entries * self.journal_seconds
        Simulated.entries = 0
        self.now += seconds
        self.driver_seconds += seconds

    def stop(self):
        pass
'''

MEMBER = '''
"""Predicts the same probabilities for every row: a member that costs nothing."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from distens.records import State


@dataclass
class Drawn:
    uses_gpu: ClassVar[bool] = False

    rate: float = 1.0
    depth: int = 1
    width: int = 1
    dropout: float = 0.0
    decay: float = 1.0
    kind_of: str = "a"

    def fit(self, examples, work):
        self._rates_C = self.rate * np.random.default_rng(work.seed).normal(size=examples.classes)
        return {"parameters": examples.classes, "seconds": 1e-6}

    def predict(self, inputs):
        probs_C = np.exp(self._rates_C - self._rates_C.max())
        return np.tile(probs_C / probs_C.sum(), (len(inputs), 1)).astype(np.float32)

    def state(self):
        return State({"rates_C": self._rates_C})

    def load(self, state):
        self._rates_C = state.arrays["rates_C"]
'''

RANGES = {
    "kind": "drawn:Drawn",
    "rate": {"low": 0.01, "high": 1.0, "log": True},
    "depth": {"low": 1, "high": 8},
    "width": {"low": 16, "high": 512, "log": True},
    "dropout": {"low": 0.0, "high": 0.5},
    "decay": {"low": 1e-6, "high": 1e-2, "log": True},
    "kind_of": {"choices": ["a", "b", "c"]},
}

ENTRIES = 300

app = typer.Typer(add_completion=False)
Out = Annotated[Path | None, typer.Option(help="Also write the figures here, as JSON.")]


@app.command()
def measure(
    members: Annotated[int, typer.Option(help="How many.")] = 32,
    repetitions: Annotated[int, typer.Option(help="Each row is the median of this many runs.")] = 3,
    out: Out = None,
) -> None:
    """Run on one and on two nodes of one core each."""
    import psutil
    from _cluster import Cluster

    cores = sorted(psutil.Process().cpu_affinity())[:2]
    if len(cores) < 2:
        raise SystemExit("two cores are needed")
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for repetition in range(repetitions):  # interleaved, so that a busy moment affects both alike
            for nodes in seconds:
                with Cluster(cpus=0, jobs=False) as cluster:
                    for core in cores[:nodes]:
                        node = cluster.add(cpus=1)
                        for process in (node, *node.children(recursive=True)):
                            process.cpu_affinity([core])
                    asked = {"storage": f"{folder}/{repetition}-{nodes}", "members": members, "seed": repetition}
                    found = _child("train", asked, cluster.env)
                seconds[nodes].append(found["seconds"])
                print(nodes, found, file=sys.stderr, flush=True)
    efficiency = [one / (2 * two) for one, two in zip(seconds[1], seconds[2], strict=True)]
    for nodes, times in seconds.items():
        print(f"{nodes} node(s): {_spread(times)} s for {members} members")
    print(f"efficiency of the second: {_spread(efficiency)}")
    if out is not None:
        out.write_text(json.dumps({"members": members, "seconds": seconds, "efficiency": efficiency}, indent=1))


@app.command()
def simulate(
    gpus: Annotated[list[int] | None, typer.Option(help="How many; give it several times for several rows.")] = None,
    search: Annotated[list[str] | None, typer.Option(help="Kinds of search; repeatable.")] = None,
    per_gpu: Annotated[int, typer.Option(help="Members for each GPU.")] = 4,
    seconds: Annotated[
        list[float] | None, typer.Option(help="The mean training seconds of a member; repeatable.")
    ] = None,
    journal: Annotated[str, typer.Option(help="The address at which to measure an entry's wait for storage.")] = "",
    logging_ms: Annotated[float, typer.Option(help="The cost of logging a member, in a separate thread.")] = 116.0,
    out: Out = None,
) -> None:
    """Run the coordinator against simulated GPUs."""
    import distens

    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        Path(folder, "simulated.py").write_text(RUNNER)
        Path(folder, "drawn.py").write_text(MEMBER)
        found_in = os.pathsep.join([folder, str(Path(distens.__file__).parents[1])])
        environment = {**os.environ, "PYTHONPATH": found_in}
        journal_ms = _waits_ms(f"{journal or folder}/waits-{time.time_ns()}")
        for kind in search or ["random", "gain", "divbo"]:
            for count in gpus or [8, 64, 512]:
                for mean in seconds or [60.0]:
                    asked = {"search": kind, "gpus": count, "members": per_gpu * count, "mean_seconds": mean}
                    given = {**asked, "journal_seconds": journal_ms / 1000, "storage": f"{folder}/{len(rows)}"}
                    found = _child("simulated", given, environment)
                    rows.append({**asked, **_judged(asked, found, logging_ms / 1000)})
                    print(rows[-1], file=sys.stderr, flush=True)
    _show(rows, f"Simulated GPUs, the real coordinator; a journal entry waits {journal_ms:.2g} ms")
    if out is not None:
        out.write_text(json.dumps({"journal_ms": journal_ms, "logging_ms": logging_ms, "rows": rows}, indent=1))


def _waits_ms(url: str) -> float:
    """Return the milliseconds that a journal entry waits for storage: the median of many, without their CPU."""
    from distens.storage.journal import Journal
    from distens.storage.store import Store

    store, waits = Store(url), []
    entries = Journal(store)
    for number in range(ENTRIES):
        began = time.perf_counter() - time.thread_time()
        entries.append({"number": number, "text": "x" * 1000})
        waits.append(1000 * (time.perf_counter() - time.thread_time() - began))
    store.delete()
    return statistics.median(waits)


def _child(kind: str, asked: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "child", json.dumps({"kind": kind, **asked})]
    given = {**environment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=given, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{kind} {asked}: failed")
    return json.loads(done.stdout.splitlines()[-1])


@app.command(hidden=True)
def child(text: str) -> None:
    """Carry out one run, in a process of its own."""
    asked = json.loads(text)
    print(json.dumps({"train": _train, "simulated": _simulated}[asked["kind"]](asked)))


def _train(asked: Mapping[str, Any]) -> dict[str, float]:
    import distens
    from distens.config.config import parse_config

    member = {"kind": "classifier", "model": {"kind": "mlp", "hidden": [256, 256]}, "epochs": 60}
    config = parse_config(
        {
            "name": "scaling",
            "seed": asked["seed"],
            "storage": asked["storage"],
            "data": {"source": "sklearn:digits"},
            "members": {"mlp": {**member, "learning_rate": {"low": 1e-4, "high": 1e-3, "log": True}}},
            "search": {"kind": "random", "members": asked["members"]},
            "runtime": {"kind": "ray_actors", "pack": 1},
            "tracking": "off",
        }
    )
    marks: dict[str, float] = {}

    def watch(update: Any) -> None:
        if update.phase == "search":
            marks.setdefault("first", time.perf_counter())
            if update.outcome is not None:
                marks["last"] = time.perf_counter()

    began = time.perf_counter()
    distens.run(config, watch)
    return {"seconds": marks["last"] - marks["first"], "whole": time.perf_counter() - began}


def _simulated(asked: Mapping[str, Any]) -> dict[str, Any]:
    import distens
    from distens import registry
    from distens.config.config import parse_config
    from distens.storage.journal import Journal

    runtime = {name: asked[name] for name in ("gpus", "mean_seconds", "journal_seconds")}
    config = parse_config(
        {
            "name": "simulated",
            "storage": asked["storage"],
            "data": {"source": "sklearn:digits"},
            "members": {"drawn": RANGES},
            "search": {"kind": asked["search"], "members": asked["members"]},
            "runtime": {"kind": "simulated:Simulated", **runtime},
            "tracking": "off",
        }
    )
    searcher: Any = registry.find_plugin("search", asked["search"], "search")
    propose, proposing = searcher.propose, [0.0]

    def timed(*given: Any, **named: Any) -> Any:
        began = time.thread_time()
        found = propose(*given, **named)
        proposing[0] += time.thread_time() - began
        return found

    searcher.propose = timed
    simulated: Any = registry.find_plugin("runtime", "simulated:Simulated", "runtime")
    append = Journal.append

    def counted(self: Journal, *entries: Any) -> None:
        simulated.entries += 1
        append(self, *entries)

    Journal.append = counted
    marks: dict[str, float] = {}

    def watch(update: Any) -> None:
        if update.phase == "search":
            marks["last"] = time.thread_time()

    distens.run(config, watch)
    runner = simulated.last
    return {
        "ends": runner.ends,
        "durations": runner.durations,
        "driver_seconds": runner.driver_seconds,
        "proposing_seconds": proposing[0],
        "finish_seconds": time.thread_time() - marks["last"],
    }


def _judged(asked: Mapping[str, Any], found: Mapping[str, Any], logging_seconds: float) -> dict[str, Any]:
    """Return the times of a simulated run, and its first bottleneck."""
    gpus, ends, durations = asked["gpus"], found["ends"], found["durations"]
    wall, free = max(ends), _without_driver(durations, gpus)
    logged = 0.0
    for end in ends:  # in order, as one thread logs them
        logged = max(logged, end) + logging_seconds
    driver, waiting = found["driver_seconds"], max(0.0, logged - wall)
    shares = {
        "the search's proposals": found["proposing_seconds"] / wall,
        "the journal and all else in the driver": (driver - found["proposing_seconds"]) / wall,
        "MLflow": logging_seconds * len(ends) / wall,
    }
    return {
        "search_seconds": wall,
        "training": sum(durations) / (gpus * wall),
        "training_without_driver": sum(durations) / (gpus * free),
        "driver_busy": driver / wall,
        "proposing": found["proposing_seconds"] / wall,
        "logging_busy": shares["MLflow"],
        "waits_for_logging_seconds": waiting,
        "finish_seconds": found["finish_seconds"],
        "first_bottleneck": max(shares, key=lambda name: shares[name]),
    }


def _without_driver(durations: Sequence[float], gpus: int) -> float:
    """Return the time at which the last member would end if each started as soon as a GPU is free."""
    free = [0.0] * gpus
    for seconds in durations:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def _show(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in (
        *("search", "GPUs", "members", "s each", "search s", "training", "without the driver"),
        *("driver busy", "of it proposing", "logging busy", "waits for it s", "end s", "first bottleneck"),
    ):
        table.add_column(heading, justify="left" if heading in ("search", "first bottleneck") else "right")
    for row in rows:
        shares = ("training", "training_without_driver", "driver_busy", "proposing", "logging_busy")
        table.add_row(
            *(row["search"], str(row["gpus"]), str(row["members"]), f"{row['mean_seconds']:g}"),
            f"{row['search_seconds']:.0f}",
            *(f"{row[name]:.1%}" for name in shares),
            *(f"{row['waits_for_logging_seconds']:.1f}", f"{row['finish_seconds']:.1f}", row["first_bottleneck"]),
        )
    Console(width=170).print(table)


if __name__ == "__main__":
    app()
