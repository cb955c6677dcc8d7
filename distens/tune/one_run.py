"""One run of a sweep, in a trial's process: it is started, resumed or found finished, and measured on *combine*."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune

from distens import coordinator
from distens.config.config import parse_config, put
from distens.errors import RunError, StorageFailed
from distens.lifecycle.session import Plan
from distens.storage.store import Store

MEASURED = "combine.json"
"""The file, in the folder of a run that is done and tracked, of its table as measured on the *combine* split."""

FAILURE = "failure.txt"
"""The file, in the folder of a failed run, with the reason."""


def replace_values(values: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's plain values with some of them replaced, by their dotted keys."""
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
    """Carry out one run, if it is not done, and report its metric.

    Args:
        config: the values that Tune suggests: dotted key -> value.
        base: the values of the config that is swept.
        more: sections that the sweep sets: `runtime` and `tracking`.
        objective: a row of the table, and a measure.
        search_path: the folders in which the driver finds modules.
        folder: the driver's working folder, to which paths in the config are relative: Tune's trials run elsewhere.
    """
    if os.path.isdir(folder):
        os.chdir(folder)
    sys.path += [folder for folder in search_path if folder not in sys.path]
    logging.getLogger("distens").setLevel(logging.ERROR)
    plan = coordinator.make_plan(parse_config({**replace_values(base, config), **more}))
    store = Store(f"{plan.config.storage}/{plan.config.run_name()}")
    try:
        if not store.exists(MEASURED):
            _finish(plan, store, more)
            store.write_json(MEASURED, store.read_json("results.json")["combine"])
        (row, measure), found = objective, store.read_json(MEASURED)
        if row not in found:
            raise RunError(f"{store.url}: the run has no row {row!r}")
        value = found[row][measure]
    except StorageFailed:  # not the run's fault: Tune tries the run again, as if its process had died
        raise
    except Exception as error:  # any error of one run: the sweep continues and names it
        store.write(FAILURE, f"{type(error).__name__}: {error}".encode())
        value = math.nan  # if the error were raised, Tune would try the run again
    tune.report({"value": value})


def _finish(plan: Plan, store: Store, more: Mapping[str, Any]) -> None:
    if store.exists("run.json") and store.names("journal"):
        coordinator.resume(store.url, overrides=[f"{part}={json.dumps(more[part])}" for part in more])
    else:
        coordinator.run(plan.config)
