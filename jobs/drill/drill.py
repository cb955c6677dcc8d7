"""Drills: a real run on a real Ray cluster has a fault half way, and its outcome is compared with an undisturbed run.

    python jobs/drill/drill.py --times 3 --out drills.json            all of them
    python jobs/drill/drill.py actor node --times 1                   some

Every fault occurs at a random moment between 20 and 80 % of the training steps. The network itself counts steps, so
that steps trained twice are counted twice. `disk` needs root for a file system of its own; `cut` and `gone`, in which
the link of a host is cut for a minute and for good, need root for networks of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import _services
from _cluster import Cluster
from _drill_run import Outcome, Run, disagrees
from _faults import FAULTS, Fault
from _hosts import Hosts
from _proxy import Proxy

NODES = 2
TMPFS_MIB = 4

Start = Callable[..., Run]


@dataclass(frozen=True)
class Drill:
    """The result of one drill.

    Attributes:
        moment: the moment of the fault, as a share of the steps of the reference.
        before: the number of members that had finished by then.
        lost: the number of failed members, except those that fail by design.
        extra_seconds: training time that the reference did not need; `extra_percent`: in percent of its steps.
        equal: True if the bundle's states, weights and test NLL are those of the reference, to the bit.
        codes: the exit codes of the run's drivers.
        felt: the effect of the fault on the run, if the other fields do not show it.
        said: the lines that the run printed, besides progress.
        untracked: a difference between MLflow and the run's folder; empty if there is none.
        fine: True if everything is as it should be.
    """

    fault: str
    moment: float
    before: int
    lost: int
    named: Mapping[str, str]
    attempts: int
    extra_seconds: float
    extra_percent: float
    equal: bool
    codes: Sequence[int]
    seconds: float
    felt: str
    said: Sequence[str]
    untracked: str
    fine: bool


class Ground:
    """A cluster with services, on which drills and undisturbed reference runs are carried out."""

    def __init__(self, cluster: Cluster, start: Start, mlflow: str) -> None:
        self._cluster, self._start, self._mlflow = cluster, start, mlflow
        self._quiet: dict[frozenset[str], Outcome] = {}

    def reference(self, without: frozenset[str] = frozenset()) -> Outcome:
        """Return the outcome of an undisturbed run, in which only members with these marks fail."""
        if without not in self._quiet:
            run = self._start()
            for mark in without:
                run.tell("diverge", mark)
            run.start()
            try:
                if run.wait() != 0:
                    raise SystemExit(f"the undisturbed run failed:\n{run.log()}")
            finally:
                run.stop()
            self._quiet[without] = run.outcome()
        return self._quiet[without]

    def drill(self, name: str, fault: Fault, seed: str) -> Drill:
        """Carry out one drill."""
        rng = random.Random(seed)
        moment = rng.uniform(0.2, 0.8)
        steps = self.reference().steps
        run = self._start(fault.overrides, rng)
        began = time.monotonic()
        run.start()
        try:
            if fault.before is not None:
                fault.before(self._cluster, run)
            run.await_steps(moment * steps)
            before = len(run.ledger().finished("search"))
            felt = fault.happens(self._cluster, run) or ""
            run.finish()
        finally:
            run.stop()
        seconds = time.monotonic() - began
        self._mend()
        told, said = frozenset(run.told()) if fault.named else frozenset(), run.said()
        found = run.outcome()  # before the reference run, whose steps would be counted too
        expected = self.reference(told)
        lost, extra, codes = len(found.failed) - fault.named, found.steps - expected.steps, tuple(run.codes)
        equal = found.deployed is not None and found.deployed == expected.deployed
        untracked = disagrees(self._mlflow, run.url) if self._mlflow and found.deployed else ""
        if Path(run.storage).exists():
            shutil.rmtree(run.storage)
        return Drill(
            fault=name,
            moment=moment,
            before=before,
            lost=lost,
            named=found.failed,
            attempts=found.attempts,
            extra_seconds=extra * expected.step_seconds,
            extra_percent=100 * extra / expected.steps,
            equal=equal,
            codes=codes,
            seconds=seconds,
            felt=felt,
            said=said,
            untracked=untracked,
            fine=equal and not lost and not untracked and codes == fault.codes,
        )

    def _mend(self) -> None:
        while len(self._cluster.nodes) < NODES:
            self._cluster.add()


@contextmanager
def ground(node: Mapping[str, Any] = {}, needs: str = "", overrides: Sequence[str] = ()) -> Iterator[Ground]:
    """Yield a cluster with the services that a fault needs (see `Fault`), for runs with some overrides."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drill")))
        storage, env, mlflow = f"{folder}/storage", {"DRILL_FOLDER": str(folder)}, ""
        Path(storage).mkdir()
        given: dict[str, Any] = {}
        if needs == "mlflow":
            server, mlflow = _services.mlflow_server(folder, f"sqlite:///{folder}/mlflow.db", f"{folder}/artifacts", {})
            given["mlflow"] = stack.enter_context(server)
            overrides = [*overrides, f"tracking={{kind: mlflow_runs, uri: '{mlflow}'}}"]
        if needs == "tmpfs":
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "drill", storage], check=True)
            stack.callback(subprocess.run, ["umount", "-l", storage], check=True)
        if needs == "s3":
            keys = stack.enter_context(_services.s3(folder, ["drills"]))
            os.environ.update(keys)  # this process reads without the proxy
            port = int(keys["AWS_ENDPOINT_URL"].rpartition(":")[2])
            given["proxy"] = proxy = stack.enter_context(Proxy(port))
            storage, env = "s3://drills", {**env, "AWS_ENDPOINT_URL": proxy.address}
        kind = Hosts if needs == "hosts" else Cluster
        cluster = stack.enter_context(kind(cpus=0, env=env, jobs=False))
        for _ in range(NODES):
            cluster.add(**node)
        numbers = count()

        def start(more: Sequence[str] = (), rng: random.Random | None = None) -> Run:
            place = f"{storage}/{next(numbers)}"
            return Run(cluster, folder, place, overrides=[*overrides, *more], rng=rng, **given)

        yield Ground(cluster, start, mlflow)


