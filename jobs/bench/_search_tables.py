"""The cached tables of the search benchmark: random settings, evaluated once by distens itself, with their predictions.

A table's file `<table>.npz` holds `info` (JSON: the run's config, and for every member its settings, metrics and
seconds, or the reason why it failed) and for the splits search, combine and test `probs_<split>` (members x rows x
classes, float32) and `labels_<split>`. Nothing is fitted on *combine* here, so the last two are one: the test rows.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

import distens
from distens.config.config import parse_config
from distens.data.load import load_data
from distens.lifecycle.ledger import Ledger
from distens.records import Floats, Integers, Settings
from distens.roles.ensemble.plan import build_plan
from distens.space.space import Space
from distens.storage.store import Store

PAPER = (
    *("amazon_employee", "cpu_act", "eeg", "elevators", "house_8L"),
    *("pol", "pollen", "quake", "spambase", "2dplanes"),
)
"""The tables that DivBO's paper has too."""

ESTIMATORS = (
    *("ada_boost", "extra_trees", "histogram_boosting", "k_nearest_neighbours", "lda", "lightgbm", "linear_svm"),
    *("logistic_regression", "qda", "random_forest", "svm"),
)
MOST = {"rows": 10_000, "train": 3_000, "search": 1_000}


def families() -> dict[str, Any]:
    """Return the `members` section of a config: 11 families of estimators, with their own ranges, and the MLP."""

    def between(low: float, high: float, log: bool = False) -> dict[str, Any]:
        return {"low": low, "high": high, **({"log": True} if log else {})}

    network = {
        "kind": "classifier",
        "model": {
            "kind": "mlp",
            "hidden": {"choices": [[32], [128], [64, 64], [128, 128]]},
            "dropout": between(0.0, 0.5),
        },
        "learning_rate": between(3e-4, 3e-2, log=True),
        "weight_decay": between(1e-5, 1e-1, log=True),
        "batch_size": {"choices": [32, 64, 128]},
        "schedule": "cosine",
        "epochs": between(5, 50),
    }
    return {name: {"kind": "estimator", "estimator": name} for name in ESTIMATORS} | {"network": network}


def shares(rows: int) -> dict[str, float]:
    """Return the splits of a table: 60/20/20 with *train* and *search* bounded, the rest is test.

    Half of the test rows are called *combine*.
    """
    used = min(rows, MOST["rows"])
    train, search = min(0.6 * rows, MOST["train"]) / used, min(0.2 * rows, MOST["search"]) / used
    combine = (1 - train - search) / 2
    return {"train": train, "search": search, "combine": combine, "test": 1 - train - search - combine}


def run_config(path: Path, seed: int, storage: Path, search: Mapping[str, Any], runtime: Mapping[str, Any]) -> Any:
    """Return the config of a run on a table's rows.

    Args:
        path: the table, a Parquet file with the column `target`.
        seed: the seed of the choice of rows, the splits, the settings and the members.
        search: the config's section: `kind`, `members` and options.
        runtime: the config's section.
    """
    rows = pq.read_metadata(path).num_rows
    data = {
        "source": str(path),
        "target": "target",
        "rows": MOST["rows"] if rows > MOST["rows"] else None,
        "unseen": "missing",
        "splits": shares(rows),
    }
    return parse_config(
        {
            "name": path.stem,
            "seed": seed,
            "metric": "error",
            "storage": str(storage),
            "data": data,
            "members": families(),
            "search": dict(search),
            "select": {"kind": "greedy", "size": 25},
            "calibrate": "none",
            "runtime": dict(runtime),
            "tracking": "off",
        }
    )


def _without_rare_classes(path: Path, folder: Path) -> Path:
    """Return a table whose classes all have a row for each of the four splits: the table, or a copy with fewer rows."""
    table = pd.read_parquet(path)
    counts = table["target"].value_counts()
    usual = table["target"].isin(counts.index[counts.to_numpy() >= 4])
    if usual.all():
        return path
    copy = folder / path.name
    table[usual].reset_index(drop=True).to_parquet(copy)
    return copy


