"""The cost of a prediction of 16 members: one by one, stacked, and through a cascade; accuracy beside time.

    python jobs/bench/bench_predict.py --out predict.json             # digits, MLPs 64-128-128-10; needs no files
    python jobs/bench/bench_predict.py --data breast_cancer           # a table, MLPs 30-64-64-2; needs no files
    python jobs/bench/bench_predict.py --data fashion_mnist --cache runs/bench    # LeNets; the folder of four idx files

Members are distens' own classifiers with different learning rates, trained here or taken from --cache, weighted
equally, and written as a bundle. Every row except the two loops predicts from that bundle. The loops evaluate the same
members one by one: `one by one` through `member.predict`, `plain PyTorch` through the bare networks in inference mode;
both then take the mean. Times begin with preprocessed rows and end with probabilities; the time that preprocessing adds
to each of them has a line of its own. Cascades are learned on the *combine* split; *test* is read once, for accuracy,
negative log-likelihood and calibration error.

Times are CPU milliseconds per 1,000 rows, in one thread, at several batch sizes: medians of interleaved repetitions.
Ratios are medians of the repetitions' ratios to `one by one`, lowest and highest in brackets. `share` is the part of
the members' arithmetic that was done.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from distens import registry
from distens.config.sections import DataSection, SplitsSection
from distens.data import source
from distens.data.load import LoadedData, load_data
from distens.probabilities import apply_temperature, fit_temperature, mix
from distens.records import Address, Floats, State
from distens.seeding import derive, generator
from distens.serve import bundle, cascade, predictor
from distens.storage.store import Store
from distens.targets.classes import Classes
from distens.training.context import Context

BUDGETS: dict[str, dict[str, float]] = {
    "cascade, tolerance 0.002": {"tolerance": 0.002},
    "cascade, 4 members": {"mean_members": 4},
    "cascade, 2 members": {"mean_members": 2},
}
PREPROCESSING = "(preprocessing)"

MLPS = {"digits": [128, 128], "breast_cancer": [64, 64]}

SECONDS = 0.3
"""The least CPU time of a measurement, about."""


@dataclass
class Bench:
    """The data, and the 16 members as a bundle."""

    settings: list[dict[str, Any]]
    loaded: LoadedData
    test_rows: Any  # raw; the members' inputs are in `loaded`
    served: predictor.Predictor
    members: list[Any]


def prepare(data: str, members: int, train_rows: int, epochs: int, cache: Path) -> Bench:
    """Train the members that the cache does not have, and write the bundle."""
    if data in MLPS:
        section = DataSection(source=f"sklearn:{data}", rows=None)
        model: dict[str, Any] = {"kind": "mlp", "hidden": MLPS[data]}
    else:
        shares = SplitsSection(train=0.7, search=0.15, combine=0.15, test="given")
        section = DataSection(source=data, rows=train_rows, splits=shares)
        model = {"kind": "lenet"}
    loaded = load_data(section, 0)
    rates = np.exp(generator(0, "rates").uniform(np.log(5e-4), np.log(4e-3), members))
    fixed = {"family": "network", "kind": "classifier", "model": model, "epochs": epochs, "schedule": "cosine"}
    settings = [{**fixed, "learning_rate": float(rate)} for rate in rates]
    store = Store(str(cache / loaded.dataset.fingerprint[:8] / f"{model['kind']}-{epochs}"))
    made = [_member(i, settings[i], loaded, store) for i in range(members)]
    _write_bundle(store, loaded, settings, made)
    raw = source.read_source(section)
    rows = raw.test_rows if raw.test_rows is not None else _take(raw.rows, loaded.split_rows["test"])
    return Bench(settings, loaded, rows, predictor.load(store.path("bundle")), [m for m, _ in made])


def _member(place: int, settings: dict[str, Any], loaded: LoadedData, store: Store) -> tuple[Any, Address]:
    member, name = registry.build_member(settings), f"m{place:02d}.safetensors"
    if store.exists(name):
        member.load(store.read_state(name))
    else:
        print(f"training member {place + 1}", flush=True)
        member.fit(loaded.dataset.examples(), Context(seed=derive(0, "member", str(place))))
    return member, store.write_state(name, member.state())


def _write_bundle(
    store: Store, loaded: LoadedData, settings: list[dict[str, Any]], made: list[tuple[Any, Address]]
) -> None:
    weights_M = np.full(len(made), 1 / len(made))
    combine_MNC = np.stack([member.predict(loaded.dataset.inputs["combine"]) for member, _ in made])
    labels_N, full_NC = loaded.dataset.labels["combine"], mix(combine_MNC, weights_M)
    bundle.write_bundle(
        store,
        "bundle",
        name="bench",
        target=loaded.dataset.target,
        preprocessing=loaded.preprocessing.to_json(),
        members=[
            bundle.BundleMember(f"m{i:02d}", settings[i], 1 / len(made), address) for i, (_, address) in enumerate(made)
        ],
        combine="average",
        combine_state=State({"weights": weights_M}),
        temperature=fit_temperature(full_NC, labels_N),
        metrics={},
        cascade=cascade.learn(combine_MNC, labels_N, full_NC, weights_M, np.ones(len(made))),
    )


def _take(rows: Any, numbers: Any) -> Any:
    return rows.iloc[numbers] if hasattr(rows, "columns") else rows[numbers]


Contender = Callable[[Floats], tuple[Floats, float]]
"""Inputs -> probs_NC, and the share of the members' arithmetic that was done."""