def show(drill: Drill) -> None:
    """Print one drill."""
    print(
        f"{'ok  ' if drill.fine else 'FAIL'} {drill.fault:8} at {drill.moment:.0%} ({drill.before} finished): "
        f"lost {drill.lost}, named {dict(drill.named) or 'none'}, {drill.attempts} attempts, "
        f"{drill.extra_seconds:+.1f} member-s ({drill.extra_percent:+.1f} %), "
        f"{'equal' if drill.equal else 'NOT equal'}, exit {list(drill.codes)}, {drill.seconds:.0f} s"
        + "".join(f"; {more}" for more in (drill.felt, drill.untracked) if more)
    )
    for line in drill.said:
        print(f"       {line}")


def main(words: Sequence[str] | None = None) -> int:
    """Carry out the drills that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(words)
    names = asked.faults or list(FAULTS)
    if unknown := [name for name in names if name not in FAULTS]:
        parser.error(f"no fault {unknown[0]!r}; there are {', '.join(FAULTS)}")
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(repr((dict(FAULTS[name].node), FAULTS[name].needs)), []).append(name)
    done: list[Drill] = []
    for group in groups.values():
        with ground(FAULTS[group[0]].node, FAULTS[group[0]].needs) as here:
            for name in group:
                for time_ in range(asked.times):
                    done.append(here.drill(name, FAULTS[name], f"{asked.seed} {name} {time_}"))
                    show(done[-1])
                    if asked.out is not None:
                        asked.out.write_text(json.dumps([asdict(one) for one in done], indent=1))
    print(f"{sum(one.fine for one in done)} of {len(done)} as they should be")
    return 0 if all(one.fine for one in done) else 1


if __name__ == "__main__":
    raise SystemExit(main())
