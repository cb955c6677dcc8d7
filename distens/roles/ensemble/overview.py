"""The selection of an ensemble, and its presentation: figures, the page's tables, numbers; and its cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from distens import packing
from distens.data.load import LoadedData
from distens.diversity import pairwise
from distens.evaluate import figures
from distens.lifecycle.delivery import MAX_FAILURES_SHOWN
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.results import PageContent, TableRow, costs
from distens.metrics.protocol import shown_name, shown_value
from distens.records import LOGGED_PREFIX, Finished, Floats, task_of
from distens.roles.ensemble.plan import EnsemblePlan
from distens.roles.ensemble.purpose import EnsemblePurpose
from distens.search._coverage import find_untried
from distens.serve.cascade import Cascade, learn
from distens.storage.store import Store
from distens.targets.classes import Classes

MAX_LOGGED_SHOWN = 8
"""The number of values that a member's own code logged which the page shows; its report has all."""


@dataclass(frozen=True)
class Selection:
    """The members of a search, with the weights that select them.

    Attributes:
        entries: every finished member, or selectable part, in order of names (see `standing` in `conclude`).
        weights_M: their weights; 0 where a member is not selected.
        search_MNK: their predictions on the *search* split.
    """

    entries: Sequence[Finished]
    weights_M: Floats
    search_MNK: Sequence[Floats]

    @property
    def selected(self) -> list[tuple[Finished, float]]:
        """Return the members with a weight above zero, each with its weight."""
        pairs = zip(self.entries, self.weights_M, strict=True)
        return [(entry, float(weight)) for entry, weight in pairs if weight > 0]


def mean_diversity(selection: Selection, loaded: LoadedData) -> tuple[Floats, dict[str, float]]:
    """Return every member's mean diversity to the (other) selected ones, and means over pairs of the selection."""
    chosen = np.flatnonzero(selection.weights_M > 0)
    diversity_M = pairwise.diversity_to(selection.search_MNK, chosen)
    selected_MNK = [selection.search_MNK[int(i)] for i in chosen]
    target, targets_N = loaded.dataset.target, loaded.dataset.targets["search"]
    matrices = {"diversity": pairwise.diversity(selected_MNK)}
    if isinstance(target, Classes):
        matrices["disagreement"] = pairwise.disagreement(selected_MNK)
        matrices["error_correlation"] = pairwise.error_correlation(selected_MNK, targets_N)
    else:
        residuals = [target.residuals(one, targets_N) for one in selected_MNK]
        matrices["error_correlation"] = pairwise.residual_correlation(residuals)
    return diversity_M, {name: pairwise.mean_over_pairs(matrix) for name, matrix in matrices.items()}


def page(
    plan: EnsemblePlan,
    store: Store,
    ledger: Ledger,
    loaded: LoadedData,
    selection: Selection,
    rows: Mapping[str, TableRow],
    diversity_M: Floats,
    pairs: Mapping[str, float],
    curve: Mapping[str, float],
) -> PageContent:
    """Return the parts of the page besides table and verdict.

    Args:
        diversity_M, pairs: see `mean_diversity`.
        curve: the ensemble's loss during the search (see `Progress`).
    """
    failures = _failures(ledger)
    details = _details(plan, store, ledger, selection, pairs, failures)
    if len(failures) > MAX_FAILURES_SHOWN:
        details["failures"] = (
            f"{len(failures)}, of which the first {MAX_FAILURES_SHOWN} are shown; results.json has all"
        )
    return PageContent(
        members=_members(plan, selection, diversity_M),
        failures=failures[:MAX_FAILURES_SHOWN],
        details=details,
        draw=lambda folder: _figures(plan, ledger, loaded, selection, rows, diversity_M, curve, folder),
    )


