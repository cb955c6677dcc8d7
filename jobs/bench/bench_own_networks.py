"""A user's own networks in packs: by the layers that are seen in their forward, by vmap, and one by one.

    python jobs/bench/bench_own_networks.py --out own_networks.json
    python jobs/bench/bench_own_networks.py --network Chain --members 16 --epochs 5

Members learn scikit-learn's digits: 64 numbers for `mlp` (64-128-10), images of 8x8 for convolutions. They differ in
their seed alone. `ours` is a chain of torch's layers that computes the same, which is stacked without a look into any
code. `one by one` is `distens.training.loop`: torch's modules, autograd and fused optimizer. The CPU time counts from
untrained to trained members, with the search for the way to stack them. Repetitions are interleaved; times are medians,
ratios are medians of the repetitions' own ratios. The last column is the largest difference of a member's predicted
probabilities from those of the same member trained one by one: rounding, which grows with every step.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import _bench_networks as own
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn

from distens.data.dataset import Examples
from distens.objectives.cross_entropy import CrossEntropy
from distens.training import loop, packed, ways
from distens.training.context import Context
from distens.training.loop import Recipe
from distens.training.network import initialise, predict_probs
from distens.training.packed import Learner
from distens.training.tracing import NoChain

Build = Callable[[], nn.Module]

NETWORKS: Mapping[str, tuple[Build, Build | None, tuple[int, ...]]] = {
    "Chain": (own.Chain, own.mlp, (64,)),
    "Functional": (own.Functional, own.mlp, (64,)),
    "WithDropout": (own.WithDropout, None, (64,)),
    "Normalised": (own.Normalised, None, (64,)),
    "Residual": (own.Residual, None, (64,)),
    "Convolutions": (own.Convolutions, own.convolutions, (1, 8, 8)),
    "NormalisedConvolutions": (own.NormalisedConvolutions, None, (1, 8, 8)),
}
"""Name -> the network, ours that computes the same if there is one, and the shape of a row."""

WAYS = ("ours", "layers", "vmap", "one by one")
console = Console(width=160)


def train(build: Build, rows: Examples, members: int, recipe: Recipe, way: str) -> tuple[float, list[nn.Module]]:
    """Return the CPU seconds of training members in a way, and their networks."""
    networks = [initialise(build, seed) for seed in range(members)]
    started = time.process_time()
    if way == "one by one":
        for seed, network in enumerate(networks):
            loop.fit_network(network, rows, Context(seed), recipe, CrossEntropy().loss)
    else:
        learners = [Learner(network, recipe, Context(seed)) for seed, network in enumerate(networks)]
        with by_vmap() if way == "vmap" else seen():
            list(packed.fit_pack(learners, rows))
    return time.process_time() - started, networks


@contextmanager
def seen() -> Iterator[None]:
    """Leave the choice of a way as it is in the body."""
    yield


@contextmanager
def by_vmap() -> Iterator[None]:
    """See no chain in any network's code in the body."""
    traced = ways.trace_chain

    def refuse(*_: Any) -> nn.Sequential:
        raise NoChain("the benchmark wants vmap")

    ways.trace_chain = refuse
    try:
        yield
    finally:
        ways.trace_chain = traced


def measure(name: str, members: int, recipe: Recipe, repeats: int) -> dict[str, Any]:
    """Return the figures of one network."""
    build, ours, shape = NETWORKS[name]
    inputs, labels_N = load_digits(return_X_y=True)
    scaled = ((inputs - inputs.mean(0)) / (inputs.std(0) + 1e-3)).astype(np.float32).reshape(-1, *shape)
    rows = Examples(scaled, labels_N.astype(np.int64), own.CLASSES)
    chosen = [way for way in WAYS if way != "ours" or ours is not None]
    seconds: dict[str, list[float]] = {way: [] for way in chosen}
    probs: dict[str, Any] = {}
    for repetition in range(-1, repeats):  # the first one warms up
        for way in chosen:
            spent, networks = train(ours if way == "ours" and ours else build, rows, members, recipe, way)
            if repetition >= 0:
                seconds[way].append(spent)
            probs[way] = np.stack([predict_probs(network, scaled, own.CLASSES) for network in networks])
    alone = seconds["one by one"]
    return {
        "network": name,
        "stacked": ways.candidate_ways([build()], torch.zeros((2, *shape)), learns=True)[0][0].how,
        "cpu_seconds": {way: statistics.median(spent) for way, spent in seconds.items()},
        "layers_over_ours": _ratio(seconds["layers"], seconds["ours"]) if ours else None,
        "one_by_one_over": {way: _ratio(alone, spent) for way, spent in seconds.items() if way != "one by one"},
        "difference": {
            way: float(np.abs(found - probs["one by one"]).max())
            for way, found in probs.items()
            if way in ("layers", "vmap")
        },
        "accuracy": float((probs["layers"].argmax(2) == labels_N).mean()),
    }


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


def show(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print the table."""
    table = Table(title=title)
    ratios = ["layers / ours", "one by one / layers", "one by one / vmap"]
    for heading in ("", *(f"{way}, CPU s" for way in WAYS), *ratios, "difference: layers", "vmap"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for row in rows:
        seconds, over = row["cpu_seconds"], row["one_by_one_over"]
        table.add_row(
            row["network"],
            *(f"{seconds[way]:.3f}" if way in seconds else "" for way in WAYS),
            "" if row["layers_over_ours"] is None else f"{row['layers_over_ours']:.2f}",
            f"{over['layers']:.2f}",
            f"{over['vmap']:.2f}",
            *(f"{row['difference'][way]:.1e}" for way in ("layers", "vmap")),
        )
    console.print(table)


def main(
    network: Annotated[list[str] | None, typer.Option(help=f"{', '.join(NETWORKS)}; all if not given.")] = None,
    members: int = 16,
    epochs: int = 20,
    repeats: int = 3,
    learning_rate: float = 1e-3,
    out: Path | None = None,
) -> None:
    """Print the table; write it as JSON with --out."""
    for name in network or ():
        if name not in NETWORKS:
            raise typer.BadParameter(f"{name!r}: allowed are {', '.join(NETWORKS)}")
    torch.set_num_threads(1)
    recipe = Recipe("adamw", learning_rate, 1e-4, 0.0, "constant", epochs, 64)
    before, rows = os.getloadavg(), []
    for name in network or NETWORKS:
        rows.append(measure(name, members, recipe, repeats))
        console.print(f"[dim]{name}: {rows[-1]['stacked']}", highlight=False)
    show(rows, f"{members} members, {epochs} epochs of digits (1,797 rows, batches of 64); medians of {repeats}")
    console.print(f"load before and after: {before[0]:.2f}, {os.getloadavg()[0]:.2f}; {platform.machine()}")
    if out is not None:
        found = {"torch": torch.__version__, "hardware": platform.machine(), "date": time.strftime("%Y-%m-%d")}
        out.write_text(json.dumps({**found, "members": members, "epochs": epochs, "rows": rows}, indent=1))


if __name__ == "__main__":
    typer.run(main)
