"""Federations compared on the same clients: one shot, rounds, and robustness against clients that lie.

    python jobs/bench/bench_federated.py one-shot --data DIR --out RUNS  methods and weights, three alphas, three seeds
    python jobs/bench/bench_federated.py one-shot --mixed --data DIR --out RUNS  clients of several architectures
    python jobs/bench/bench_federated.py rounds --data DIR --out RUNS  rules and corrections, accuracy by round
    python jobs/bench/bench_federated.py robust --data DIR --out RUNS  two of ten clients flip the sign of their update
    python jobs/bench/bench_federated.py report --out RUNS  the results so far, also while jobs still run

`DIR` is a folder with the four idx files of Fashion-MNIST, or another source with a test part. A job is one partition
and seed; all its methods have the same clients (the partition follows from the seed and the rule alone), with one
thread each. Results in `RUNS` are not computed again. The report is on the models after the last epoch or round, on the
test part, which is read once. `rounds` also measures the weights after each round on 1,800 rows of the server's own,
which nothing else uses.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

TRAIN, SERVER = 20_000, 2_000
LABELLED = 200
"""The number of the server's own labelled rows, if it has some for its weights."""

MADE = {"epochs": 40, "batch_size": 64, "generator_steps": 20, "width": 8}
"""The budget of every method that generates rows."""

PAPER = {"average": "logits", "temperature": 4.0}
OURS = {"kind": "coboost", **MADE}
DENSE, COBOOST = "DENSE", "Co-Boosting"
PAPERS: Mapping[str, dict[str, Any]] = {
    DENSE: {"kind": "dense", **PAPER},
    COBOOST: {"kind": "coboost", **PAPER, "weights": "unguarded"},
}
GUARDED: dict[str, Any] = {"kind": "coboost", **PAPER, "weights": "guarded"}
ABLATED: Mapping[str, dict[str, Any]] = {
    "ours, without hard samples": {"kind": "coboost", "hard_samples": False},
    "ours, without diverse samples": {"kind": "coboost", "diverse_samples": False},
}
"""Our method without single parts, only at `ABLATED_AT`. Without labels it has no weight step."""
ABLATED_AT = 0.1

MIXED: Mapping[str, Any] = {
    "lenet": "lenet",
    "wide": {"kind": "lenet", "width": 2},
    "dense": {"kind": "mlp", "hidden": [128]},
}
MIXED_SHOT = "one-shot-mixed"

RULES: Mapping[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"proximal": 0.01},
    "scaffold": {"merge": "scaffold"},
    "feddisco": {"merge": "feddisco"},
    "fedavg + fedftg": {"distill": {"kind": "fedftg", "width": 8}},
}
ROBUST: Mapping[str, Any] = {
    "fedavg": "fedavg",
    "median": "median",
    "trimmed_mean": {"kind": "trimmed_mean", "cut": 0.2},
    "krum": {"kind": "krum", "faulty": 2, "keep": 6},
}
GOAL = 0.80

Out = Annotated[Path, typer.Option(help="Where results go; what is there is not done again.")]
Data = Annotated[str, typer.Option(help="A folder of idx files, or any source.")]


def client(**changes: Any) -> dict[str, Any]:
    """Return the settings of the clients: LeNet-5, as in Co-Boosting's paper, with fewer epochs."""
    usual = {
        "kind": "client",
        "model": "lenet",
        "epochs": 10,
        "batch_size": 128,
        "learning_rate": 0.01,
        "momentum": 0.9,
    }
    return {**usual, **changes}


def values(data: str, out: Path, seed: int, splits: Mapping[str, float], **changes: Any) -> dict[str, Any]:
    """Return a config."""
    return {
        "name": "bench",
        "role": "federated",
        "seed": seed,
        "storage": str(out / "runs"),
        "data": {"source": data, "rows": TRAIN + SERVER, "splits": {**splits, "test": "given"}},
        "calibrate": "none",
        "runtime": "inline",
        "tracking": "off",
        **changes,
    }


def shares(labelled: int) -> dict[str, float]:
    """Return splits with the same training rows for any number of labelled rows at the server."""
    rows = TRAIN + SERVER
    return {"train": TRAIN / rows, "search": labelled / rows, "combine": (SERVER - labelled) / rows}