def build(path: Path, seed: int, cache: Path, members: int) -> str:
    """Evaluate random settings of a table on the pool of actors and write its file; return a line about it.

    Classes with fewer than four rows are left out: the table nursery has a class of two rows.
    """
    started = time.time()
    runtime = {"kind": "ray_actors", "timeout_seconds": 60.0, "cpus_per_member": 1, "pack": 1}
    usable = _without_rare_classes(path, cache / "runs")
    config = run_config(usable, seed, cache / "runs", {"kind": "random", "members": members}, runtime)
    result = distens.run(config, overwrite=True)
    store, resolved = Store(result.path), build_plan(config).config
    dataset, ledger = load_data(resolved.data, resolved.seed).dataset, Ledger(store)
    done, failed = ledger.finished("search"), ledger.failed("search")
    arrays = {}
    for split in ("search", "combine", "test"):
        probs = [store.read_predictions(entry.report.files[split]) for entry in done]
        arrays[f"probs_{split}"] = np.stack(probs).astype(np.float32)
        arrays[f"labels_{split}"] = dataset.labels[split]
    info = {
        "table": path.stem,
        "classes": [str(name) for name in dataset.classes],
        "config": resolved.model_dump(mode="json"),
        "members": [
            {
                "id": entry.task.id,
                "settings": dict(entry.task.settings),
                "metrics": dict(entry.report.metrics),
                "seconds": entry.report.seconds,
                "parameters": entry.report.parameters,
            }
            for entry in done
        ],
        "failed": [
            {
                "id": entry.task.id,
                "settings": dict(entry.task.settings),
                "reason": entry.failure.reason,
                "message": entry.failure.message[:300],
                "seconds": entry.failure.seconds,
            }
            for entry in failed
        ],
        "rows": {split: len(labels_N) for split, labels_N in dataset.labels.items()},
        "took": time.time() - started,
    }
    part = cache / f"{path.stem}.part.npz"
    np.savez(part, info=np.array(json.dumps(info)), **arrays)  # pyright: ignore[reportArgumentType]
    part.rename(cache / f"{path.stem}.npz")
    shutil.rmtree(result.path)
    return f"{path.stem}: {len(done)} members, {len(failed)} failed, {time.time() - started:.0f} s"


@dataclass(frozen=True)
class Table:
    """A cached table with K settings, of which some failed.

    Attributes:
        name: the table's name.
        space: the space that its settings were drawn from, narrowed to them.
        settings: K settings, in the order in which they were drawn.
        metrics: for each, `error` and `nll` on the *search* split; None if it failed.
        reasons: for each, the reason why it failed; None if it did not.
        seconds_K: the training times.
        place_K: the index of each member in the predictions; -1 if it failed.
    """

    name: str
    space: Space
    settings: tuple[Settings, ...]
    metrics: tuple[Mapping[str, float] | None, ...]
    reasons: tuple[str | None, ...]
    seconds_K: Floats
    place_K: Integers
    probs_search_MNC: Floats
    labels_search_N: Integers
    probs_test_MNC: Floats
    labels_test_N: Integers

    def search_probs(self, index: int) -> Floats:
        """Return probs_NC of settings that did not fail, on the *search* split."""
        return self.probs_search_MNC[self.place_K[index]]

    def test_probs(self, index: int) -> Floats:
        """Return probs_NC of settings that did not fail, on the test rows."""
        return self.probs_test_MNC[self.place_K[index]]


def read(path: Path) -> Table:
    """Return the table in a file that `build` wrote."""
    with np.load(path, allow_pickle=False) as file:
        info = json.loads(str(file["info"]))
        arrays = {name: file[name] for name in file.files if name not in ("info", "probs_combine", "probs_test")}
        probs_test_MNC = np.concatenate([file["probs_combine"], file["probs_test"]], axis=1)
    entries = [(entry["id"], entry, place) for place, entry in enumerate(info["members"])]
    entries += [(entry["id"], entry, -1) for entry in info["failed"]]
    entries.sort(key=lambda item: item[0])
    settings = tuple(entry["settings"] for _, entry, _ in entries)
    return Table(
        name=info["table"],
        space=Space(info["config"]["members"]).among(settings),
        settings=settings,
        metrics=tuple(entry.get("metrics") for _, entry, _ in entries),
        reasons=tuple(entry.get("reason") for _, entry, _ in entries),
        seconds_K=np.array([entry["seconds"] for _, entry, _ in entries]),
        place_K=np.array([place for _, _, place in entries]),
        probs_search_MNC=arrays["probs_search"],
        labels_search_N=arrays["labels_search"],
        probs_test_MNC=probs_test_MNC,
        labels_test_N=np.concatenate([arrays["labels_combine"], arrays["labels_test"]]),
    )