def result_entries(
    plan: EnsemblePlan, ledger: Ledger, selection: Selection, pairs: Mapping[str, float]
) -> dict[str, Any]:
    """Return the entries of `results.json` besides table, weights and verdict."""
    metric, entries = shown_name(plan.metric), selection.entries
    return {
        "selection": dict(pairs),
        "members": {e.task.id: e.report.metrics[metric] for e in entries},
        "failures": _failures(ledger),
        "search_seconds": costs(entries)[1],
        "search_epochs": _epochs(ledger),
        "search_ended": _why_ended(plan, ledger),
    }


def _members(plan: EnsemblePlan, selection: Selection, diversity_M: Floats) -> list[dict[str, Any]]:
    metric = shown_name(plan.metric)
    by_id = {e.task.id: d for e, d in zip(selection.entries, diversity_M, strict=True)}
    return [
        {
            "id": entry.task.id,
            "weight": weight,
            metric: entry.report.metrics[metric],
            "diversity": float(by_id[entry.task.id]),
            "parameters": entry.report.parameters,
            "settings": {k: v for k, v in entry.task.settings.items() if k != "kind"},
            **_logged(entry),
        }
        for entry, weight in sorted(selection.selected, key=lambda pair: -pair[1])
    ]


def _logged(entry: Finished) -> dict[str, dict[str, float]]:
    """Return the last values that the user's own code logged, a few of them, as an entry of a selected member."""
    found = {
        name.removeprefix(LOGGED_PREFIX): value
        for name, value in entry.report.metrics.items()
        if name.startswith(LOGGED_PREFIX)
    }
    return {"logged": dict(islice(found.items(), MAX_LOGGED_SHOWN))} if found else {}


