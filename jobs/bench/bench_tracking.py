"""The cost of logging a run to MLflow, and its completeness after an outage of the server.

    python jobs/bench/bench_tracking.py --members 1000 --actors 16 --out tracking.json
    python jobs/bench/bench_tracking.py --members 1000 --actors 16 --outage 120

A run whose members only wait, on Ray actors, is logged to `mlflow server` on PostgreSQL with its artifacts in an S3
store. All of them are processes of this machine that the script starts and ends; with `--uri` it logs to an existing
server (which cannot be stopped then). Members wait so that 16 actors fit on few cores; logging does the same as for
members that train.

`logging s` is the time in which at least one of the driver's logging threads was at work while members trained, and its
share. `after the last member` is the time that the run waited for logging at the end, when it also sends what is due
only then (weights, figures, models). CPU is given for the driver's logging threads, and for the server with its
workers. Requests are those of MLflow's client. In the end everything is read back: each member's run has to exist once,
finished, with its numbers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).parents[1] / "drill"))  # clusters and services are defined there

from _services import Process, mlflow_server, postgresql, s3

MEMBER = '''
"""Waits, and predicts the same probabilities for every row."""

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from distens.records import State


@dataclass
class Waiting:
    uses_gpu: ClassVar[bool] = False

    rate: float = 1.0
    wait_seconds: float = 1.0

    def __post_init__(self):
        self._classes = 0

    def fit(self, examples, work):
        time.sleep(self.wait_seconds)
        self._classes = examples.classes
        return {"parameters": self._classes, "seconds": self.wait_seconds}

    def predict(self, inputs):
        logits_C = self.rate * np.arange(self._classes)
        probs_C = np.exp(logits_C - logits_C.max())
        return np.tile(probs_C / probs_C.sum(), (len(inputs), 1)).astype(np.float32)

    def state(self):
        return State({"classes": np.array([self._classes])})

    def load(self, state):
        self._classes = int(state.arrays["classes"][0])
'''


def main(
    members: Annotated[int, typer.Option(help="How many.")] = 1000,
    actors: Annotated[int, typer.Option(help="The number of actors.")] = 16,
    seconds: Annotated[float, typer.Option(help="The seconds that each member trains (waits).")] = 2.0,
    outage: Annotated[float, typer.Option(help="Stop the server for this many seconds, half way.")] = 0.0,
    uri: Annotated[str, typer.Option(help="An existing server, instead of a new one.")] = "",
    out: Annotated[Path | None, typer.Option(help="Also write the figures here, as JSON.")] = None,
    child: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print a table; write it as JSON with --out."""
    if child:
        _run(json.loads(child))
        return
    if uri and outage:
        raise SystemExit("--outage stops the server, so it has to be ours: leave out --uri")
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user
        server = None
        if not uri:
            database = stack.enter_context(postgresql(folder))
            environment = stack.enter_context(s3(folder, ["mlflow"]))
            server, uri = mlflow_server(folder, database, "s3://mlflow/artifacts", environment)
            stack.enter_context(server)
        asked = {"members": members, "actors": actors, "seconds": seconds, "storage": str(folder / "runs")}
        found = _measured(asked, uri, folder, server, outage)
        found = {**asked, "outage_seconds": outage, **found, **_asked_back(uri, asked)}
    _show(found)
    if out is not None:
        out.write_text(json.dumps(found, indent=1))
    if found["missing"] or found["doubled"] or found["unfinished"]:
        raise SystemExit("MLflow does not have what was logged")


