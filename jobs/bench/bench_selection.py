"""Selection and diversity at size: time, peak memory and agreement, against a plain NumPy version and others.

    python jobs/bench/bench_selection.py --members 1000 --rows 10000 --classes 10 --out selection.json

Greedy selection (Caruana) of `--size` additions by `nll` and by `error`: distens with one and with 20 bootstrap
samples of the rows (the default of a run), a plain NumPy version (for each addition, for each member: the mean with
it, its metric), AutoGluon's `EnsembleSelection`, DeepHyper's `GreedySelector` and `TopKSelector`; and distens'
quadratic programme, another procedure with the same purpose. Then the measures of diversity, each against only the
matrix product that it needs: for `diversity` one product of all pairs of members per example, in float64 and in
blocks of 256 members, whole and, as the matrix is symmetric, its upper half; for the others one product in float32.

Every measurement is a process of its own with one thread; repetitions are interleaved, and the table has medians (the
JSON file has all). Peak memory is that of the whole process, interpreter and data included. "same" tells whether the
members and weights selected are those of the plain version (ties are broken alike: members already selected, then the
same random order; other libraries break ties in their own way, stop early or renormalise). AutoGluon and DeepHyper are
optional: name an interpreter that has them, and NumPy, with `--competitors`; they take minutes at full size, so
`--members 100` with them is a good start. A row that did not run shows the reason.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FLOOR = 1e-12


def make(members: int, rows: int, classes: int, folder: Path) -> None:
    """Write probs.npy (members x rows x classes, float32) and labels.npy.

    Members have unequal skill, and rows unequal difficulty, so that members err together.
    """
    rng = np.random.default_rng(0)
    labels_N = rng.integers(classes, size=rows)
    shared_NC = 0.7 * rng.normal(size=(rows, classes)).astype(np.float32)
    target_NC = np.eye(classes, dtype=np.float32)[labels_N]
    shape = (members, rows, classes)
    probs_MNC = np.lib.format.open_memmap(folder / "probs.npy", mode="w+", dtype=np.float32, shape=shape)
    for probs_NC in probs_MNC:
        noise_NC = rng.standard_normal((rows, classes), dtype=np.float32)
        logits_NC = 1.5 * ((1.0 + 2.0 * rng.random(dtype=np.float32)) * target_NC + shared_NC + noise_NC)
        probs_NC[:] = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        probs_NC /= probs_NC.sum(axis=1, keepdims=True)
    probs_MNC.flush()
    np.save(folder / "labels.npy", labels_N)


def plain(probs_MNC: Any, labels_N: Any, metric: str, size: int) -> Any:
    """Return weights_M of greedy selection in plain NumPy."""
    members, examples = len(probs_MNC), np.arange(len(labels_N))
    order_M = np.random.default_rng(0).permutation(members)
    sum_NC, counts_M, losses_M = np.zeros(probs_MNC.shape[1:]), np.zeros(members), np.zeros(members)
    for added in range(size):
        for m in range(members):
            mean_NC = (sum_NC + probs_MNC[m]) / (added + 1)
            if metric == "nll":
                losses_M[m] = -np.log(np.maximum(mean_NC[examples, labels_N], FLOOR)).mean()
            else:
                losses_M[m] = (mean_NC.argmax(axis=1) != labels_N).mean()
        equal = np.flatnonzero(losses_M <= losses_M.min() + 1e-12)
        chosen = min(equal, key=lambda m: (counts_M[m] == 0, order_M[m]))
        sum_NC += probs_MNC[chosen]
        counts_M[chosen] += 1
    return counts_M / size


def distens(probs_MNC: Any, labels_N: Any, metric: str, size: int, bags: int) -> Any:
    """Return weights_M of distens' selector."""
    from distens.select.greedy import Greedy

    return Greedy(size=size, cut=False, bags=bags).select(probs_MNC, labels_N, metric)


def quadratic(probs_MNC: Any, labels_N: Any, metric: str, size: int) -> Any:
    """Return weights_M of distens' quadratic programme, which has no additions."""
    from distens.select.quadratic import Quadratic

    return Quadratic().select(probs_MNC, labels_N, metric)


def autogluon(probs_MNC: Any, labels_N: Any, metric: str, size: int) -> Any:
    """Return weights_M of AutoGluon's selector."""
    from autogluon.core import metrics  # pyright: ignore[reportMissingImports]
    from autogluon.core.models.greedy_ensemble.ensemble_selection import (  # pyright: ignore[reportMissingImports]
        EnsembleSelection,
    )

    scorer = metrics.log_loss if metric == "nll" else metrics.accuracy
    selection = EnsembleSelection(ensemble_size=size, problem_type="multiclass", metric=scorer)
    return selection.fit(list(probs_MNC), labels_N).weights_


