"""A soak: many short runs of every role on one cluster and one MLflow server, with a fault in each.

    python jobs/drill/soak.py --minutes 30 --out soak.json

One driver that lives throughout carries out every other run, so that leaks show. Each run is checked: its members are
complete, its actors have ended, MLflow and the run's folder agree, and its bundle predicts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import _services
import numpy as np
import psutil
from _cluster import Cluster
from _drill_run import LONGEST_SECONDS, MAX_LINE_CHARS, PROJECT, Run, disagrees
from _faults import FAULTS

from distens.errors import DistensError
from distens.serve import predictor
from distens.storage.store import Store

NODES = 2
GONE_SECONDS = 15.0

SMALL = ("search.members=6", "members.net.epochs=4")
ROLES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "random": ("run", "drill.yaml", SMALL),
    "divbo": ("run", "drill.yaml", (*SMALL, "search.kind=divbo")),
    "halving": ("run", "drill.yaml", (*SMALL, "schedule={kind: halving, minimum: 1, eta: 2}")),
    "one_shot": ("run", "sites.yaml", ()),
    "rounds": ("run", "sites.yaml", ("federated.rounds=4",)),
    "sweep": ("sweep", "drill.yaml", (*SMALL, "sweep={over: {select.size: {choices: [3, 9]}}, samples: 2}")),
}
"""Role -> command, config, overrides."""

QUICK = ("actor", "node", "driver", "stop", "mlflow", "crash", "diverge")
OF_NET = ("crash", "diverge")
OF_DRIVERS = ("driver", "stop")


class Life:
    """The driver that lives throughout the soak."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._folder, self._numbers = folder, count()
        with (folder / "life.txt").open("wb") as log:
            self.process = psutil.Popen(
                [sys.executable, str(PROJECT.with_name("_soak_life.py"))],
                cwd=PROJECT,
                env=cluster.env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
            )

    def ask(self, run: Run) -> Path:
        """Ask the driver for a run; return the file in which its answer will be."""
        answer = self._folder / f"answer{next(self._numbers)}.json"
        asked = {"command": run.command, "config": run.config, "overrides": run.overrides, "answer": str(answer)}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return answer

    def end(self) -> None:
        """End the driver."""
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


class Lived(Run):
    """A run by the driver that lives throughout the soak."""

    def __init__(self, life: Life, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._life, self.driver = life, life.process
        self.answer: dict[str, Any] = {}

    def start(self) -> None:
        """Ask the driver for the run."""
        self._answer = self._life.ask(self)

    def resume(self) -> None:
        """Do nothing: no fault ends the driver of such a run."""

    def ended(self) -> bool:
        """Return True if its driver has answered or ended."""
        return self._answer.exists() or self.driver.poll() is not None

    def wait(self, seconds: float = LONGEST_SECONDS) -> int:
        """Return the driver's exit code for the run: 0 if it finished."""
        until = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.1)
        self.answer = json.loads(self._answer.read_text()) if self._answer.exists() else {"code": self.driver.poll()}
        self.codes.append(self.answer["code"])
        return self.codes[-1]

    def stop(self) -> None:
        """Leave the driver alive."""


@dataclass(frozen=True)
class Soaked:
    """The result of one run of the soak.

    Attributes:
        lost: the number of failed members, except those that fail by design.
        wrong: a line for each finding that is not as it should be.
        before, after: the size of its driver, if that driver lives throughout.
    """

    role: str
    fault: str
    codes: Sequence[int]
    seconds: float
    lost: int
    wrong: Sequence[str]
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)


def folders(run: Run) -> list[str]:
    """Return a run's folder, or those of a sweep's runs."""
    if run.command == "run":
        return [run.url]
    return sorted(str(info.parent) for info in Path(run.storage).glob("*/*/run.json"))


def lost(run: Run, url: str) -> list[str]:
    """Return a line for each failed member, with the reason, except those that fail by design."""
    results = Store(url).read_json("results.json")
    given_up = [one for one in results["failures"] or () if one["final"]]
    return [f"{one['id']}: {one['reason']}: {one['message']}"[:MAX_LINE_CHARS] for one in given_up[len(run.told()) :]]


def left_actors(cluster: Cluster) -> int:
    """Return the number of actors left after the end of their run; they have GONE_SECONDS to end."""
    until = time.monotonic() + GONE_SECONDS
    while (found := len(cluster.actors())) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def tell_the_rest(run: Run, url: str) -> None:
    """Resume a run that finished without waiting any longer for MLflow, so that it sends the rest."""
    command = [sys.executable, "-m", "distens.cli", "resume", url, "--set", "runtime={kind: inline}"]
    subprocess.run(command, cwd=PROJECT, env=run.cluster.env, stdout=subprocess.DEVNULL, check=True)


def examine(run: Run, address: str, rows: Any, fault: str) -> tuple[int, list[str]]:
    """Return the number of lost members, and a line for each finding."""
    if run.codes[-1] != 0:
        return 0, [f"exit {run.codes}: {' | '.join(run.said()[-3:])}"]
    missing, wrong = list[str](), []
    for url in folders(run):
        try:
            missing += lost(run, url)
            untracked = disagrees(address, url)
            if untracked and fault == "mlflow":
                tell_the_rest(run, url)
                untracked = disagrees(address, url)
            wrong.append(untracked)
            probs_NC = predictor.load(url).predict_proba(rows)
        except DistensError as error:
            wrong.append(str(error))
            continue
        if probs_NC.shape != (len(rows), 10) or not np.allclose(probs_NC.sum(axis=1), 1, atol=1e-5):
            wrong.append(f"{url} does not predict")
    if actors := left_actors(run.cluster):
        wrong.append(f"{actors} actors are left")
    return len(missing), [*filter(None, wrong), *(f"lost {one}" for one in missing)]


