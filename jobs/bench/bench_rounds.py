"""Federated rounds on Ray: fixed costs and wall time, of distens and of Flower's simulation.

    python jobs/bench/bench_rounds.py --flower-python VENV/bin/python --out rounds.json
    python jobs/bench/bench_rounds.py --flower-python VENV/bin/python --case lenet --images FOLDER_OF_IDX_FILES

Both have two actors of one CPU and one thread each, FedAvg over all clients, no evaluation, and no dashboard. Clients
that do nothing return what they received; they show the cost of a round itself. LeNet's clients have the same rows on
both sides, the same architecture, batch size, rate and one epoch.

The clock on both sides begins with the start of a fresh Python process, so it includes imports, reading and scaling of
rows, the start of Ray and of actors, and the first weights. A round ends when the server has the merged weights. By
then distens has also checked every update, and begins to write the round to disk while it dispatches the next; it loads
torch in all processes, Flower only for LeNet. On both sides the clock excludes everything after the last round. A first
run of each, which is not counted, fills the file caches.

Repetitions alternate. `first` is seconds from the process's start to the end of round 1; `round` the median of the
later rounds; `CPU` the CPU seconds of all processes, Ray's own included, to the end of round 1. Wall times of a busy
machine mean little: its load goes with the results.
"""

from __future__ import annotations

import compileall
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from _rounds_ours import IDLE

CLASSES, FEATURES, PIXELS = 10, 16, 28
TEST_ROWS = 100
BATCH, RATE = 32, 0.05
LENET = "lenet"
TIMEOUT_SECONDS = 900
WANTED = {("", "first"): 2.0, ("idle-200", "round"): 3.0, ("idle-10-47mb", "round"): 3.0}
"""The targets of the ratios, by case (all: "") and column."""