def deephyper(probs_MNC: Any, labels_N: Any, metric: str, size: int, kind: str) -> Any:
    """Return weights_M of one of DeepHyper's selectors, with at least one addition to the best member."""
    from deephyper.ensemble.aggregator import MixedCategoricalAggregator  # pyright: ignore[reportMissingImports]
    from deephyper.ensemble.loss import CategoricalCrossEntropy, ZeroOneLoss  # pyright: ignore[reportMissingImports]
    from deephyper.ensemble.selector import GreedySelector, TopKSelector  # pyright: ignore[reportMissingImports]

    loss = CategoricalCrossEntropy() if metric == "nll" else ZeroOneLoss(predict_proba=True)
    if kind == "greedy":
        options = {"k": len(probs_MNC), "k_init": 1, "max_it": size - 1, "eps_tol": 0.0, "early_stopping": False}
        selector = GreedySelector(loss, MixedCategoricalAggregator(), **options)
    else:
        selector = TopKSelector(loss, k=size)
    chosen, weights = selector.select(labels_N, list(probs_MNC))
    weights_M = np.zeros(len(probs_MNC))
    weights_M[chosen] = weights
    return weights_M


def measure_of_diversity(probs_MNC: Any, labels_N: Any, name: str) -> None:
    """Compute one of distens' matrices over members."""
    from distens.diversity import pairwise

    getattr(pairwise, name)(probs_MNC, *([labels_N] if name == "error_correlation" else []))