def carried_out(config: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """Carry out a run and return its results and folder."""
    import distens
    from distens.config.config import parse_config

    result = distens.run(parse_config(config), overwrite=True)
    return json.loads(Path(result.path, "results.json").read_text()), Path(result.path)


def one_shot_job(data: str, out: Path, alpha: float, seed: int, clients: int, besides: str) -> dict[str, Any]:
    """Return accuracies of every method on one partition: `students` by their teachers, and `ensembles`.

    Args:
        besides: `ablated` also leaves out single parts of our method; `mixed` gives the architectures of `MIXED` to
            clients in turn, which cannot be merged; the student has the first.
    """
    federated = {"clients": clients, "partition": {"kind": "dirichlet_clients", "alpha": alpha}, "rounds": 1}
    shared = {"federated": federated, "members": {"client": client()}, "merge": "uniform"}
    mixed = besides == "mixed"
    if mixed:
        shared = {"federated": federated, "members": {name: client(model=model) for name, model in MIXED.items()}}
    students, ensembles = {}, {}

    def run(labelled: int, ours: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], suffix: str = "") -> None:
        named = {f"b{place}": spec for place, spec in enumerate(others.values())}
        baselines = [{"name": name, **spec} for name, spec in named.items()]
        found, folder = carried_out(
            values(data, out, seed, shares(labelled), **shared, distill=ours, baselines=baselines)
        )
        rows = {"student": "ours" + suffix, **dict(zip(named, (name + suffix for name in others), strict=True))}
        students.update({label: found[row]["accuracy"] for row, label in rows.items()})
        if not mixed:
            students["one-shot FedAvg"] = found["global"]["accuracy"]
        students["mean client"] = found["mean_client"]["accuracy"]
        ensembles.update(_ensembles(folder, {"student": ours, **named}, rows))
        shutil.rmtree(folder)

    run(0, OURS, {**PAPERS, **(ABLATED if besides == "ablated" else {})})
    if mixed:
        return {"alpha": alpha, "seed": seed, "clients": clients, "students": students, "ensembles": ensembles}
    run(LABELLED, OURS, {f"{COBOOST}, guarded": GUARDED}, f", {LABELLED} labels")
    real = {"kind": "feddf", "average": "classwise"}
    run(SERVER - 200, real, {"FedDF": {"kind": "feddf"}}, f" on {SERVER - 200} real rows")
    return {"alpha": alpha, "seed": seed, "clients": clients, "students": students, "ensembles": ensembles}


def _ensembles(folder: Path, asked: Mapping[str, Mapping[str, Any]], rows: Mapping[str, str]) -> dict[str, float]:
    """Return the accuracy of the clients' ensemble, by the average and the weights, which are known or learned.

    Args:
        asked: row of the run -> the distiller that it comes from.
        rows: row -> its name.
    """
    from distens.counts import disco
    from distens.members.client import read_histogram
    from distens.roles.federated.weighting import combine_clients
    from distens.storage.encoding import report_from_json
    from distens.storage.store import Store

    store, reports = Store(str(folder)), {}
    for path in sorted(folder.glob("members/c[0-9]*/*/report.json")):
        reports[path.parent.parent.name] = report_from_json(json.loads(path.read_text()))
    probs_MNC = np.stack([store.read_predictions(report.files["test"]) for report in reports.values()])
    counts_MC = np.array([read_histogram(report.metrics, probs_MNC.shape[2]) for report in reports.values()])
    labels_N, found = _test_labels(folder), {}

    def add(name: str, average: Any, weights_M: Any) -> None:
        said_NC = combine_clients(average, weights_M, counts_MC).probs_NC(probs_MNC)
        found[name] = float((said_NC.argmax(axis=1) == labels_N).mean())

    known = {"uniform": np.full(len(counts_MC), 1 / len(counts_MC)), "FedDisco": disco(counts_MC)}
    for average in ("logits", "probabilities", "classwise"):
        for name, weights_M in known.items():
            add(f"{average}, {name}", average, weights_M)
    for row, spec in asked.items():
        path = next(folder.glob(f"members/{row}/*/made.safetensors"))
        arrays = store.read_state(str(path.relative_to(folder))).arrays
        if "weights_M" in arrays:
            average = spec.get("average", "classwise")
            add(f"{average}, learned by {rows[row]}", average, arrays["weights_M"])
    return found


