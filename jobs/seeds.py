"""Run one config with several seeds and print, for every row of the honest table, mean and spread over seeds.

    python jobs/seeds.py configs/digits.yaml --seeds 5 --out results.json

Each seed draws its own splits, settings and initial weights. Differences to the ensemble are paired by seed. Finished
runs are read, not repeated, so the command can be interrupted and started again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import distens
from distens.config.config import Config
from distens.evaluate.report import columns_of, rows_of
from distens.roles.ensemble.plan import build_plan
from distens.storage.store import Store

MOST_SHOWN, COMPARED = 4, 2
"""The number of measures that the table shows, and of those that are compared with the ensemble's."""


def finished(config: Config) -> dict[str, Any]:
    """Return the results of one run, which is carried out now if it has none."""
    resolved = build_plan(config).config
    store = Store(f"{resolved.storage}/{resolved.run_name()}")
    if not store.exists("results.json"):
        if store.exists("run.json"):
            distens.resume(store.url)
        else:
            distens.run(config)
    return store.read_json("results.json")


def spread(values: Any, digits: int = 4) -> str:
    """Return `mean ± standard deviation` over seeds."""
    values = np.asarray(values, dtype=float)
    deviation = values.std(ddof=1) if len(values) > 1 else float("nan")
    return f"{values.mean():.{digits}f} ± {deviation:.{digits}f}"


def main(
    config: Path,
    seeds: int = 5,
    out: Path | None = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="As for `distens run`.")] = None,
) -> None:
    """Print the table; write it as JSON with --out."""
    results = []
    for seed in range(seeds):
        print(f"seed {seed}", flush=True)
        results.append(finished(distens.load_config(config, [*(set_ or ()), f"seed={seed}"])))
    tables = [rows_of(result) for result in results]
    found = columns_of({f"{i} {name}": row for i, rows in enumerate(tables) for name, row in rows.items()})
    measures = found.measures
    shown = list(measures)[:MOST_SHOWN]
    table = Table(title=f"{config.name}: mean ± standard deviation over {seeds} seeds")
    gaps = [f"{measures[key]} − ensemble's" for key in shown[:COMPARED]]
    for heading in ("", *(measures[key] for key in shown), *gaps):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    summary: dict[str, Any] = {}
    for name in dict.fromkeys(name for rows in tables for name in rows):
        rows = [rows[name] for rows in tables if name in rows]
        both = [(rows[name], rows["ensemble"]) for rows in tables if name in rows]
        summary[name] = {c: [row[c] for row in rows if c in row] for c in found.headings}
        cells = [spread([row[c] for row in rows if c in row]) for c in shown]
        gaps = [spread([a[c] - b[c] for a, b in both]) if name != "ensemble" else "" for c in shown[:COMPARED]]
        short = "" if len(rows) == seeds else f" ({len(rows)} of {seeds} seeds)"
        table.add_row(name + short, *cells, *gaps)
    Console(width=150).print(table)
    if out is not None:
        out.write_text(json.dumps({"config": config.name, "seeds": seeds, "rows": summary}, indent=1))


if __name__ == "__main__":
    typer.run(main)
