"""Folds on small data: none, five folds, and five folds with a refit, at equal CPU seconds of search.

    python jobs/bench/bench_folds.py --tables DIR --out RESULTS

Each table is subsampled to several numbers of rows (train, search and combine together); all its other rows are test
rows. Every run is a process of its own with one thread, whose clock shows CPU seconds (`_search_clock`). All methods
of a repetition have the same rows. What is in RESULTS is not done again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import _search_live
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

TABLES = ("spambase", "cpu_act", "elevators", "delta_ailerons", "page_blocks", "splice")
ROWS = (100, 300, 1000)
SHARES = {"train": 0.65, "search": 0.2, "combine": 0.15}
METHODS = {"none": None, "folds": {"folds": 5, "refit": True}}
MAX_TEST = 4000


def values(path: Path, rows: int, seed: int, method: str, seconds: float, storage: str) -> dict[str, Any]:
    """Return the values of a run's config."""
    import pyarrow.parquet as pq
    from _search_tables import families

    used = min(pq.read_metadata(path).num_rows, rows + MAX_TEST)
    shares = {split: share * rows / used for split, share in SHARES.items()}
    splits = {**shares, "test": 1 - sum(shares.values())}
    data = {"source": str(path), "target": "target", "rows": used, "unseen": "missing", "splits": splits}
    return {
        "name": path.stem,
        "seed": seed,
        "storage": storage,
        "data": {**data, "folds": METHODS[method]},
        "members": families(),
        "search": {"kind": "gain", "seconds": seconds},
        "select": "quadratic",
        "runtime": "inline",
        "tracking": "off",
    }


def carry_out(path: Path, rows: int, seed: int, method: str, seconds: float) -> dict[str, dict[str, float]]:
    """Return row of the table -> error and NLL, and `cpu`, from a run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "config.json")
        given.write_text(json.dumps(values(path, rows, seed, method, seconds, folder)))
        found = _search_live.started([sys.executable, _search_live.__file__, str(given)])
    return {**found["rows"], "cpu": {"seconds": found["cpu_seconds"]}}


def main(
    tables: Annotated[Path, typer.Option(help="A folder of Parquet files.")],
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path("folds.json"),
    seconds: Annotated[float, typer.Option(help="CPU seconds of each search.")] = 15.0,
    repetitions: int = 5,
) -> None:
    """Run what is not done, and print the means, and the differences to `none` in pairs."""
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for seed in range(repetitions):
        for rows in ROWS:
            for table in TABLES:
                for method in METHODS:
                    key = f"{table} {rows} {seed} {method}"
                    if key not in found:
                        found[key] = carry_out((tables / f"{table}.parquet").absolute(), rows, seed, method, seconds)
                        out.write_text(json.dumps(found, indent=1))
    show(found)


def show(found: dict[str, Any]) -> None:
    """Print a line for each number of rows and contender: means over tables, differences in pairs."""
    shown = Table(
        title="Ensemble, test error % and NLL; difference to `none`: mean ± standard error over runs, in pairs"
    )
    for heading in ("rows", "method", "error %", "difference", "NLL", "difference", "wins by NLL", "CPU s"):
        shown.add_column(heading, justify="right", no_wrap=True)
    contenders = {"none": ("none", "ensemble"), "folds": ("folds", "ensemble"), "refit": ("folds", "refit")}
    for rows in ROWS:
        keys = sorted({key.rsplit(" ", 1)[0] for key in found if key.split()[1] == str(rows)})
        keys = [key for key in keys if all(f"{key} {method}" in found for method in METHODS)]
        usual = [found[f"{key} none"]["ensemble"] for key in keys]
        for name, (method, row) in contenders.items():
            own = [found[f"{key} {method}"][row] for key in keys]
            cells = []
            for measure, unit in (("error", 100), ("nll", 1)):
                values_R, differences_R = (
                    unit
                    * np.array(
                        [
                            one[measure] - (other[measure] if paired else 0)
                            for one, other in zip(own, usual, strict=True)
                        ]
                    )
                    for paired in (False, True)
                )
                error = differences_R.std(ddof=1) / np.sqrt(len(keys)) if len(keys) > 1 else np.nan
                cells += [
                    f"{values_R.mean():.4f}",
                    f"{differences_R.mean():+.4f} ± {error:.4f}" if name != "none" else "",
                ]
            wins = sum(one["nll"] < other["nll"] for one, other in zip(own, usual, strict=True))
            cpu = np.mean([found[f"{key} {method}"]["cpu"]["seconds"] for key in keys])
            shown.add_row(str(rows), name, *cells, f"{wins} of {len(keys)}" if name != "none" else "", f"{cpu:.0f}")
    Console(width=150).print(shown)


if __name__ == "__main__":
    typer.run(main)