def _test_labels(folder: Path) -> np.ndarray[Any, Any]:
    from distens.config.config import load_config
    from distens.data import source

    raw = source.read_source(load_config(folder / "config.yaml").data)
    assert raw.test_targets_N is not None
    return raw.test_targets_N


def rounds_job(data: str, out: Path, method: str, seed: int, rounds: int) -> dict[str, Any]:
    """Return one method's accuracy by round on the server's rows, and at the end on the test part."""
    change = dict(RULES[method])
    proximal = change.pop("proximal", 0.0)
    plain = client(epochs=2, batch_size=50, learning_rate=0.05, momentum=0.0, proximal=proximal)
    partition = {"kind": "dirichlet_classes", "alpha": 0.1}
    federated = {"clients": 20, "per_round": 5, "rounds": rounds, "partition": partition}
    splits = shares(SERVER - 200)
    given = values(data, out, seed, splits, federated=federated, members={"client": plain}, **change)
    found, folder = carried_out(given)
    shutil.rmtree(folder)
    curve = [1 - log["metrics"]["error"] for log in found["rounds"]]
    return {"method": method, "seed": seed, "curve": curve, "test": found["global"]["accuracy"]}


def robust_job(data: str, out: Path, method: str, lying: int, seed: int, rounds: int) -> dict[str, Any]:
    """Return the accuracy under one rule with `lying` clients that lie."""
    plain = client(kind="_federated_liar:Flipped", epochs=1, batch_size=50, learning_rate=0.05, momentum=0.0)
    plain["flips"] = [f"c{i}" for i in range(lying)]
    federated = {"clients": 10, "rounds": rounds, "partition": "iid"}
    splits = shares(SERVER - 200)
    given = values(data, out, seed, splits, federated=federated, members={"client": plain}, merge=ROBUST[method])
    found, folder = carried_out(given)
    shutil.rmtree(folder)
    return {"method": method, "lying": lying, "seed": seed, "test": found["global"]["accuracy"]}


