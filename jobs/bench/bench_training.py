"""Many small networks: distens' packs beside a plain loop, TorchEnsemble, Lightning, scikit-learn and Ray Tune.

    python jobs/bench/bench_training.py --fashion PATH --out results.json
    python jobs/bench/bench_training.py --task lenet --fashion PATH --members 64 --contender plain --contender packed
    python jobs/bench/bench_training.py --efficiency

It shows CPU time (of all processes at work) and wall time of training M members, and the accuracy of these members on
rows held out. All contenders have the same rows, networks, epochs, batch size, optimizer and device, and on a CPU one
thread. Members differ in seed (initial weights and order of rows) and in learning rate (log-uniform between 5e-4 and
2e-3), and are the same for all contenders, with two exceptions: TorchEnsemble takes one seed and one rate for all (the
geometric mean), and scikit-learn has no AdamW and takes Adam with an L2 penalty of that size.

The clock counts from untrained to trained members. Costs that occur once per session, like loading torch and starting
Ray and its actors, are paid before and left out, for all contenders alike. So are predictions, except where a contender
needs them: `pool` writes states and predictions, as a run does, and a Tune trial reports its accuracy. Ray's own
processes are counted for contenders that use it. `pool` and Tune have one actor; with `--cold` both start it while the
clock runs, as each run of Tune and of distens does. Repetitions are interleaved (A B C A B C), times are medians (least
to most), ratios are medians of the repetitions' own ratios.

`--efficiency` measures the efficiency of two actors: M/2 times one member's training time, over the wall time for M
members; it needs an idle machine with two cores. The script needs `pip install psutil`; every competitor is optional:
`pip install torchensemble lightning scikit-learn "ray[tune]"`. The defaults take about 25 minutes on two cores.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from _bench_clock import Clock
from _bench_ours import Pool
from _bench_tasks import BATCH_SIZE, Job, Problem, digits, lenet, tabular
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

EPOCHS = {"digits": 10, "tabular": 20, "lenet": 1}
MEMBERS = {"digits": (1, 4, 16, 64), "tabular": (1, 4, 16, 64), "lenet": (1, 4, 16)}
PACKAGES = ("distens", "torch", "torchensemble", "lightning", "scikit-learn", "ray")
EFFICIENCY_ACTORS = 2
NOT_FOR_THIS = "does not apply"
console = Console(width=160)


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    Attributes:
        function: `module:name` of the function that trains, imported when it is needed; empty for the pool.
        ray: True if it works in Ray's processes too.
        sizes: the numbers of members M that are worth the wait; empty: all.
    """

    label: str
    function: str
    ray: bool = False
    sizes: tuple[int, ...] = ()


CONTENDERS = {
    "plain": Contender("plain PyTorch loop", "_bench_others:plain"),
    "plain_channels_last": Contender("plain loop, channels last", "_bench_others:plain_channels_last"),
    "packed": Contender("distens, packed", "_bench_ours:packed"),
    "pool": Contender("distens, packed, pool", "", ray=True),
    "torchensemble": Contender("TorchEnsemble", "_bench_others:torchensemble"),
    "lightning": Contender("Lightning, one by one", "_bench_others:lightning"),
    "torchensemble_usual": Contender("TorchEnsemble, DataLoader", "_bench_others:torchensemble_usual", sizes=(16, 64)),
    "lightning_usual": Contender("Lightning, DataLoader", "_bench_others:lightning_usual", sizes=(16, 64)),
    "sklearn": Contender("scikit-learn MLPClassifier", "_bench_others:sklearn"),
    "tune_class": Contender("Tune class trials", "_bench_tune:tune_class", ray=True, sizes=(16, 64)),
    "tune_function": Contender("Tune function trials", "_bench_tune:tune_function", ray=True, sizes=(16,)),
}


@dataclass
class Row:
    """The times of one contender for M members, one per repetition, and the accuracy of each member."""

    contender: str
    members: int
    cpu_seconds: list[float]
    wall_seconds: list[float]
    accuracies_M: list[float]
    missing: str = ""