def products_per_example(probs_MNC: Any, upper: bool, block: int = 256) -> None:
    """Multiply, for every example, the members' probabilities with themselves: float64, in cached blocks."""
    members = len(probs_MNC)
    size = min(block, members)
    step = max(1, block * block // (size * size))
    out = np.empty((step, size, size))
    for start in range(0, probs_MNC.shape[1], 200):
        left_NMC = np.ascontiguousarray(probs_MNC[:, start : start + 200].transpose(1, 0, 2), dtype=np.float64)
        right_NCM = np.ascontiguousarray(left_NMC.transpose(0, 2, 1))
        for a in range(0, members, block):
            for b in range(a if upper else 0, members, block):
                for n in range(0, len(left_NMC), step):
                    left, right = left_NMC[n : n + step, a : a + block], right_NCM[n : n + step, :, b : b + block]
                    np.matmul(left, right, out=out[: len(left), : left.shape[1], : right.shape[2]])


def product(members: int, length: int) -> None:
    """Multiply a float32 matrix, members x length, with its transpose, 20,000 columns at a time."""
    columns = np.ones((members, min(length, 20_000)), np.float32)
    for _ in range(-(-length // columns.shape[1])):
        np.matmul(columns, columns.T)


SELECTIONS = {
    "distens": (distens, {"bags": 1}),
    "plain NumPy": (plain, {}),
    "distens, 20 samples of rows": (distens, {"bags": 20}),
    "distens, quadratic": (quadratic, {}),
    "AutoGluon": (autogluon, {}),
    "DeepHyper, greedy": (deephyper, {"kind": "greedy"}),
    "DeepHyper, top k": (deephyper, {"kind": "top"}),
}
DIVERSITIES = {
    "diversity": (measure_of_diversity, {"name": "diversity"}),
    "  its product, all pairs": (products_per_example, {"upper": False}),
    "  its product, upper half": (products_per_example, {"upper": True}),
    "disagreement": (measure_of_diversity, {"name": "disagreement"}),
    "  its product ": (product, {"per_row": "classes"}),
    "error_correlation": (measure_of_diversity, {"name": "error_correlation"}),
    "  its product  ": (product, {"per_row": "one"}),
}
COMPETITORS = ("AutoGluon", "DeepHyper, greedy", "DeepHyper, top k")


def measure(folder: Path, name: str, metric: str, size: int) -> dict[str, Any]:
    """Run one row in this process; return its time, peak memory and selection."""
    probs_MNC, labels_N = np.load(folder / "probs.npy"), np.load(folder / "labels.npy")
    call, options = {**SELECTIONS, **DIVERSITIES}[name]
    arguments: tuple[Any, ...] = (probs_MNC, labels_N)
    if name in SELECTIONS:
        arguments += (metric, size)
    elif call is product:
        length = probs_MNC.shape[1] * (probs_MNC.shape[2] if options["per_row"] == "classes" else 1)
        arguments, options = (len(probs_MNC), length), {}
    elif call is products_per_example:
        arguments = (probs_MNC,)
    small = [a[:2, :50] if a is probs_MNC else a[:50] if a is labels_N else a for a in arguments]
    if name in SELECTIONS:
        call(*small[:3], 1, **options)  # imports are not measured
    elif call is measure_of_diversity:
        call(*small, **options)
    cpu, wall = time.process_time(), time.perf_counter()
    found = call(*arguments, **options)
    spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    selection = None if found is None else np.round(found, 9).tolist()
    return {**spent, "peak_mb": peak, "selection": selection}


def run(python: str, folder: Path, name: str, metric: str, size: int) -> dict[str, Any]:
    """Run one row in a process of its own, with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [python, __file__, "--measure", str(folder), name, metric, str(size)]
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    if done.returncode:
        missing = "ModuleNotFoundError" in done.stderr
        return {"why": "not installed" if missing else (done.stderr.strip().splitlines() or ["failed"])[-1][:80]}
    return json.loads(done.stdout.splitlines()[-1])


def main(
    members: int = 1000,
    rows: int = 10_000,
    classes: int = 10,
    size: int = 25,
    repeats: int = 3,
    competitors: str = "",
    out: Path | None = None,
) -> None:
    """Print the table; write every measurement as JSON with --out."""
    tasks = [(name, metric) for metric in ("nll", "error") for name in SELECTIONS]
    tasks = [task for task in tasks if competitors or task[0] not in COMPETITORS] + [(n, "") for n in DIVERSITIES]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {task: [] for task in tasks}
    with tempfile.TemporaryDirectory() as folder:
        make(members, rows, classes, Path(folder))
        for repeat in range(repeats):
            for name, metric in tasks:
                print(f"repetition {repeat + 1} of {repeats}: {metric} {name}", flush=True)
                if not any("why" in result for result in found[name, metric]):
                    python = competitors if name in COMPETITORS else sys.executable
                    found[name, metric].append(run(python, Path(folder), name, metric, size))
    shape = {"members": members, "rows": rows, "classes": classes, "size": size}
    summary = [summarise(found, name, metric) for name, metric in tasks]
    show(summary, f"{shape}, data {members * rows * classes * 4 / 1e6:.0f} MB, medians of {repeats}")
    if not competitors:
        print("AutoGluon, DeepHyper: left out, no --competitors")
    if out is not None:
        runs = [{k: v for k, v in result.items() if k != "selection"} for task in tasks for result in found[task]]
        out.write_text(json.dumps({**shape, "repeats": repeats, "rows": summary, "runs": runs}, indent=1))


def summarise(found: dict[tuple[str, str], list[dict[str, Any]]], name: str, metric: str) -> dict[str, Any]:
    """Return one row of the table: medians, and ratios to its baseline, paired by repetition."""
    row: dict[str, Any] = {"metric": metric, "name": name}
    mine = found[name, metric]
    if "why" in mine[-1]:
        return {**row, "why": mine[-1]["why"]}
    for column in ("cpu", "wall", "peak_mb"):
        row[column] = float(np.median([result[column] for result in mine]))
    row["cpu_spread"] = [min(r["cpu"] for r in mine), max(r["cpu"] for r in mine)]
    if metric:
        base = found["plain NumPy", metric]
        if name not in ("distens, 20 samples of rows", "distens, quadratic"):  # those are other procedures
            row["same"] = all(a["selection"] == b["selection"] for a, b in zip(mine, base, strict=True))
    else:
        held_to = {n.strip(): n for n in DIVERSITIES}
        below = list(DIVERSITIES).index(name) + (0 if name.startswith(" ") else 1)
        base = found[list(DIVERSITIES)[below], ""]
        if name == held_to["its product, upper half"]:
            base = mine
    row["ratio"] = {
        c: float(np.median([a[c] / b[c] for a, b in zip(mine, base, strict=True)])) for c in ("cpu", "wall")
    }
    return row


def show(summary: list[dict[str, Any]], title: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in ("", "", "CPU s", "least to most", "wall s", "× plain / × product, CPU", "wall", "peak MB", "same"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in summary:
        if "why" in row:
            table.add_row(row["metric"], row["name"], row["why"])
            continue
        cells = [f"{row['cpu']:.2f}", "{:.2f}–{:.2f}".format(*row["cpu_spread"]), f"{row['wall']:.2f}"]
        cells += [f"{row['ratio'][c]:.2f}" for c in ("cpu", "wall")] + [f"{row['peak_mb']:.0f}"]
        table.add_row(row["metric"], row["name"], *cells, "" if "same" not in row else "yes" if row["same"] else "no")
    Console(width=150).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))))
    else:
        import typer

        typer.run(main)
