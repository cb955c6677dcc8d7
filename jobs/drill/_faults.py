"""Faults that are really caused to a run on a cluster: by drills, by the soak and by tests alike."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from _cluster import Cluster
from _drill_run import LONGEST_SECONDS, Run
from _hosts import Hosts

AWAY_SECONDS = 10.0

TIMEOUT_SECONDS = 30
"""`runtime.timeout_seconds` for a member that hangs."""


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        happens: causes the fault at once, and returns when it is over and repaired. It may return a text on the fault's
            effect on the run, if the run's end does not show it.
        before: prepares the fault when the run starts.
        codes: the exit codes of the run's drivers.
        named: the number of members that fail by design.
        overrides: overrides of the run's config.
        node: options of the nodes (see `Cluster.add`).
        needs: `mlflow`, `tmpfs`, `s3` or `hosts`.
    """

    happens: Callable[[Cluster, Run], str | None]
    codes: tuple[int, ...] = (0,)
    named: int = 0
    overrides: tuple[str, ...] = ()
    node: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
    before: Callable[[Cluster, Run], None] | None = None


def actor(cluster: Cluster, run: Run) -> None:
    """Kill a training process."""
    while True:  # there may be none for a moment, between two of them
        found = cluster.actors()
        if found or run.ended():
            break
        time.sleep(0.05)
    with suppress(psutil.NoSuchProcess, IndexError):
        run.rng.choice(found).kill()


def node(cluster: Cluster, run: Run) -> None:
    """Kill a node as a loss of power would; start another one later."""
    cluster.kill(run.rng.choice(cluster.nodes))
    time.sleep(AWAY_SECONDS)
    cluster.add()


def driver(cluster: Cluster, run: Run) -> None:
    """Kill the driver."""
    with suppress(psutil.NoSuchProcess):  # the driver may have ended by itself
        run.driver.kill()


def stop(cluster: Cluster, run: Run) -> None:
    """Ask the driver to stop."""
    with suppress(psutil.NoSuchProcess):
        run.driver.terminate()


def crash(cluster: Cluster, run: Run) -> None:
    """Let a member raise an error in every attempt."""
    run.tell("crash")


def diverge(cluster: Cluster, run: Run) -> None:
    """Let a member's loss become NaN."""
    run.tell("diverge")


def hang(cluster: Cluster, run: Run) -> None:
    """Let a member hang."""
    run.tell("hang")


def memory(cluster: Cluster, run: Run) -> None:
    """Let a member allocate more memory than there is."""
    run.tell("memory")


def mlflow(cluster: Cluster, run: Run) -> None:
    """Kill the tracking server, and start it again later."""
    assert run.mlflow is not None
    run.mlflow.stop(signal.SIGKILL)
    time.sleep(AWAY_SECONDS)
    run.mlflow.start()


NEIGHBOUR = """
import sys, numpy, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(log_to_driver=False)
@ray.remote(num_cpus=0)
class Full:
    def fill(self, mib):
        self.held = [ray.put(numpy.ones(1 << 20)) for _ in range(mib // 8)]
here = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
full = [Full.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n, soft=False)).remote() for n in here]
line = "0"
while line:
    ray.get([one.fill.remote(int(line)) for one in full])
    print("full", flush=True)
    line = sys.stdin.readline()
"""

STORE_MIB = 100

PAGE_BYTES = 4096
MOST_PAGES = 20
"""The most pages left free on a full disk: a journal entry takes one, a member a few."""


def neighbour(cluster: Cluster, run: Run) -> None:
    """Start another driver, with an actor on every node."""
    run.neighbour = subprocess.Popen(
        [sys.executable, "-c", NEIGHBOUR],
        env=cluster.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def objects(cluster: Cluster, run: Run) -> str:
    """Let a neighbour on the same cluster overfill every node's object store, until two members have finished.

    A training process is killed, too, so that the data have to be sent to another one while there is no room for them.
    """
    assert run.neighbour is not None and run.neighbour.stdin is not None and run.neighbour.stdout is not None
    run.neighbour.stdout.readline()
    run.neighbour.stdin.write(f"{STORE_MIB * 3}\n")
    run.neighbour.stdin.flush()
    run.neighbour.stdout.readline()
    stats = re.search(r"Spilled (\d+) MiB", cluster.ray("memory", "--stats-only").stdout)
    before = len(run.ledger().finished("search"))
    actor(cluster, run)
    while not run.ended() and len(run.ledger().finished("search")) < before + 2:
        time.sleep(0.1)
    run.neighbour.kill()
    came = len(run.ledger().finished("search")) - before
    return f"{stats[1] if stats else 0} MiB spilled, {came} members finished meanwhile"


def disk(cluster: Cluster, run: Run) -> None:
    """Fill the run's storage except for a few pages, and free it when the run has ended."""
    filler = Path(run.storage, "filler")
    with filler.open("wb", buffering=0) as out:
        with suppress(OSError):
            while True:
                out.write(bytes(PAGE_BYTES))
        out.truncate(out.tell() - run.rng.randint(0, MOST_PAGES) * PAGE_BYTES)
    run.driver.wait(LONGEST_SECONDS)
    filler.unlink()


def _storage(mode: str) -> Callable[[Cluster, Run], str]:
    def happens(cluster: Cluster, run: Run) -> str:
        assert run.proxy is not None
        before = run.proxy.touched
        run.proxy.become(mode)
        time.sleep(2 * AWAY_SECONDS)
        while run.proxy.touched == before and not run.ended():
            time.sleep(0.1)
        run.proxy.become("through")
        return f"{run.proxy.touched - before} connections were affected"

    return happens


def head(cluster: Cluster, run: Run) -> None:
    """Kill the whole cluster, and start another in its place."""
    count = len(cluster.nodes)
    cluster.replace()
    for _ in range(count):
        cluster.add()
    run.driver.wait(LONGEST_SECONDS)


def _cut(seconds: float) -> Callable[[Cluster, Run], None]:
    def happens(cluster: Cluster, run: Run) -> None:
        assert isinstance(cluster, Hosts)
        lost = run.rng.choice(cluster.nodes)
        cluster.cut(lost)
        with suppress(psutil.TimeoutExpired):
            run.driver.wait(seconds)
        cluster.mend(lost)
        run.driver.wait(LONGEST_SECONDS)
        cluster.kill(lost)  # Ray's processes on it may have ended; the next drill has a new node

    return happens


KILLED, STOPPED = -9, 130

FAULTS = {
    "actor": Fault(actor),
    "driver": Fault(driver, codes=(KILLED, 0)),
    "node": Fault(node),
    "crash": Fault(crash, named=1),
    "diverge": Fault(diverge, named=1),
    "hang": Fault(hang, named=1, overrides=(f"runtime.timeout_seconds={TIMEOUT_SECONDS}",)),
    "stop": Fault(stop, codes=(STOPPED, 0)),
    "mlflow": Fault(mlflow, needs="mlflow"),
    "memory": Fault(memory, node={"spare_gib": 3.0}),
    "objects": Fault(objects, node={"store_mib": STORE_MIB}, before=neighbour),
    "disk": Fault(disk, codes=(1, 0), needs="tmpfs"),
    "head": Fault(head, codes=(1, 0)),
    "away": Fault(_storage("away"), needs="s3"),
    "slow": Fault(_storage("slow"), needs="s3"),
    "busy": Fault(_storage("busy"), needs="s3"),
    "cut": Fault(_cut(60.0), needs="hosts"),
    "gone": Fault(_cut(LONGEST_SECONDS), needs="hosts"),
}