def train(jobs: Sequence[Job], names: Sequence[str], chosen: bool, repeats: int, pool: Pool, cold: bool) -> list[Row]:
    """Return the rows of one problem, for every M and every contender."""
    rows: list[Row] = []
    for job in jobs:
        sizes = {name: CONTENDERS[name].sizes for name in names}
        here = [Row(n, job.members, [], [], []) for n in names if chosen or job.members in (sizes[n] or [job.members])]
        rehearsal = Job(job.problem, min(2, job.members), 1, job.optimizer, job.device)
        for repetition in range(-1, repeats):
            for row in here:
                if not row.missing:
                    clock = Clock(CONTENDERS[row.contender].ray, cold)
                    _measure(job if repetition >= 0 else rehearsal, row, _function(row.contender, pool), clock)
                    if repetition < 0:
                        row.cpu_seconds, row.wall_seconds = [], []
            console.print(f"[dim]{job.problem.name}, M = {job.members}: {repetition + 1} of {repeats}", highlight=False)
        rows += [row for row in here if row.missing != NOT_FOR_THIS]
    return rows


def _function(name: str, pool: Pool) -> Callable[[Job, Clock], list[float]]:
    if name == "pool":
        return pool

    def function(job: Job, clock: Clock) -> list[float]:
        module, attribute = CONTENDERS[name].function.split(":")
        return getattr(importlib.import_module(module), attribute)(job, clock)

    return function


def _measure(job: Job, row: Row, function: Callable[[Job, Clock], list[float]], clock: Clock) -> None:
    try:
        row.accuracies_M = function(job, clock)
    except ImportError as error:
        row.missing = f"not installed: {error.name}"
    except NotImplementedError:
        row.missing = NOT_FOR_THIS
    else:
        row.cpu_seconds.append(clock.cpu_seconds)
        row.wall_seconds.append(clock.wall_seconds)


def ratio(above: Row | None, below: Row | None, kind: str) -> float | None:
    """Return the median over repetitions of one row's time over another's."""
    if above is None or below is None or above.missing or below.missing:
        return None
    pairs = zip(getattr(above, kind), getattr(below, kind), strict=True)
    return statistics.median(one / other for one, other in pairs)


def show(job: Job, rows: Sequence[Row], repeats: int) -> list[dict[str, Any]]:
    """Print one problem's table; return it as JSON values."""
    table = Table(
        title=f"{job.problem.name}: {len(job.problem.inputs)} rows, {job.epochs} epochs of batches of {BATCH_SIZE}, "
        f"{job.optimizer}, {job.device}; medians of {repeats}"
    )
    for heading in ("", "M", "CPU s", "wall s", "plain / it: CPU", "wall", "it / packed: CPU", "wall", "accuracy"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    found = []
    for row in rows:
        at_M = {other.contender: other for other in rows if other.members == row.members}
        if row is next(iter(at_M.values())):
            table.add_section()
        ratios = {
            "plain_over_it_cpu": ratio(at_M.get("plain"), row, "cpu_seconds"),
            "plain_over_it_wall": ratio(at_M.get("plain"), row, "wall_seconds"),
            "it_over_packed_cpu": ratio(row, at_M.get("packed"), "cpu_seconds"),
            "it_over_packed_wall": ratio(row, at_M.get("packed"), "wall_seconds"),
        }
        cells = [row.missing]
        if not row.missing:
            cells = [_times(row.cpu_seconds), _times(row.wall_seconds)]
            cells += ["" if value is None else f"{value:.2f}" for value in ratios.values()]
            cells += [f"{np.mean(row.accuracies_M):.4f} ± {np.std(row.accuracies_M):.4f}"]
        table.add_row(CONTENDERS[row.contender].label, str(row.members), *cells)
        found.append({"problem": job.problem.name, "epochs": job.epochs, **vars(row), **ratios})
    console.print(table)
    return found


def _times(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} - {max(seconds):.3f})"