def _details(
    plan: EnsemblePlan,
    store: Store,
    ledger: Ledger,
    selection: Selection,
    pairs: Mapping[str, float],
    failures: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    epochs = _epochs(ledger)
    seconds = costs(selection.entries)[1]
    given_up = sum(failure["final"] for failure in failures)
    members = f"{len(selection.entries)} finished, {given_up} given up, {len(selection.selected)} selected"
    untried = ", ".join(never_tried(plan, ledger))
    return {
        "members": members,
        "search ended": _why_ended(plan, ledger),
        **({"families never tried": untried} if untried else {}),
        "training of all members": f"{seconds:.1f} s in total" + (f", {epochs:,} epochs" if epochs else ""),
        "selection": ", ".join(f"mean {name.replace('_', ' ')} {value:.3f}" for name, value in pairs.items()),
        "calibration": "one temperature per row, fitted on the combine split"
        if plan.config.calibrate == "temperature"
        else "none",
        "storage": store.url,
    }


def _figures(
    plan: EnsemblePlan,
    ledger: Ledger,
    loaded: LoadedData,
    selection: Selection,
    rows: Mapping[str, TableRow],
    diversity_M: Floats,
    curve: Mapping[str, float],
    folder: Path,
) -> dict[str, Path]:
    metric = shown_name(plan.metric)
    values_M = np.array([entry.report.metrics[metric] for entry in selection.entries])
    families = [entry.task.settings["family"] for entry in selection.entries]
    curves = {n: r.test_NK for n, r in rows.items() if n in ("ensemble", "best_single", "student")}
    target, targets_N = loaded.dataset.target, loaded.dataset.targets["test"]
    quality = "reliability" if isinstance(target, Classes) else "predictions"
    paths = {name: folder / f"{name}.png" for name in (quality, "diversity", "weights", "progress")}
    draw = figures.reliability if isinstance(target, Classes) else figures.predictions
    draw(curves, targets_N, paths[quality])
    figures.draw_diversity(values_M, diversity_M, selection.weights_M, families, metric, paths["diversity"])
    figures.weights({e.task.id: w for e, w in selection.selected}, paths["weights"])
    arrived = _order_of_arrival(ledger, selection.entries)
    ensemble_T = _ensemble_so_far(plan, selection, arrived, curve, loaded)
    figures.progress(values_M[arrived], ensemble_T, metric, paths["progress"], higher=metric != plan.metric)
    return {
        f"{quality.capitalize()} on the test split": paths[quality],
        "Members: quality against diversity, on the search split": paths["diversity"],
        "Weights of the selected members": paths["weights"],
        "Search progress, on the search split": paths["progress"],
    }


def _order_of_arrival(ledger: Ledger, entries: Sequence[Finished]) -> list[int]:
    """Return the places of entries, which are in order of names, in the order in which their tasks finished."""
    number = {entry.task.id: number for number, entry in enumerate(ledger.all_finished(EnsemblePurpose.SEARCH))}
    return sorted(range(len(entries)), key=lambda m: number[task_of(entries[m].task.id)])


def _ensemble_so_far(
    plan: EnsemblePlan,
    selection: Selection,
    arrived: Sequence[int],
    curve: Mapping[str, float],
    loaded: LoadedData,
) -> Floats:
    """Return the metric of the ensemble of the first members where the search selected one (`curve`); NaN elsewhere.

    The last one is the ensemble that was selected in the end.
    """
    target, targets_N = loaded.dataset.measured, loaded.dataset.targets["search"]
    losses_T = [curve.get(task_of(selection.entries[m].task.id)) for m in arrived]
    ensemble_T = np.array([np.nan if loss is None else shown_value(plan.metric, loss) for loss in losses_T])
    final_NK = target.mean(selection.search_MNK, selection.weights_M)
    ensemble_T[-1] = target.metrics(final_NK, targets_N)[shown_name(plan.metric)]
    return ensemble_T


def _failures(ledger: Ledger) -> list[dict[str, Any]]:
    """Return all failures, lost attempts included; a final one with the lower rung that its member keeps, if any."""
    kept = {e.task.member: e.task.id for e in ledger.finished(EnsemblePurpose.SEARCH) if e.task.budget is not None}
    failures = ledger.failures()
    for failure in failures:
        member = ledger.task(failure["id"]).member
        if failure["final"] and member in kept:
            failure["keeps"] = kept[member]
    return failures


def _epochs(ledger: Ledger) -> int:
    """Return the number of epochs that the search trained, rungs that are not used included.

    Families without epochs add none.
    """
    found = (entry.report.metrics for entry in ledger.all_finished(EnsemblePurpose.SEARCH))
    return round(sum(one.get("new_epochs", one.get("epochs", 0)) for one in found))


def never_tried(plan: EnsemblePlan, ledger: Ledger) -> list[str]:
    """Return the families of `members` of which the search dispatched no member, in their order."""
    return find_untried(plan.config.members, ledger.tried(EnsemblePurpose.SEARCH))


def _why_ended(plan: EnsemblePlan, ledger: Ledger) -> str:
    if ledger.ended is not None:
        return ledger.ended
    started = ledger.count(EnsemblePurpose.SEARCH)
    decision = plan.next(ledger.reports(EnsemblePurpose.SEARCH, plan.metric))
    if decision.promote or decision.start:
        return f"after {ledger.elapsed:.0f} s (search.seconds), with {started} members started"
    return f"with all {started} members started"


def cascade(
    plan: EnsemblePlan, store: Store, loaded: LoadedData, selection: Selection, ensemble: TableRow
) -> Cascade | None:
    """Return the cascade by which a bundle predicts with fewer members than all.

    None where one member is selected, who predicts anyway, and where the target is not classes.
    """
    entries = [entry for entry, _ in selection.selected]
    if len(entries) == 1 or not isinstance(loaded.dataset.target, Classes):
        return None
    # Members of one architecture cost the same: their times differ by what else the machine did.
    keys = [packing.make_stack_key(entry.task.settings) or entry.task.id for entry in entries]
    times: dict[str, list[float]] = {}
    for key, entry in zip(keys, entries, strict=True):
        times.setdefault(key, []).append(entry.report.predict_ms_per_1000)
    return learn(
        store.read_all_predictions([entry.report.files["combine"] for entry in entries]),
        loaded.dataset.labels["combine"],
        ensemble.combine_NK,
        np.array([weight for _, weight in selection.selected]),
        np.array([max(1e-6, float(np.median(times[key]))) for key in keys]),
        calibrate=plan.config.calibrate != "none",
    )
