"""One run of a sweep, in a trial's process: begun, gone on with, or found finished; and measured on *combine*."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray import tune

from distens import coordinator, probabilities
from distens.config import parse, put
from distens.data.load import load
from distens.errors import RunError
from distens.evaluate import metrics
from distens.finish import Result, out_of_fold, standing
from distens.ledger import Ledger
from distens.plan import Plan, check
from distens.records import Floats
from distens.store import Store

MEASURED = "combine.json"
"""In a run's folder: rows of its table, measured on the *combine* split."""

FAILURE = "failure.txt"
"""In the folder of a run that failed: why."""


def changed(values: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's plain values with some set anew, by their dotted keys."""
    out = json.loads(json.dumps(values))
    for key, value in by.items():
        put(out, key, value, "sweep.over.")
    return out


def run_one(
    config: Mapping[str, Any],
    *,
    base: Mapping[str, Any],
    more: Mapping[str, Any],
    objective: tuple[str, str],
    search_path: Sequence[str],
    folder: str,
) -> None:
    """Do one run, if it is not done, and report its metric.

    Args:
        config: what Tune suggests: dotted key -> value.
        base: the values of the config that is swept.
        more: sections that are ours: where it runs and is tracked.
        objective: a row of the table, and a measure.
        search_path: where the driver finds modules.
        folder: where the driver works, and relative paths of the config begin: Tune's trials work elsewhere.
    """
    if os.path.isdir(folder):
        os.chdir(folder)
    sys.path += [folder for folder in search_path if folder not in sys.path]
    logging.getLogger("distens").setLevel(logging.ERROR)
    plan = check(parse({**changed(base, config), **more}))
    store = Store(f"{plan.config.storage}/{plan.config.run_name()}")
    if not store.exists(MEASURED):
        try:
            store.write_json(MEASURED, _measured(plan, store, _result(plan, store, more)))
        except Exception as error:  # whatever went wrong in one run: the sweep goes on and names it
            store.write(FAILURE, f"{type(error).__name__}: {error}".encode())
            raise
    row, measure = objective
    found = store.read_json(MEASURED)
    if row not in found:
        raise RunError(f"{store.url}: the run has no row {row!r}")
    tune.report({"value": found[row][measure]})


def _result(plan: Plan, store: Store, more: Mapping[str, Any]) -> Result:
    if store.exists("run.json") and store.names("journal"):
        return coordinator.resume(store.url, overrides=[f"{part}={json.dumps(more[part])}" for part in more])
    return coordinator.run(plan.config)


def _measured(plan: Plan, store: Store, result: Result) -> dict[str, Any]:
    """Return row -> its measures on the *combine* split, calibrated as in the table; where the combiner learned there,
    out of its folds."""
    ledger = Ledger(store)
    labels_N = load(plan.config.data, plan.config.seed).dataset.labels["combine"]

    def read(name: str) -> Floats:
        return store.read_predictions(ledger.report(name).files["combine"])

    weights_M = np.array(list(result.weights.values()))
    members_MNC = np.stack([read(name) for name in result.weights])
    best = min(standing(plan, ledger), key=lambda entry: entry.report.metrics[plan.config.metric])
    rows = {
        "ensemble": out_of_fold(plan.combiner, members_MNC, labels_N, weights_M),
        "best_single": read(best.task.id),
    }
    if "student" in result.rows:
        rows["student"] = read("student")
    return {
        name: metrics.row(probabilities.apply_temperature(probs_NC, result.rows[name]["temperature"]), labels_N)
        for name, probs_NC in rows.items()
    }