def share(jobs: Sequence[Job], packs: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Print the efficiency of two actors; return it as JSON values."""
    k = EFFICIENCY_ACTORS
    pool = Pool(actors=k)
    table = Table(title=f"{k} actors: M/{k} times one member's training time, over the wall time; medians of {repeats}")
    headings = (
        "",
        "M",
        "members a pack",
        "wall s",
        "member s: alone",
        "beside others",
        "efficiency: alone",
        "beside others",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    found = []
    for job in jobs:
        runs: dict[int, list[Mapping[str, float]]] = {size: [] for size in packs}
        for _ in range(repeats):
            for size in packs:
                runs[size].append(pool.efficiency(job, size))
        for size, measured in runs.items():
            share_of = {
                who: [job.members / k * one[who] / one["wall"] for one in measured] for who in ("alone", "busy")
            }
            seconds = {what: statistics.median(one[what] for one in measured) for what in ("wall", "alone", "busy")}
            cells = [f"{value:.4f}" for value in seconds.values()] + [_times(values) for values in share_of.values()]
            table.add_row(job.problem.name, str(job.members), str(size), *cells)
            found.append(
                {
                    "problem": job.problem.name,
                    "members": job.members,
                    "pack": size,
                    "epochs": job.epochs,
                    "seconds": seconds,
                    "efficiency": share_of,
                }
            )
    pool.close()
    console.print(table)
    return found


def surroundings(device: str) -> dict[str, Any]:
    """Return the versions and the hardware that the results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    hardware = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    return {"versions": found, "hardware": hardware, "date": time.strftime("%Y-%m-%d"), "load": os.getloadavg()}


def _start_ray() -> None:
    try:
        import ray
    except ImportError:
        return
    ray.init(
        "local", num_cpus=EFFICIENCY_ACTORS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )


def main(
    task: Annotated[list[str] | None, typer.Option(help="digits, tabular, lenet; all if not given.")] = None,
    members: Annotated[
        list[int] | None, typer.Option(help="How many; 1, 4, 16 and 64 (not for lenet) if not given.")
    ] = None,
    contender: Annotated[list[str] | None, typer.Option(help=f"{', '.join(CONTENDERS)}; all if not given.")] = None,
    epochs: Annotated[int | None, typer.Option(help=f"For every task; {EPOCHS} if not given.")] = None,
    repeats: int = 3,
    optimizer: Annotated[str, typer.Option(help="sgd, adam or adamw.")] = "adamw",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    fashion: Annotated[str | None, typer.Option(help="A folder with the four idx files of Fashion-MNIST.")] = None,
    efficiency: Annotated[bool, typer.Option(help="Measure the efficiency of two actors instead.")] = False,
    cold: Annotated[bool, typer.Option(help="Count the start of Ray's actors, in Tune and in the pool.")] = False,
    out: Path | None = None,
) -> None:
    """Print the tables; write them as JSON with --out."""
    for given, allowed in ((task, EPOCHS), (contender, CONTENDERS)):
        for name in given or ():
            if name not in allowed:
                raise typer.BadParameter(f"{name!r}: allowed are {', '.join(allowed)}")
    if fashion is None and "lenet" in (task or ()):
        raise typer.BadParameter("the task lenet needs --fashion")
    torch.set_num_threads(1)
    threadpool_limits(1)
    makers: dict[str, Callable[[], Problem]] = {"digits": digits, "tabular": tabular}
    if fashion is None and not task:
        console.print("lenet is left out: give --fashion PATH")
    if fashion is not None:
        makers["lenet"] = lambda: lenet(fashion)
    names = contender or list(CONTENDERS)
    if efficiency or any(CONTENDERS[name].ray for name in names):
        _start_ray()
    before = surroundings(device)
    rows: list[dict[str, Any]] = []
    pool = Pool()
    for name in [name for name in makers if name in (task or makers)]:
        problem = makers[name]()
        if efficiency:
            size = members or [32]
            jobs = [Job(problem, m, epochs or 3 * EPOCHS[name], optimizer, device) for m in size]
            rows += share(jobs, (1, 16), repeats)
        else:
            size = members or MEMBERS[name]
            jobs = [Job(problem, m, epochs or EPOCHS[name], optimizer, device) for m in size]
            rows += show(jobs[0], train(jobs, names, contender is not None, repeats, pool, cold), repeats)
    pool.close()
    console.print(f"load before and after: {before['load'][0]:.2f}, {os.getloadavg()[0]:.2f}; {before['hardware']}")
    if out is not None:
        out.write_text(json.dumps({**before, "load_after": os.getloadavg(), "device": device, "rows": rows}, indent=1))


if __name__ == "__main__":
    typer.run(main)