def contenders(bench: Bench) -> dict[str, Contender]:
    """Return the table's rows by name."""
    served, members = bench.served, bench.members
    weights_M = np.full(len(members), 1 / len(members))

    def one_by_one(inputs: Floats) -> tuple[Floats, float]:
        probs_NC = mix([member.predict(inputs) for member in members], weights_M)
        return apply_temperature(probs_NC, served.bundle.temperature), 1.0

    def through(window: float) -> Contender:
        def ask(inputs: Floats) -> tuple[Floats, float]:
            probs_NC, asked_N = served.answer(inputs, window)
            return probs_NC, float(asked_N.mean() / len(members))

        return ask

    learned = served.bundle.cascade
    assert learned is not None
    rows = {"one by one": one_by_one, "plain PyTorch": _plain(bench, weights_M), "stacked": through(math.inf)}
    return rows | {name: through(learned.window(**budget)) for name, budget in BUDGETS.items()}


def _plain(bench: Bench, weights_M: Floats) -> Contender:
    import torch

    from distens.training import network

    networks = []
    for member, settings in zip(bench.members, bench.settings, strict=True):
        model = registry.make_plugin("models", settings["model"], "model")
        state = member.state()
        networks.append(model.build(tuple(state.meta["input_shape"]), state.meta["classes"]).eval())
        network.load_arrays(networks[-1], state.arrays)

    def ask(inputs: Floats) -> tuple[Floats, float]:
        with torch.inference_mode():
            values = torch.tensor(inputs)
            probs_MNC = [torch.softmax(n(values), 1).numpy() for n in networks]
        return apply_temperature(mix(probs_MNC, weights_M), bench.served.bundle.temperature), 1.0

    return ask


def cpu_ms_per_1000(ask: Callable[[Any], Any], rows: Any, batch: int) -> float:
    """Return CPU milliseconds per 1,000 rows, predicted in batches."""
    total, done = len(rows), 0
    started = time.process_time()
    while time.process_time() - started < SECONDS:
        first = done % max(1, total - batch + 1)
        ask(_take(rows, slice(first, first + batch)))
        done += batch
    return 1e6 * (time.process_time() - started) / done


def measure(bench: Bench, batches: list[int], repetitions: int) -> dict[str, dict[str, Any]]:
    """Return name -> accuracy, nll, ece, share, and for each batch size the times of all repetitions."""
    inputs, labels_N = bench.loaded.dataset.inputs["test"], bench.loaded.dataset.labels["test"]
    repeated_N = np.arange(max(len(inputs), *batches)) % len(inputs)
    asks, found = contenders(bench), {}
    for name, ask in asks.items():
        probs_NC, share = ask(inputs)
        row = Classes(()).table(probs_NC, labels_N)
        found[name] = {"accuracy": row["accuracy"], "nll": row["nll"], "ece": row["ece"], "share": share}
    found[PREPROCESSING] = {}
    for row in found.values():
        row["cpu_ms_per_1000"] = {str(batch): [] for batch in batches}
    for _ in range(repetitions):
        for batch in batches:
            for name, ask in asks.items():
                found[name]["cpu_ms_per_1000"][str(batch)].append(cpu_ms_per_1000(ask, inputs[repeated_N], batch))
            raw = _take(bench.test_rows, repeated_N)
            spent = cpu_ms_per_1000(bench.served.preprocessing.transform, raw, batch)
            found[PREPROCESSING]["cpu_ms_per_1000"][str(batch)].append(spent)
    return found


def show(found: dict[str, dict[str, Any]], title: str) -> None:
    """Print the table."""
    table = Table(title=title)
    batches = list(found["one by one"]["cpu_ms_per_1000"])
    columns = ("accuracy", "nll", "ece", "share")
    for heading in ["", *columns, *(f"{what}, batch {b}" for b in batches for what in ("ms", "faster"))]:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for name, row in found.items():
        cells = [name, *(f"{row[c]:.{2 if c == 'share' else 4}f}" if c in row else "" for c in columns)]
        for batch in batches:
            times, base = row["cpu_ms_per_1000"][batch], found["one by one"]["cpu_ms_per_1000"][batch]
            if name == PREPROCESSING:
                cells += [f"{median(times):.2f}", ""]
                continue
            ratios = [b / t for b, t in zip(base, times, strict=True)]
            cells += [f"{median(times):.2f}", f"{median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"]
        table.add_row(*cells)
    Console(width=170).print(table)


def main(
    data: Annotated[str, typer.Option(help="`digits`, `breast_cancer`, or a folder of idx files.")] = "digits",
    members: int = 16,
    train_rows: Annotated[int, typer.Option(help="Rows of the idx files, for all splits except test.")] = 12_000,
    epochs: int = 8,
    batch: Annotated[list[int] | None, typer.Option(help="Rows per prediction; repeatable.")] = None,
    repetitions: int = 3,
    cache: Annotated[Path | None, typer.Option(help="Keep trained members here.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write all figures as JSON.")] = None,
) -> None:
    """Print one table."""
    import torch

    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        bench = prepare(data, members, train_rows, epochs, cache or Path(temporary))
        found = measure(bench, batch or [1, 256, 8192], repetitions)
    model = bench.settings[0]["model"]["kind"]
    show(found, f"{members} members ({model}) on {data}: CPU, one thread")
    if out is not None:
        learned = bench.served.bundle.cascade
        assert learned is not None
        out.write_text(
            json.dumps({"data": data, "model": model, "rows": found, "cascade": learned.to_json()}, indent=1)
        )


if __name__ == "__main__":
    typer.run(main)
