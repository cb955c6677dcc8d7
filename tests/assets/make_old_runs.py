"""Make runs of every kind with whatever version of the code is imported, and keep them for the tests of later versions.

    PYTHONPATH=CODE python tests/assets/make_old_runs.py WORK [--only NAME ...] [--out tests/assets/old]

WORK is an empty folder, where the runs are done; CODE the version that is to write them. What is read by
`tests/system/test_old_runs.py` comes from the version before the package was divided into rooms. A later format adds
runs beside those, under new names, and leaves these as they are: they are the proof that its runs are still read.

All are done by the command line. Interrupted ones are killed by SIGKILL once something has happened, and a copy is
resumed by the same code: what it ended with is noted.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import old_runs

ASSETS = Path(__file__).parent
NOT_KEPT = ("figures", "report.html", "tune", "mlruns", "mlflow.db")
"""Pictures, which nothing reads again; of a sweep Tune's own notes, which hold pickles; MLflow's store."""

ROOM = {"CPU": 2, "disk": 4}
"""What the local Ray is told it has, for clients that occupy something of their own."""

NETWORK = {
    "kind": "classifier",
    "model": {"kind": "mlp", "hidden": {"choices": [[6], [9]]}, "dropout": {"low": 0.0, "high": 0.3}},
    "learning_rate": {"low": 3e-3, "high": 3e-2, "log": True},
    "epochs": 9,
    "batch_size": 16,
}
FOREST = {"kind": "estimator", "estimator": "random_forest", "options": {"n_estimators": 4, "max_depth": 3}}
BOOSTING = {"kind": "estimator", "estimator": "lightgbm", "options": {"n_estimators": 4, "num_leaves": 4}}
NEIGHBOURS = {"kind": "estimator", "estimator": "k_nearest_neighbours"}
LOGISTIC = {"kind": "estimator", "estimator": "logistic_regression"}
WINE = {"source": "sklearn:wine", "splits": {"train": 0.4, "search": 0.2, "combine": 0.2, "test": 0.2}}
DIGITS = {"source": "sklearn:digits", "rows": 400, "splits": {"train": 0.5, "search": 0.1, "combine": 0.1, "test": 0.3}}
CLIENT = {"kind": "client", "model": {"kind": "mlp", "hidden": [8]}, "optimizer": "sgd", "learning_rate": 0.05}
SHARES = {"kind": "dirichlet_classes", "alpha": 0.5}


@dataclass(frozen=True)
class Recipe:
    """One run.

    Attributes:
        config: as a user writes it, without name, storage and tracking.
        rows: of which data set some rows are predicted: `table`, or one of scikit-learn's.
        stop: returns whether it is time to kill the driver, by its log and the run's folder; None: the run finishes.
        after: the name of the interrupted run that this one goes on with, to be interrupted again.
        predict: further arguments of `distens predict`; a first one without a dash is a bundle's name.
        deeper: a run of it with a higher `schedule.maximum` is noted as well.
        command: of `distens`.
        registered: the run is tracked by MLflow, and the model that it registers is kept.
    """

    config: Mapping[str, Any]
    rows: str
    stop: Callable[[str, Path], bool] | None = None
    after: str = ""
    predict: Sequence[Sequence[str]] = field(default_factory=tuple)
    deeper: int = 0
    command: str = "run"
    registered: bool = False


def _says(words: str, times: int = 1) -> Callable[[str, Path], bool]:
    return lambda log, run: log.count(words) >= times


def _half_trained(log: str, run: Path) -> bool:
    """Whether a member has a checkpoint of its last third."""
    for file in run.glob("members/*/checkpoint.safetensors"):
        content = file.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        if json.loads(header["__metadata__"]["distens"])["epoch"] >= 0.7 * LONG:
            return True
    return False


LONG = 400
"""Epochs that take a few seconds: checkpoints are two seconds apart."""

SMALL = {"kind": "mlp", "hidden": [7]}
STUDENT = {"kind": "classifier", "model": SMALL, "learning_rate": 0.01, "epochs": 5}

KILLED = {
    "seed": 120,  # four networks, a forest, settings that are refused, the long one, three more
    "data": {"source": "table.csv", "target": "kind"},
    "members": {
        "network": {**NETWORK, "epochs": {"choices": [9, 12]}},
        "long": {**NETWORK, "model": SMALL, "learning_rate": 1e-6, "epochs": LONG, "batch_size": 4},  # never the best
        "forest": FOREST,
        "neighbours": {**NEIGHBOURS, "options": {"n_neighbors": {"choices": [3, 5, 500]}}},
        "logistic": LOGISTIC,
    },
    "search": {"kind": "random", "members": 10},
    "distill": {"kind": "student", "copies": 1, "network": STUDENT},
    "baselines": ["larger_single"],
    "runtime": {"kind": "inline", "pack": 1},
}

RUNS: dict[str, Recipe] = {
    "table": Recipe(
        {
            "seed": 1,
            "data": {"source": "table.csv", "target": "kind"},
            "members": {
                "network": NETWORK,
                "forest": FOREST,
                "boosting": {**BOOSTING, "rows": "bootstrap"},
                "neighbours": {**NEIGHBOURS, "options": {"n_neighbors": {"choices": [3, 5, 500]}}},
                "logistic": LOGISTIC,
            },
            "search": {"kind": "evolution", "members": 16},
            "select": {"kind": "greedy", "size": 8},
            "combine": "stack",
            "distill": {"kind": "student", "copies": 1},
            "baselines": ["larger_single", "seed_ensemble"],
            "runtime": "inline",
        },
        "table",
        predict=[["--student"], ["--mean-members", "1.5"]],
    ),
    "rungs": Recipe(
        {
            "data": WINE,
            "members": {"network": NETWORK},
            "search": "random",
            "schedule": {"kind": "hyperband", "maximum": 3},
            "select": "quadratic",
            "combine": "classwise",
            "runtime": {"kind": "inline", "pack": 3},
        },
        "wine",
        deeper=9,
    ),
    "killed": Recipe(KILLED, "table", stop=_half_trained),
    "killed_late": Recipe(KILLED, "table", stop=_says("student: nll"), after="killed"),
    "rungs_killed": Recipe(
        {
            "data": WINE,
            "members": {"network": NETWORK, "boosting": BOOSTING},
            "search": {"kind": "evolution", "members": 9},
            "schedule": {"kind": "halving", "minimum": 1, "eta": 3},
            "select": "quadratic",
            "distill": {"kind": "student", "copies": 1},
            "runtime": "inline",
        },
        "wine",
        stop=_says(": nll ", 8),
    ),
    "one_shot": Recipe(
        {
            "role": "federated",
            "data": DIGITS,
            "federated": {"clients": 4, "partition": SHARES},
            "members": {"client": {**CLIENT, "epochs": 4}},
            "merge": "fedavg",
            "distill": {"kind": "coboost", "epochs": 3, "batch_size": 16, "generator_steps": 2, "width": 2, "pool": 16},
            "baselines": [{"kind": "feddf", "name": "plain", "epochs": 2}],
            "runtime": "inline",
        },
        "digits",
        predict=[["global"], ["student"], ["ensemble"]],
    ),
    "one_shot_killed": Recipe(
        {
            "role": "federated",
            "data": DIGITS,
            "federated": {"clients": 5, "partition": {"kind": "shards", "per_client": 4}},
            "members": {
                "small": {**CLIENT, "epochs": 3},
                "large": {**CLIENT, "model": {"kind": "mlp", "hidden": [12]}, "epochs": 3},
            },
            "distill": {"kind": "feddf", "epochs": 3},
            "runtime": {"kind": "inline", "pack": 1},
        },
        "digits",
        stop=_says("c2 "),
    ),
    "rounds": Recipe(
        {
            "role": "federated",
            "data": DIGITS,
            "federated": {"clients": 5, "partition": SHARES, "rounds": 4, "per_round": 3},
            "members": {"client": {**CLIENT, "epochs": 2}},
            "merge": "fedadam",
            "runtime": "inline",
        },
        "digits",
    ),
    "rounds_killed": Recipe(
        {
            "role": "federated",
            "data": DIGITS,
            "federated": {"clients": 4, "partition": SHARES, "rounds": 4, "per_round": 3},
            "members": {"client": {**CLIENT, "epochs": 2}},
            "merge": "scaffold",
            "distill": {"kind": "fedftg", "iterations": 2, "width": 2, "batch_size": 16},
            "runtime": "inline",
        },
        "digits",
        stop=_says("round 2 of 4: 3 of 3"),
    ),
    "placed": Recipe(
        {
            "role": "federated",
            "data": DIGITS,
            "federated": {
                "clients": 3,
                "partition": "iid",
                "resources": {"c1": {"cpus": 0.5, "memory_gib": 0.25}, "client": {"custom": {"disk": 2}}},
            },
            "members": {"client": {**CLIENT, "epochs": 2}},
            "merge": "uniform",
            "runtime": {"kind": "ray_actors", "pack": 1},
        },
        "digits",
    ),
    "module": Recipe(
        {
            "data": {"source": "sklearn:iris"},
            "members": {
                "own": {"kind": "module", "path": "old_user_net:Net", "epochs": 4, "options": {"width": 5}},
                "logistic": {**LOGISTIC, "options": {"C": 0.01}},
            },
            "search": {"kind": "random", "members": 2},
            "select": {"kind": "top", "size": 2},
            "combine": "geometric",
            "runtime": {"kind": "inline", "pack": 1},
        },
        "iris",
        predict=[["--imports"]],
    ),
    "registered": Recipe(
        {
            "data": {"source": "table.csv", "target": "kind"},
            "members": {"network": NETWORK, "logistic": LOGISTIC},
            "search": {"kind": "random", "members": 4},
            "select": {"kind": "top", "size": 3},
            "runtime": "inline",
            "tracking": {"kind": "mlflow_runs", "uri": "sqlite:///mlflow.db"},
        },
        "table",
        registered=True,
    ),
    "swept": Recipe(
        {
            "data": WINE,
            "members": {"logistic": LOGISTIC, "neighbours": NEIGHBOURS},
            "search": {"kind": "random", "members": 3},
            "runtime": "inline",
            "sweep": {"over": {"select.size": {"choices": [2, 5]}, "combine": {"choices": ["average", "geometric"]}}}
            | {"samples": 2, "search": "random"},
        },
        "wine",
        command="sweep",
    ),
}


def table() -> str:
    """Return a table with numbers, missing ones, categories and rare ones, in three classes."""
    rng = np.random.default_rng(7)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["length", "mass", "colour", "place", "kind"])
    for kind in rng.choice(["ash", "elm", "oak"], 150, p=[0.4, 0.35, 0.25]):
        place = {"ash": 0.0, "elm": 1.0, "oak": 2.0}[kind]
        length, mass = rng.normal(place, 1.1), rng.normal(-place, 1.6)
        colour = rng.choice(["red", "green", "blue"], p=[0.2 + 0.4 * (kind == k) for k in ("ash", "elm", "oak")])
        where = "rare" if rng.random() < 0.02 else rng.choice(["hill", "dale"])
        told = "" if rng.random() < 0.05 else f"{mass:.2f}"
        writer.writerow([f"{length:.2f}", told, colour, where, kind])
    return out.getvalue()


def rows(of: str, folder: Path) -> Path:
    """Write some rows without their classes, as a user has them."""
    if of == "table":
        lines = [line.rpartition(",")[0] for line in table().splitlines()[:9]]
        file = folder / "rows.csv"
        file.write_text("\n".join([*lines, "0.5,,green,dale"]) + "\n")
        return file
    from sklearn import datasets

    bunch: Any = getattr(datasets, f"load_{of}")(as_frame=True)
    if "images" in bunch:
        np.savez_compressed(folder / "rows.npz", x=bunch["images"][:60:12])
        return folder / "rows.npz"
    bunch["data"].iloc[::30].to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


class Maker:
    """Does one run in a folder of its own, and keeps it."""

    def __init__(self, name: str, work: Path, out: Path) -> None:
        self.name, self.recipe, self.work, self.out = name, RUNS[name], work, out
        self.folder = work / name

    def make(self) -> dict[str, Any]:
        """Do the run, pack it, and return what the code says of it."""
        self._prepare()
        for _ in range(20):
            if self.recipe.after:
                shutil.rmtree(self.folder)
                shutil.copytree(self.work / self.recipe.after, self.folder)
            if self._done():
                break
            if not self.recipe.after:
                shutil.rmtree(self.folder / "runs")
        run = self._run_folder()
        found: dict[str, Any] = {"run": run.name, "arithmetic": old_runs.arithmetic()}
        if self.recipe.command == "sweep":
            found["table"] = old_runs.without_places(self._distens("sweep", "given.yaml").splitlines())
        else:
            found |= self._ended(run) if self.recipe.stop else self._again(run)
        if self.recipe.deeper:
            maximum = f"schedule.maximum={self.recipe.deeper}"
            found["deeper"] = {"set": maximum, **_outcome(self._resumed(run, "deeper", "--set", maximum))}
        if self.recipe.registered:
            (model,) = {path.parent for path in self.folder.rglob("MLmodel")}
            shutil.copytree(model, self.folder / "model")
        self._forget_places()
        self._pack()
        return found

    def _resumed(self, run: Path, to: str, *words: str) -> Path:
        """Resume a copy of a run; return it."""
        copy = self.work / "copies" / f"{self.name}-{to}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder, copy)
        self._distens("resume", f"runs/{run.name}", *words, cwd=copy)
        return copy / "runs" / run.name

    def _ended(self, run: Path) -> dict[str, Any]:
        """Return what there was of an interrupted run, and what comes of it."""
        ended = self._resumed(run, "ended")
        rounds = {entry["round"]: entry["seconds"] for entry in old_runs.journal(run, "rounds") if "round" in entry}
        before = {"finished": old_runs.finished(run), "rounds": list(rounds.values()), "list": self._listed(run)}
        return {**before, **_outcome(ended), "predict": self._predicted(ended)}

    def _again(self, run: Path) -> dict[str, Any]:
        """Return what is said of a finished run, and what it comes to when it is resumed all the same."""
        again = self._resumed(run, "again")
        report = self._distens("report", f"runs/{run.name}").splitlines()
        return {
            "report": [line for line in report if not line.startswith("report: ")],
            "list": self._listed(run),
            "predict": self._predicted(run),
            "results": old_runs.results(again),
        }

    def _prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.recipe.rows == "table":
            (self.folder / "table.csv").write_text(table())
        rows(self.recipe.rows, self.folder)
        given = {"name": self.name.replace("_late", ""), **self.recipe.config, "storage": "runs"}
        given.setdefault("tracking", "off")
        (self.folder / "given.yaml").write_text(json.dumps(given, indent=1))  # which is YAML too

    def _run_folder(self) -> Path:
        (run,) = (path for path in (self.folder / "runs").iterdir() if not path.name.startswith("."))
        return run

    def _done(self) -> bool:
        """Do the run, or do it until it is to be killed; return whether that came about."""
        what = f"runs/{self._run_folder().name}" if self.recipe.after else "given.yaml"
        command = "resume" if self.recipe.after else self.recipe.command
        log = self.folder.with_suffix(".log")
        with log.open("w") as out:
            driver = subprocess.Popen(
                [sys.executable, "-m", "distens.cli", command, what],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=_environment(),
            )
            while driver.poll() is None:
                if self.recipe.stop and self._is_time(log.read_text()):
                    driver.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.003)
            code = driver.wait()
        if self.recipe.stop is None:
            assert code == 0, log.read_text()
            return True
        assert code in (0, -signal.SIGKILL), log.read_text()
        return code == -signal.SIGKILL and not (self._run_folder() / "results.json").exists()

    def _is_time(self, log: str) -> bool:
        """Whether what the driver is killed upon has happened, and something is under way."""
        assert self.recipe.stop is not None
        folders = [path for path in (self.folder / "runs").glob("*") if not path.name.startswith(".")]
        if not folders or not self.recipe.stop(log, folders[0]):
            return False
        return self.recipe.config.get("federated", {}).get("rounds", 1) > 1 or bool(old_runs.pending(folders[0]))

    def _listed(self, run: Path) -> list[str]:
        lines = (line for line in self._distens("list").splitlines() if run.name in line.split())
        return old_runs.listed(next(lines))

    def _predicted(self, run: Path) -> dict[str, list[str]]:
        """Return what is predicted of some rows, by the further arguments of the command."""
        cwd, found = run.parents[1], {}
        for words in [[], *self.recipe.predict]:
            if not words and ["--imports"] in self.recipe.predict:
                continue  # it cannot do without
            place, options = old_runs.place_and_options(words)
            file = next(cwd.glob("rows.*")).name
            text = self._distens("predict", f"runs/{run.name}{place}", file, *options, cwd=cwd)
            found[" ".join(words)] = text.splitlines()
        return found

    def _distens(self, *words: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "distens.cli", *words],
            cwd=cwd or self.folder,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def _forget_places(self) -> None:
        """Take this machine's folders out of what says where it was made: the runs of a sweep, and MLflow's model."""
        for file in (*self.folder.glob("runs/*/*/config.yaml"), *self.folder.glob("model/MLmodel")):
            text = re.sub(r"(uri|model_code_path|storage): /\S*/", r"\1: /elsewhere/", file.read_text())
            file.write_text(text)

    def _pack(self) -> None:
        def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
            if Path(info.name).name in NOT_KEPT:
                return None
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = ""
            info.mode = 0o755 if info.isdir() else 0o644
            return info

        self.out.mkdir(parents=True, exist_ok=True)
        with tarfile.open(self.out / f"{self.name}.tar.xz", "w:xz", preset=9) as archive:
            archive.add(self.folder, self.name, filter=kept)


def _outcome(run: Path) -> dict[str, Any]:
    return {"members": old_runs.members(run), "results": old_runs.results(run), "bits": old_runs.bits(run)}


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ASSETS)]))
    room = {"RAY_OVERRIDE_RESOURCES": json.dumps(ROOM), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return {**os.environ, **room, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, default=ASSETS / "old")
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=list(RUNS))
    given = parser.parse_args()
    import distens

    sys.stdout.write(f"with {Path(distens.__file__).parent}\n")
    for name in given.only:
        began = time.monotonic()
        found = Maker(name, given.work.resolve(), given.out).make()
        (given.out / f"{name}.json").write_text(json.dumps(found, indent=0) + "\n")
        sizes = [(given.out / f"{name}{end}").stat().st_size for end in (".tar.xz", ".json")]
        sys.stdout.write(f"{name}: {sizes[0]} and {sizes[1]} bytes, {time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()