@dataclass(frozen=True)
class Case:
    """The case that a row of the table measures.

    Attributes:
        rows: the number of rows, which are divided among the clients.
        hidden: widths of a multilayer perceptron whose clients do nothing; None for LeNet, which is trained.
    """

    clients: int
    rows: int
    hidden: tuple[int, ...] | None = None

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the weights if nothing is trained."""
        widths = [FEATURES, *(self.hidden or ()), CLASSES]
        return [shape for i, width in enumerate(widths[1:]) for shape in ((width, widths[i]), (width,))]

    def members(self) -> dict[str, Any]:
        """Return the `members` section of a config."""
        if self.hidden is not None:
            return {"client": {"kind": "idle", "model": {"kind": "mlp", "hidden": list(self.hidden)}}}
        given = {"epochs": 1, "batch_size": BATCH, "learning_rate": RATE, "clip": None}
        return {"client": {"kind": "client", "model": LENET, **given}}


CASES = {
    "idle-10": Case(10, 2000, (64,)),
    "idle-50": Case(50, 2000, (64,)),
    "idle-200": Case(200, 2000, (64,)),
    "idle-10-47mb": Case(10, 2000, (3450, 3450)),
    LENET: Case(10, 6000),
}
Source = tuple[Path, float]
"""A file of rows, and the share of them that are tested on."""


def main(
    flower_python: Annotated[Path | None, typer.Option(help="An interpreter that has flwr[simulation].")] = None,
    case: Annotated[list[str] | None, typer.Option(help=f"{', '.join(CASES)}; repeatable; default: all.")] = None,
    rounds: Annotated[int, typer.Option(min=3)] = 10,
    repetitions: int = 3,
    images: Annotated[Path | None, typer.Option(help="A folder of idx files; else LeNet's are made up.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write everything here, as JSON.")] = None,
    tree: Annotated[Path | None, typer.Option(help="Measure this package `distens`, not the installed one.")] = None,
) -> None:
    """Print the table; write it as JSON with --out."""
    names = case or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        raise typer.BadParameter(f"unknown case {unknown[0]}; known: {', '.join(CASES)}")
    with tempfile.TemporaryDirectory(prefix="rounds-") as folder:
        bench = Bench(Path(folder), rounds, flower_python, tree)
        found = {name: bench.case(name, CASES[name], repetitions, images) for name in names}
    show(found)
    if out is not None:
        about = {
            "rounds": rounds,
            "repetitions": repetitions,
            "images": str(images or "made up"),
            "cpus": os.cpu_count(),
        }
        out.write_text(json.dumps({"about": about, "cases": found}, indent=1))


@dataclass(frozen=True)
class Bench:
    """A bench that runs both sides, in processes of their own, in a temporary folder."""

    folder: Path
    rounds: int
    flower_python: Path | None
    tree: Path | None

    def __post_init__(self) -> None:
        import distens

        package = self.tree or Path(distens.__file__).parent
        shutil.copytree(package, self.folder / "distens", ignore=shutil.ignore_patterns("__pycache__"))
        (self.folder / "distens" / "members" / "idle.py").write_text(IDLE)
        compileall.compile_dir(self.folder / "distens", quiet=1)

    def case(self, name: str, case: Case, repetitions: int, images: Path | None) -> dict[str, list[dict[str, Any]]]:
        """Return each side's repetitions."""
        source = made_up(self.folder / f"{name}.npz", case) if images is None or case.hidden else None
        source = source or read(self.folder / f"{name}.npz", case, images)
        warm = self.ours(name, case, source, 2, "warm")
        asked = self.asked(name, case, source, warm["path"])
        found: dict[str, list[dict[str, Any]]] = {"distens": [], "flower": []}
        if self.flower_python is not None:
            self.flower(name, asked, 2)
        for repetition in range(repetitions):  # interleaved, so that a busy moment affects both alike
            found["distens"].append(self.ours(name, case, source, self.rounds, str(repetition)))
            if found["distens"][-1]["partition"] != warm["partition"]:
                raise SystemExit(f"{name}: clients had other rows than in the run before")
            if self.flower_python is not None:
                found["flower"].append(self.flower(name, asked, self.rounds))
            latest = ", ".join(
                f"{side} {runs[-1]['first']:.2f} {runs[-1]['round']:.3f}" for side, runs in found.items() if runs
            )
            print(f"{name} {repetition}: {latest}", file=sys.stderr, flush=True)
        return found

    def ours(self, name: str, case: Case, source: Source, rounds: int, repetition: str) -> dict[str, Any]:
        """Run distens once."""
        path, test = source
        config = {
            "name": name,
            "role": "federated",
            "storage": str(self.folder / "runs" / repetition),
            "data": {"source": str(path), "splits": {"train": 1 - test, "search": 0, "combine": 0, "test": test}},
            "federated": {"clients": case.clients, "partition": "iid", "rounds": rounds},
            "members": case.members(),
            "merge": "fedavg",
            "calibrate": "none",
            "runtime": {"kind": "ray_actors", "address": "local", "concurrency": 2},
            "tracking": "off",
        }
        return self._timed(f"{name}-distens", sys.executable, "_rounds_ours.py", config, case.clients, rounds)

    def asked(self, name: str, case: Case, source: Source, run: str) -> dict[str, Any]:
        """Return the input of Flower, with the same clients as a run of distens."""
        from distens.partition.protocol import Partition
        from distens.storage.store import Store

        store = Store(run)
        clients = Partition.read(store).rows
        asked = {
            "clients": case.clients,
            "rows": [len(places) for places in clients.values()],
            "shapes": case.shapes,
            "train": None,
        }
        if case.hidden is not None:
            return asked
        folder = self.folder / f"{name}-clients"
        folder.mkdir()
        train_N = store.read_state("splits.safetensors").arrays["train"]
        with np.load(source[0]) as found:
            x, y = found["x"][train_N], found["y"][train_N]
        for place, mine in enumerate(clients.values()):
            np.savez(folder / f"{place}.npz", x=x[mine], y=y[mine])
        scaling = store.read_json("preprocessing.json")
        scaled = {"mean": scaling["means_C"][0], "scale": scaling["scales_C"][0]}
        recipe = {"batch_size": BATCH, "learning_rate": RATE, "classes": CLASSES}
        return {**asked, "train": {"folder": str(folder), **scaled, **recipe}}

    def flower(self, name: str, asked: Mapping[str, Any], rounds: int) -> dict[str, Any]:
        """Run Flower once."""
        given = {**asked, "rounds": rounds}
        return self._timed(
            f"{name}-flower", str(self.flower_python), "_rounds_flower.py", given, asked["clients"], rounds
        )

    def _timed(self, name: str, python: str, script: str, given: Any, clients: int, rounds: int) -> dict[str, Any]:
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(given))
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON", "VIRTUAL_ENV"))}
        environment |= {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
        environment |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(self.folder / "flwr")}
        if python == sys.executable:
            environment["PYTHONPATH"] = str(self.folder)
        load, command = os.getloadavg()[0], [python, str(Path(__file__).with_name(script)), str(path)]
        started = time.time()
        done = subprocess.run(
            command,
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if done.returncode or not lines:
            raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
        found = json.loads(lines[-1].removeprefix("RESULT "))
        if found["clients"] != [clients] * rounds:
            raise SystemExit(f"{name}: of {clients} clients there came {found['clients']}: {done.stderr[-4000:]}")
        later = np.diff(found["ended"])
        return {
            **found,
            "first": found["ended"][0] - started,
            "round": float(np.median(later)),
            "rounds": later.tolist(),
            "load": load,
        }


def made_up(path: Path, case: Case) -> Source:
    """Write artificial rows: numbers, or images of ten shapes under noise."""
    rng, total = np.random.default_rng(0), case.rows + TEST_ROWS
    labels_N = np.arange(total) % CLASSES
    if case.hidden is not None:
        np.savez(path, x=rng.normal(size=(total, FEATURES)).astype(np.float32), y=labels_N)
    else:
        coarse = rng.random((CLASSES, PIXELS // 4, PIXELS // 4)) * 160
        shapes = coarse.repeat(4, axis=1).repeat(4, axis=2)
        noisy = shapes[labels_N] + rng.normal(scale=60, size=(total, PIXELS, PIXELS))
        np.savez(path, x=noisy.clip(0, 255).astype(np.uint8), y=labels_N)
    return path, TEST_ROWS / total


def read(path: Path, case: Case, images: Path | None) -> Source:
    """Write rows drawn from a folder of idx files, for the case and the test."""
    from distens.config.sections import DataSection
    from distens.data import source

    raw = source.read_source(DataSection.model_validate({"source": str(images)}))
    chosen = np.random.default_rng(0).permutation(len(raw.targets_N))[: case.rows + TEST_ROWS]
    np.savez(path, x=raw.rows[chosen], y=raw.targets_N[chosen])
    return path, TEST_ROWS / len(chosen)


def show(found: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Seconds: median of repetitions (least to most)")
    for heading in ("case", "", "distens", "Flower", "Flower / distens", "wanted", "last loss"):
        table.add_column(heading, justify="left" if heading in ("case", "") else "right")
    for name, sides in found.items():
        ours, theirs = sides["distens"], sides["flower"]
        for what in ("first", "cpu", "round"):
            wanted = WANTED.get((name, what), WANTED.get(("", what)))
            ratio = statistics.median(t[what] / o[what] for o, t in zip(ours, theirs, strict=True)) if theirs else None
            colour = "" if ratio is None or ratio >= (wanted or 1.0) else "[red]"
            shown = "–" if ratio is None else f"{colour}{ratio:.2f}"
            losses = ", ".join(f"{runs[-1]['losses'][-1]:.3f}" for runs in (ours, theirs) if runs)
            last = losses if what == "round" else ""
            cells = (spread(ours, what), spread(theirs, what), shown, "–" if wanted is None else f"{wanted:g}", last)
            table.add_row(name if what == "first" else "", what, *cells, end_section=what == "round")
    Console(width=130).print(table)
    for sides in found.values():
        print(
            "; ".join(", ".join(f"{k} {v}" for k, v in runs[0]["versions"].items()) for runs in sides.values() if runs)
        )
        break


def spread(runs: Sequence[Mapping[str, Any]], what: str) -> str:
    """Return the median of runs, and the least and the most."""
    values = [run[what] for run in runs]
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})" if values else "–"


if __name__ == "__main__":
    typer.run(main)