def _all(out: Path, kind: str, jobs: Mapping[str, tuple[Any, ...]], data: str, processes: int) -> None:
    work = {"one-shot": one_shot_job, MIXED_SHOT: one_shot_job, "rounds": rounds_job, "robust": robust_job}[kind]
    (out / kind).mkdir(parents=True, exist_ok=True)
    left = {name: arguments for name, arguments in jobs.items() if not (out / kind / f"{name}.json").exists()}
    print(f"{len(left)} of {len(jobs)} jobs to do", flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        started = time.time()
        done = {pool.submit(work, data, out / kind / name, *a): name for name, a in left.items()}
        for future in as_completed(done):
            name = done[future]
            (out / kind / f"{name}.json").write_text(json.dumps(future.result(), indent=1))
            shutil.rmtree(out / kind / name, ignore_errors=True)
            print(f"{time.time() - started:.0f} s: {name}", flush=True)


@app.command()
def one_shot(
    data: Data,
    out: Out,
    alpha: Annotated[list[float] | None, typer.Option(help="Dirichlet's; several.")] = None,
    seeds: int = 3,
    clients: int = 10,
    mixed: Annotated[bool, typer.Option(help="Clients of several architectures.")] = False,
    processes: int = 2,
) -> None:
    """Compare methods for a server whose clients train only once."""
    jobs = {
        f"alpha{a:g}-clients{clients}-{s}": (a, s, clients, "mixed" if mixed else "ablated" if a == ABLATED_AT else "")
        for s in range(seeds)
        for a in alpha or [0.05, 0.1, 0.3]
    }
    _all(out, MIXED_SHOT if mixed else "one-shot", jobs, data, processes)
    report(out)


@app.command()
def rounds(data: Data, out: Out, seeds: int = 3, number: int = 60, processes: int = 2) -> None:
    """Compare rules over rounds: 20 clients, 5 a round, each class divided by Dirichlet(0.1)."""
    jobs = {f"{method.replace(' ', '')}-{s}": (method, s, number) for s in range(seeds) for method in RULES}
    _all(out, "rounds", jobs, data, processes)
    report(out)


@app.command()
def robust(data: Data, out: Out, seeds: int = 3, number: int = 20, processes: int = 2) -> None:
    """Compare rules with and without two of ten clients that flip the sign of their update."""
    jobs = {f"{m}-{liars}-{s}": (m, liars, s, number) for s in range(seeds) for m in ROBUST for liars in (0, 2)}
    _all(out, "robust", jobs, data, processes)
    report(out)


@app.command()
def report(out: Out) -> None:
    """Print the results so far."""
    console, kinds = Console(width=160), ("one-shot", MIXED_SHOT, "rounds", "robust")
    if not any(path for kind in kinds for path in (out / kind).glob("*.json")):
        typer.echo(f"--out: no results in {out}: no .json in {', '.join(kinds)}, which those commands fill", err=True)
        raise typer.Exit(1)
    for kind in kinds:
        found = [json.loads(path.read_text()) for path in sorted((out / kind).glob("*.json"))]
        if found and kind in ("one-shot", MIXED_SHOT):
            title = "One shot" + ", clients of several architectures" * (kind == MIXED_SHOT)
            console.print(_one_shot_table(found, "students", title), _one_shot_table(found, "ensembles", title))
        elif found:
            console.print(_rounds_table(found) if kind == "rounds" else _robust_table(found))


def _spread(numbers: list[float]) -> str:
    deviation = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else float("nan")
    return f"{100 * float(np.mean(numbers)):.1f} ± {100 * deviation:.1f}"


def _one_shot_table(found: list[dict[str, Any]], kind: str, title: str) -> Table:
    """Return a table of students and ensembles, with the worst job's result relative to uniform weights."""
    alphas = sorted({job["alpha"] for job in found})
    title = f"{title}, {kind}: test accuracy (%), mean ± standard deviation over partitions"
    table = Table(title=title + "; last: the worst job against uniform weights" * (kind == "ensembles"))
    for heading in ("", *(f"alpha {a:g}" for a in alphas), "all", *(["worst"] * (kind == "ensembles"))):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in dict.fromkeys(row for job in found for row in job[kind]):
        by = {a: [job[kind][row] for job in found if job["alpha"] == a and row in job[kind]] for a in alphas}
        cells = [_spread(by[a]) if by[a] else "" for a in alphas]
        every = (
            f"{100 * float(np.mean([v for numbers in by.values() for v in numbers])):.1f}" if all(by.values()) else ""
        )
        worst = []
        if kind == "ensembles":
            uniform = f"{row.partition(',')[0]}, uniform"
            worst = [f"{100 * min(job[kind][row] - job[kind][uniform] for job in found if row in job[kind]):+.1f}"]
        table.add_row(row, *cells, every, *worst)
    return table


def _rounds_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title=f"Rounds: test accuracy (%) after the last, and rounds until {GOAL:.0%} on the server's rows")
    for heading in ("", "test", f"rounds to {GOAL:.0%}", "server's rows after 10", "20", "40", "last"):
        table.add_column(heading, justify="left" if not heading else "right")
    for method in dict.fromkeys(job["method"] for job in found):
        jobs = [job for job in found if job["method"] == method]
        reached = [next((i + 1 for i, a in enumerate(job["curve"]) if a >= GOAL), None) for job in jobs]
        at = [[job["curve"][min(i, len(job["curve"])) - 1] for job in jobs] for i in (10, 20, 40, 10**6)]
        shown = ", ".join("never" if number is None else str(number) for number in reached)
        table.add_row(method, _spread([job["test"] for job in jobs]), shown, *map(_spread, at))
    return table


def _robust_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="Test accuracy (%), ten clients, mean ± standard deviation over seeds")
    for heading in ("", "nobody lies", "two turn their update round"):
        table.add_column(heading, justify="left" if not heading else "right")
    for method in dict.fromkeys(job["method"] for job in found):
        cells = [[j["test"] for j in found if j["method"] == method and j["lying"] == liars] for liars in (0, 2)]
        table.add_row(method, *(_spread(cell) if cell else "" for cell in cells))
    return table


if __name__ == "__main__":
    app()