def slope(done: Sequence[Soaked], what: str) -> str:
    """Return the growth of the living driver's size after its first two runs, in which modules are loaded."""
    values = [one.after[what] for one in done if one.after]
    if len(values) < 4:
        return f"{what}: {[round(value, 1) for value in values]}"
    grown = np.polyfit(np.arange(len(values) - 2), values[2:], 1)[0]
    return (
        f"{what}: {values[0]:.0f} after its first run, {values[-1]:.0f} after its {len(values)}th, {grown:+.2f} a run"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Carry out the soak and print a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--roles", type=some_of(list(ROLES)), default=",".join(ROLES), help="of %(default)s")
    parser.add_argument("--faults", type=some_of(QUICK), default=",".join(QUICK), help="of %(default)s")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(words)
    roles, faults = asked.roles, asked.faults
    if without := [role for role in roles if not suited(faults, role, lives=False)]:
        parser.error(f"none of {', '.join(faults)} can happen to {', '.join(without)}")
    rng, done, numbers = random.Random(asked.seed), list[Soaked](), count()
    sys.path.insert(0, str(PROJECT))
    importlib.import_module("net")  # the bundles' network, which no bundle imports by itself
    rows = np.random.default_rng(0).uniform(0, 16, (20, 8, 8)).astype(np.float32)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak")))
        server, address = _services.mlflow_server(folder, f"sqlite:///{folder}/mlflow.db", f"{folder}/artifacts", {})
        stack.enter_context(server)
        cluster = stack.enter_context(Cluster(cpus=0, env={"DRILL_FOLDER": str(folder)}, jobs=False))
        for _ in range(NODES):
            cluster.add()
        life = Life(cluster, folder)
        stack.callback(life.end)
        until = time.monotonic() + 60 * asked.minutes
        while time.monotonic() < until:
            number = next(numbers)
            role = roles[number % len(roles)]
            command, config, overrides = ROLES[role]
            lives = bool((number + number // len(roles)) % 2 and suited(faults, role, lives=True))  # each role in turn
            fault = rng.choice(suited(faults, role, lives))
            tracked = f"tracking={{kind: mlflow_runs, uri: '{address}'}}"
            place = (cluster, folder, f"{folder}/runs/{number}")
            given: Any = {"config": config, "overrides": (*overrides, tracked), "rng": rng, "mlflow": server}
            run = Lived(life, *place, **given, command=command) if lives else Run(*place, **given, command=command)
            done.append(soaked(run, role, fault, address, rows))
            one = done[-1]
            who = f"{number:4} {role:9}{'*' if lives else ' '} {fault:8}"
            print(f"{who} {one.seconds:5.0f} s {list(one.codes)} {' | '.join(one.wrong) or 'ok'}", flush=True)
            while len(cluster.nodes) < NODES:
                cluster.add()
            if asked.out is not None:
                asked.out.write_text(json.dumps([asdict(one) for one in done], indent=1))
    report(done)
    return int(any(one.wrong for one in done))


def some_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a function that reads a comma-separated list of some of the names."""

    def read(text: str) -> list[str]:
        found = text.split(",")
        if unknown := sorted(set(found) - set(names)):
            raise argparse.ArgumentTypeError(f"found {', '.join(unknown)}; allowed: {', '.join(names)}")
        return found

    return read


def suited(faults: Sequence[str], role: str, lives: bool) -> list[str]:
    """Return the faults that suit a run: none of its driver if that lives on, none of a network that it lacks."""
    without = (*(OF_DRIVERS if lives else ()), *(() if ROLES[role][1] == "drill.yaml" else OF_NET))
    return [name for name in faults if name not in without]


def soaked(run: Run, role: str, fault: str, address: str, rows: Any) -> Soaked:
    """Carry out one run, with a fault once it has journalled a few entries."""
    began = time.monotonic()
    run.start()
    try:
        wanted = run.rng.randint(1, 8)
        while not run.ended() and len(list(Path(run.storage).rglob("journal/*"))) < wanted:
            time.sleep(0.05)
        FAULTS[fault].happens(run.cluster, run)
        run.finish()
    finally:
        run.stop()
    seconds = time.monotonic() - began
    missing, wrong = examine(run, address, rows, fault)
    if not wrong:
        shutil.rmtree(run.storage)
    sizes = run.answer if isinstance(run, Lived) else {}
    return Soaked(
        role, fault, tuple(run.codes), seconds, missing, wrong, sizes.get("before", {}), sizes.get("after", {})
    )


def report(done: Sequence[Soaked]) -> None:
    """Print a summary of the soak."""
    wrong, sizes = sum(bool(one.wrong) for one in done), [slope(done, what) for what in ("mib", "files", "threads")]
    print(f"{len(done)} runs: {dict(Counter(one.role for one in done))}")
    print(f"faults: {dict(Counter(one.fault for one in done))}")
    print(f"members lost: {sum(one.lost for one in done)}; runs not as they should be: {wrong}")
    print(f"the driver that lived throughout, marked *: {'; '.join(sizes)}")


if __name__ == "__main__":
    raise SystemExit(main())
