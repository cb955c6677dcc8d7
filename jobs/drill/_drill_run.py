"""One run of a drill: its drivers on a cluster, and its outcome."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from _cluster import Cluster
from _proxy import Proxy
from _services import Process

from distens.config.config import load_config
from distens.lifecycle.ledger import Ledger
from distens.serve import bundle
from distens.storage.store import Store

PROJECT = Path(__file__).with_name("_drill_project")
LONGEST_SECONDS = 600.0

ORDINARY = re.compile(r"(nll|error) [\d.]+ in [\d.]+ s|reading |rows: |finished$")
"""Log lines of a normal run; the table follows them."""

MAX_LINE_CHARS = 300
"""The number of characters of a line that are kept."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        deployed: SHA-256 of every member's state in the bundle, the members' weights, and the ensemble's test NLL;
            None if the run did not write a bundle.
        finished: the number of members that finished.
        failed: member -> the reason why it failed.
        attempts: the number of attempts of all members together.
        steps: the number of training steps, including those that were lost.
        step_seconds: the time of one step.
    """

    deployed: tuple[dict[str, str], dict[str, float], float] | None
    finished: int
    failed: dict[str, str]
    attempts: int
    steps: int
    step_seconds: float


class Run:
    """A run of one config of `_drill_project`, on a cluster with the same DRILL_FOLDER.

    Args:
        folder: DRILL_FOLDER.
        storage: a folder or an address.
        rng: chooses the actor, node, … that a fault affects.
        mlflow: the server that tracks the run, if any.
        proxy: the proxy in front of its storage, if any.
        command: `run` or `sweep`.

    Attributes:
        codes: the exit codes of its drivers.
    """

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        storage: str,
        config: str = "drill.yaml",
        overrides: Sequence[str] = (),
        rng: random.Random | None = None,
        mlflow: Process | None = None,
        proxy: Proxy | None = None,
        command: str = "run",
    ) -> None:
        self.cluster, self.folder, self.storage, self.mlflow, self.proxy = cluster, folder, storage, mlflow, proxy
        self.rng = rng or random.Random(0)
        self.codes: list[int] = []
        self.command, self.config, self.overrides = command, config, [f"storage={storage}", *overrides]
        self._log = folder / "log.txt"
        self._log.write_text("")
        (folder / "steps").mkdir(exist_ok=True)
        for told in folder.glob("*-*"):
            told.unlink()
        self._before, self.began = self._all_steps(), time.monotonic()
        self.driver: psutil.Popen
        self.neighbour: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Return the run's folder, the only one of its config in the storage."""
        name = load_config(PROJECT / self.config, self.overrides).name
        return f"{self.storage}/{next(n for n in Store(self.storage).names() if n.startswith(f'{name}-'))}"

    def start(self) -> None:
        """Start a driver for the run."""
        self._go(self.command, self.config, *(word for one in self.overrides for word in ("--set", one)))

    def resume(self) -> None:
        """Resume the run, in another process."""
        self.start() if self.command == "sweep" else self._go("resume", self.url)

    def _go(self, *words: str) -> None:
        command = [*self.cluster.within(0), sys.executable, "-m", "distens.cli", *words]
        with self._log.open("ab") as log:
            self.driver = psutil.Popen(
                command, cwd=PROJECT, env=self.cluster.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def ended(self) -> bool:
        """Return True if its driver has ended."""
        return self.driver.poll() is not None

    def wait(self, seconds: float = LONGEST_SECONDS) -> int:
        """Return the exit code of the driver, once it has ended."""
        code = self.driver.wait(seconds)
        if code is not None:
            self.codes.append(int(code))
        return code

    def finish(self) -> None:
        """Wait for the driver's end; if the run did not finish, resume it and wait again."""
        if self.wait() != 0:
            self.resume()
            self.wait()

    def stop(self) -> None:
        """Kill all processes of the run."""
        if self.neighbour is not None:
            self.neighbour.kill()
            self.neighbour.wait()
        if self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()

    def tell(self, what: str, whose: str = "any") -> None:
        """Make a member go wrong (see `_drill_project/net.py`)."""
        (self.folder / f"{what}-{whose}").touch()

    def told(self) -> dict[str, str]:
        """Return mark -> fault, for the members that went wrong."""
        pairs = (told.name.split("-", 1) for told in self.folder.glob("*-*"))
        return {mark: what for what, mark in pairs if mark != "any"}

    def _all_steps(self) -> int:
        return sum(one.stat().st_size for one in (self.folder / "steps").iterdir())

    def steps(self) -> int:
        """Return the number of training steps so far."""
        return self._all_steps() - self._before

    def await_steps(self, count: float) -> bool:
        """Wait until `count` steps were done; return False if the driver ends before that."""
        while self.steps() < count:
            if self.ended():
                return False
            time.sleep(0.02)
        return True

    def ledger(self) -> Ledger:
        """Return the run's ledger, read from its journal."""
        return Ledger(Store(self.url))

    def log(self) -> str:
        """Return the output of the drivers."""
        return self._log.read_text(errors="replace")

    def said(self) -> list[str]:
        """Return the lines that the drivers printed besides progress and the table, without the time."""
        lines, table = [], False
        for line in self.log().splitlines():
            stamped = re.match(r"\d\d:\d\d:\d\d (\[.*?\] )?", line)
            table = not stamped and (table or not line.strip()) and not line.startswith("error: ")
            if not table and line.strip() and not ORDINARY.search(line):
                lines.append((line[stamped.end() :] if stamped else line)[:MAX_LINE_CHARS])
        return lines

    def outcome(self) -> Outcome:
        """Return the outcome of the run, after its bundle was read and checked."""
        ledger = self.ledger()
        done, failed = ledger.finished("search"), ledger.failed("search")
        steps = self.steps()
        return Outcome(
            deployed=self._deployed(),
            finished=len(done),
            failed={one.task.id: one.failure.reason for one in failed},
            attempts=sum(one.task.attempt for one in (*done, *failed)),
            steps=steps,
            step_seconds=sum(one.report.seconds for one in done) / max(steps, 1),
        )

    def _deployed(self) -> tuple[dict[str, str], dict[str, float], float] | None:
        store = Store(self.url)
        if not store.exists("results.json"):
            return None
        results = store.read_json("results.json")
        members = bundle.read_bundle(f"{self.url}/final/ensemble").members
        weights = {name: results["weights"][name] for name in sorted(results["weights"])}
        states = {name: state.sha256 for member in members for name, state in member.states().items()}
        return states, weights, results["ensemble"]["nll"]


def disagrees(address: str, url: str) -> str:
    """Return a difference between a tracking server and a run's folder; "" if they agree."""
    from mlflow import MlflowClient

    client, store = MlflowClient(address), Store(url)
    everywhere = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(everywhere, f"tags.`distens.storage` = '{url}'")
    if [one.info.status for one in found] != ["FINISHED"]:
        return f"MLflow: the run is there as {[one.info.status for one in found]}"
    results = store.read_json("results.json")
    for name, row in results.items():
        if isinstance(row, dict) and "nll" in row and found[0].data.metrics.get(f"{name}.nll") != row["nll"]:
            return f"MLflow: {name}: {found[0].data.metrics.get(f'{name}.nll')} instead of {row['nll']}"
    children = client.search_runs(everywhere, f"tags.`mlflow.parentRunId` = '{found[0].info.run_id}'")
    done = {entry.task.id: entry.report.metrics.get("nll") for entry in Ledger(store).all_finished()}
    runs = [(one.data.tags["distens.task"], one) for one in children if one.info.status == "FINISHED"]
    told = sorted((name, one.data.metrics.get("nll")) for name, one in runs if name in done)
    return "" if told == sorted(done.items()) else f"MLflow: {told} instead of {sorted(done.items())}"