def _measured(asked: dict[str, Any], uri: str, folder: Path, server: Process | None, outage: float) -> dict[str, float]:
    """Carry out the run in a process of its own; stop and restart the server in the middle of it."""
    import distens

    (folder / "waiting.py").write_text(MEMBER)
    found_in = os.pathsep.join([str(folder), str(Path(distens.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": found_in, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": uri}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, __file__, "--child", json.dumps(asked)]
    before = _server_cpu(server)
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        found: dict[str, float] = {}
        for line in run.stdout:
            if line.startswith("half") and outage and server is not None:
                before -= _server_cpu(server)
                server.stop()
                print(f"the server is away for {outage:g} s", file=sys.stderr, flush=True)
                time.sleep(outage)
                server.start()
                before += _server_cpu(server)
            elif line.startswith("{"):
                found = json.loads(line)
            elif line.startswith("note: "):
                print(line, end="", file=sys.stderr, flush=True)
    if run.returncode or not found:
        raise SystemExit(f"the run failed ({run.returncode})")
    return {**found, "server_cpu_seconds": _server_cpu(server) - before}


def _server_cpu(server: Process | None) -> float:
    """Return the CPU seconds that a server and its workers have taken."""
    import psutil

    if server is None or server.pid is None:
        return 0.0
    parent = psutil.Process(server.pid)
    times = [one.cpu_times() for one in (parent, *parent.children(recursive=True))]
    return sum(one.user + one.system for one in times)


# In the process of the run --------------------------------------------------------------------------------------------


class Meter:
    """A meter of the logging threads: the time in which one was at work, their CPU, and requests to the server."""

    def __init__(self) -> None:
        self.cpu = self._before = self._since = 0.0
        self._busy, self._lock = 0, threading.Lock()
        self.requests = self.failed = 0

    @property
    def seconds(self) -> float:
        """Return the seconds in which at least one thread was at work, up to now."""
        return self._before + (time.perf_counter() - self._since if self._busy else 0.0)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Add the time of the body."""
        cpu = time.thread_time()
        with self._lock:
            self._since = self._since if self._busy else time.perf_counter()
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._before, self._busy = self.seconds if self._busy == 1 else self._before, self._busy - 1
                self.cpu += time.thread_time() - cpu

    def install(self) -> None:
        """Measure the tracker's threads from now on."""
        import requests

        from distens.tracking._sender import Sender

        begin, put, send = Sender.__init__, Sender.put, requests.Session.send
        meter = self

        def measured(call: Any) -> Any:
            def timed(*arguments: Any) -> Any:
                with meter.busy():
                    return call(*arguments)

            return timed

        def measured_begin(sender: Any, connect: Any, **options: Any) -> None:
            begin(sender, measured(connect), **options)

        def measured_put(sender: Any, label: str, record: Any, **options: Any) -> None:
            put(sender, label, measured(record), **options)

        def counted(session: Any, request: Any, **options: Any) -> Any:
            if threading.current_thread().name == "distens-tracking":
                meter.requests += 1
                try:
                    return send(session, request, **options)
                except Exception:
                    meter.failed += 1
                    raise
            return send(session, request, **options)

        Sender.__init__, Sender.put = measured_begin, measured_put  # pyright: ignore[reportAttributeAccessIssue]
        requests.Session.send = counted  # pyright: ignore[reportAttributeAccessIssue]


def _run(asked: dict[str, Any]) -> None:
    import ray

    import distens
    from distens.config.config import parse_config

    values = {
        "name": "bench",
        "storage": asked["storage"],
        "data": {"source": "sklearn:iris"},
        "members": {
            "waiting": {
                "kind": "waiting:Waiting",
                "rate": {"low": -1.0, "high": 1.0},
                "wait_seconds": asked["seconds"],
            }
        },
        "search": {"kind": "random", "members": asked["members"]},
        "runtime": {"kind": "ray_actors", "pack": 1},
        "tracking": {"kind": "mlflow_runs", "wait_seconds": 300.0},
    }
    meter = Meter()
    meter.install()
    ray.init(address="local", num_cpus=asked["actors"], include_dashboard=False, log_to_driver=False)
    marks: dict[str, Any] = {}

    def watch(update: Any) -> None:
        if update.phase != "search" or update.outcome is None:
            return
        done, now = update.finished + update.failed, time.monotonic()
        marks.setdefault("first", (now, meter.seconds))
        if done == asked["members"] // 2:
            print("half", flush=True)
        if done == asked["members"]:
            marks["last"] = (now, meter.seconds)

    result = distens.run(parse_config(values), watch)
    ended, (first, logged_first), (last, logged_last) = time.monotonic(), marks["first"], marks["last"]
    for note in result.notes:
        print(f"note: {note}", flush=True)
    found = {
        "search_seconds": last - first,
        "logging_seconds_in_search": logged_last - logged_first,
        "logging_share": (logged_last - logged_first) / (last - first),
        "after_last_member_seconds": ended - last,
        "logging_seconds": meter.seconds,
        "logging_cpu_seconds": meter.cpu,
        "requests": meter.requests,
        "requests_failed": meter.failed,
    }
    print(json.dumps(found), flush=True)


# The runs in MLflow ---------------------------------------------------------------------------------------------------


def _asked_back(uri: str, asked: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of members' runs that are missing, duplicate, unfinished or without their metrics."""
    from collections import Counter

    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("bench")
    assert experiment is not None, "nothing was logged"
    found, token = [], None
    while token is not None or not found:
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    children = [run for run in found if run.data.tags.get("distens.purpose") == "search"]
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    counts = Counter(run.data.tags["distens.task"] for run in children)
    whole = [run for run in children if run.info.status == "FINISHED" and {"nll", "seconds"} <= set(run.data.metrics)]
    return {
        "runs": len(children),
        "missing": asked["members"] - len(counts),
        "doubled": len(children) - len(counts),
        "unfinished": len(children) - len(whole) + sum(run.info.status != "FINISHED" for run in parents),
    }


def _show(found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    per = found["members"]
    away = f", the server away for {found['outage_seconds']:g} s" if found["outage_seconds"] else ""
    table = Table(title=f"{per} members, {found['actors']} actors{away}", show_header=False)
    rows = {
        "first to last member, s": f"{found['search_seconds']:.1f}",
        "logging in that time, s": f"{found['logging_seconds_in_search']:.1f} ({found['logging_share']:.0%})",
        "after the last member, s": f"{found['after_last_member_seconds']:.1f}",
        "logging in all, ms/member": f"{1000 * found['logging_seconds'] / per:.1f}",
        "driver's CPU for it, ms/member": f"{1000 * found['logging_cpu_seconds'] / per:.1f}",
        "server's CPU, ms/member": f"{1000 * found['server_cpu_seconds'] / per:.1f}",
        "requests/member": f"{found['requests'] / per:.2f} ({found['requests_failed']} failed)",
        "runs in MLflow": f"{found['runs']}: {found['missing']} missing, {found['doubled']} twice, "
        f"{found['unfinished']} not whole",
    }
    for name, cell in rows.items():
        table.add_row(name, cell)
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
