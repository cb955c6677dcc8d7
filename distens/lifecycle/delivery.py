"""What a finished run leaves behind: bundles that predict, figures, a page, `results.json`, and what tracking gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distens import packing, probabilities
from distens.config.config import to_yaml
from distens.data.load import Loaded
from distens.diversity import pairwise
from distens.errors import BundleError
from distens.evaluate import figures, metrics, report
from distens.lifecycle.ledger import Ledger
from distens.records import Floats, Integers, State
from distens.roles.ensemble.plan import Plan
from distens.serve import bundle, cascade, predictor
from distens.storage.filesystem import temporary
from distens.storage.store import Store
from distens.tracking.protocol import Final

if TYPE_CHECKING:
    from distens.roles.ensemble.conclude import Measured, Result

CURVE_POINTS = 40
"""Of the ensemble's curve in the progress figure; each is a selection of its own."""

LEADERS = 100
"""What is selected on the way, to be looked at, is selected among the best so many members; the end weighs them all."""

MOST_FAILURES = 200
"""The page lists so many."""

TOLERANCE = 1e-6
"""A bundle, read back, predicts what the run's stored test predictions say, to this."""


def deliver(
    plan: Plan,
    store: Store,
    ledger: Ledger,
    loaded: Loaded,
    measured: Measured,
    result: Result,
    search_MNC: Sequence[Floats],
) -> tuple[tuple[str, ...], Final]:
    """Write everything under the run's folder; return lines for the user, and the tracker's part.

    Args:
        search_MNC: what every member of `measured.entries` predicted of the *search* split.
    """
    diversity_M, pairs = _diversity(search_MNC, measured, loaded)
    home = Path(store.path("")) if store.local else temporary()
    pictures = _figures(plan, loaded, measured, search_MNC, diversity_M, home / "figures")
    data = _report(plan, ledger, measured, result, diversity_M, pairs, pictures)
    write_page(store, home, data)
    folders = _bundles(plan, store, ledger, loaded, measured, result)
    diversity = {e.task.id: float(d) for e, d in zip(measured.entries, diversity_M, strict=True)}
    final = Final(
        rows=result.rows,
        weights=result.weights,
        diversity=diversity,
        figures=tuple(pictures.values()),
        report=home / "report.html",
        bundles={name: store.local_folder(f, home / name) for name, f in folders.items()},
        scores=_scores(measured, loaded, folders),
        example=loaded.example_rows,
        verdict=result.verdict,
        expected={name: check(store, f, loaded, measured.rows[name].test_NC) for name, f in folders.items()},
    )
    combine_N = loaded.dataset.labels["combine"]
    results = _results(plan, ledger, result, measured, combine_N, diversity, pairs)
    store.write_json("results.json", results)  # the run's marker
    return (f"report: {store.url}/report.html",), final


def write_page(store: Store, home: Path, data: report.ReportData) -> None:
    """Write the page, whose pictures are there already; to a remote store it goes with them.

    Args:
        home: the run's folder, or what stands for it on this machine.
    """
    report.write(home / "report.html", data)
    if not store.local:
        for path in (*data.figures.values(), home / "report.html"):
            store.write(path.relative_to(home).as_posix(), path.read_bytes())


def _scores(measured: Measured, loaded: Loaded, names: Mapping[str, str]) -> dict[str, float]:
    labels_N = loaded.dataset.labels["combine"]
    return {n: probabilities.negative_log_likelihood(measured.rows[n].combine_NC, labels_N) for n in names}


def _diversity(search_MNC: Sequence[Floats], measured: Measured, loaded: Loaded) -> tuple[Floats, dict[str, float]]:
    """Return every member's mean diversity to the (other) selected ones, and means over pairs of the selection."""
    chosen = np.flatnonzero(measured.weights_M > 0)
    diversity_M = pairwise.diversity_to(search_MNC, chosen)
    selected_MNC = [search_MNC[int(i)] for i in chosen]
    labels_N = loaded.dataset.labels["search"]
    matrices = {
        "diversity": pairwise.diversity(selected_MNC),
        "disagreement": pairwise.disagreement(selected_MNC),
        "error_correlation": pairwise.error_correlation(selected_MNC, labels_N),
    }
    return diversity_M, {name: pairwise.mean_over_pairs(matrix) for name, matrix in matrices.items()}


def _figures(
    plan: Plan, loaded: Loaded, measured: Measured, search_MNC: Sequence[Floats], diversity_M: Floats, folder: Path
) -> dict[str, Path]:
    metric = plan.config.metric
    values_M = np.array([entry.report.metrics[metric] for entry in measured.entries])
    families = [entry.task.settings["family"] for entry in measured.entries]
    curves = {n: r.test_NC for n, r in measured.rows.items() if n in ("ensemble", "best_single", "student")}
    paths = {name: folder / f"{name}.png" for name in ("reliability", "diversity", "weights", "progress")}
    figures.reliability(curves, loaded.dataset.labels["test"], paths["reliability"])
    figures.diversity(values_M, diversity_M, measured.weights_M, families, metric, paths["diversity"])
    figures.weights({e.task.id: w for e, w in measured.selected}, paths["weights"])
    ensemble_T = _ensemble_so_far(plan, search_MNC, values_M, loaded)
    figures.progress(values_M, ensemble_T, metric, paths["progress"])
    return {
        "Reliability on the test split": paths["reliability"],
        "Members: quality against diversity, on the search split": paths["diversity"],
        "Weights of the selected members": paths["weights"],
        "Search progress, on the search split": paths["progress"],
    }


def _ensemble_so_far(plan: Plan, search_MNC: Sequence[Floats], values_M: Floats, loaded: Loaded) -> Floats:
    metric, labels_N = plan.config.metric, loaded.dataset.labels["search"]
    values_T = np.full(len(search_MNC), np.nan)
    for count in np.unique(np.linspace(1, len(search_MNC), min(len(search_MNC), CURVE_POINTS)).astype(int)):
        leaders = np.argsort(values_M[:count], kind="stable")[:LEADERS]
        probs_MNC = [search_MNC[m] for m in leaders]
        mixed_NC = probabilities.mix(probs_MNC, plan.selector.select(probs_MNC, labels_N, metric))
        values_T[count - 1] = probabilities.metrics(mixed_NC, labels_N)[metric]
    return values_T


def _report(
    plan: Plan,
    ledger: Ledger,
    measured: Measured,
    result: Result,
    diversity_M: Floats,
    pairs: Mapping[str, float],
    pictures: Mapping[str, Path],
) -> report.ReportData:
    metric = plan.config.metric
    by_id = {e.task.id: d for e, d in zip(measured.entries, diversity_M, strict=True)}
    members = [
        {
            "id": entry.task.id,
            "weight": weight,
            metric: entry.report.metrics[metric],
            "diversity": float(by_id[entry.task.id]),
            "parameters": entry.report.parameters,
            "settings": {k: v for k, v in entry.task.settings.items() if k != "kind"},
        }
        for entry, weight in sorted(measured.selected, key=lambda pair: -pair[1])
    ]
    failures = _failures(ledger)
    epochs = _epochs(ledger)
    seconds = sum(entry.report.seconds for entry in measured.entries)
    given_up = sum(f["final"] for f in failures)
    details = {
        "members": f"{len(measured.entries)} finished, {given_up} given up, {len(measured.selected)} selected",
        "search ended": _why_ended(plan, ledger),
        "training of all members": f"{seconds:.1f} s in total" + (f", {epochs:,} epochs" if epochs else ""),
        "selection": ", ".join(f"mean {name.replace('_', ' ')} {value:.3f}" for name, value in pairs.items()),
        "calibration": "one temperature per row, fitted on the combine split"
        if plan.config.calibrate == "temperature"
        else "none",
        "storage": result.path,
    }
    if len(failures) > MOST_FAILURES:
        details["failures"] = f"{len(failures)}, of which the first {MOST_FAILURES} are shown; results.json has all"
    return report.ReportData(
        run_name=_name(result),
        rows=result.rows,
        missing=result.missing,
        verdict=result.verdict,
        members=members,
        failures=failures[:MOST_FAILURES],
        figures=pictures,
        config_yaml=to_yaml(plan.config),
        details=details,
    )


def _name(result: Result) -> str:
    return result.path.rstrip("/").rpartition("/")[2]  # a run that was deepened keeps the folder's


def _failures(ledger: Ledger) -> list[dict[str, Any]]:
    """Return what failed, with the lower rung that its member keeps, if it has one."""
    kept = {e.task.member: e.task.id for e in ledger.finished("search") if e.task.budget is not None}
    failures = ledger.failures()
    for failure in failures:
        member = ledger.task(failure["id"]).member
        if failure["final"] and member in kept:
            failure["keeps"] = kept[member]
    return failures


def _results(
    plan: Plan,
    ledger: Ledger,
    result: Result,
    measured: Measured,
    combine_N: Integers,
    diversity: Mapping[str, float],
    pairs: Mapping[str, float],
) -> dict[str, Any]:
    return {
        "run": _name(result),
        **result.rows,
        "missing": dict(result.missing),
        "verdict": list(result.verdict),
        "weights": dict(result.weights),
        "selection": dict(pairs),
        "diversity": diversity,
        "members": {e.task.id: e.report.metrics[plan.config.metric] for e in measured.entries},
        "failures": _failures(ledger),
        "search_seconds": sum(entry.report.seconds for entry in measured.entries),
        "combine": {name: metrics.row(row.combine_NC, combine_N) for name, row in measured.rows.items()},
        "search_epochs": _epochs(ledger),
        "search_ended": _why_ended(plan, ledger),
    }


def _epochs(ledger: Ledger) -> int:
    """Return how many epochs the search trained, those of rungs that are not used included; families without epochs
    add none."""
    found = (entry.report.metrics for entry in ledger.all_finished("search"))
    return round(sum(one.get("new_epochs", one.get("epochs", 0)) for one in found))


def _why_ended(plan: Plan, ledger: Ledger) -> str:
    started = ledger.count("search")
    decision = plan.next(ledger.reports("search", plan.config.metric))
    if decision.promote or decision.start:
        return f"after {ledger.elapsed:.0f} s (search.seconds), with {started} members started"
    return f"with all {started} members started"


def _bundles(
    plan: Plan, store: Store, ledger: Ledger, loaded: Loaded, measured: Measured, result: Result
) -> dict[str, str]:
    common: dict[str, Any] = {
        "classes": loaded.dataset.classes,
        "preprocessing": loaded.preprocessing.to_json(),
    }
    members = [
        bundle.BundleMember(e.task.id, e.task.settings, w, e.report.files["state"]) for e, w in measured.selected
    ]
    bundle.write(
        store,
        "final/ensemble",
        name=plan.config.name,
        members=members,
        combine=plan.config.combine,
        combine_state=measured.combine_state,
        temperature=measured.rows["ensemble"].temperature,
        metrics=result.rows["ensemble"],
        cascade=_cascade(plan, store, loaded, measured),
        **common,
    )
    folders = {"ensemble": "final/ensemble"}
    if "student" in measured.rows:
        task, made = ledger.task("student"), ledger.report("student")
        bundle.write(
            store,
            "final/student",
            name=f"{plan.config.name}-student",
            members=[bundle.BundleMember("student", task.settings, 1.0, made.files["state"])],
            combine="average",
            combine_state=State({"weights": np.ones(1)}),
            temperature=measured.rows["student"].temperature,
            metrics=result.rows["student"],
            **common,
        )
        folders["student"] = "final/student"
    for name, folder in folders.items():
        store.write_predictions(f"{folder}/test.arrow", measured.rows[name].test_NC)
    return folders


def _cascade(plan: Plan, store: Store, loaded: Loaded, measured: Measured) -> cascade.Cascade | None:
    """Return what a bundle needs to ask fewer members than all; one member is asked anyway."""
    entries = [entry for entry, _ in measured.selected]
    if len(entries) == 1:
        return None
    # Members of one architecture cost the same: their times differ by what else the machine did.
    keys = [packing.asking_key(entry.task.settings) or entry.task.id for entry in entries]
    times: dict[str, list[float]] = {}
    for key, entry in zip(keys, entries, strict=True):
        times.setdefault(key, []).append(entry.report.predict_ms_per_1000)
    return cascade.learn(
        store.read_all_predictions([entry.report.files["combine"] for entry in entries]),
        loaded.dataset.labels["combine"],
        measured.rows["ensemble"].combine_NC,
        np.array([weight for _, weight in measured.selected]),
        np.array([max(1e-6, float(np.median(times[key]))) for key in keys]),
        calibrate=plan.config.calibrate != "none",
    )


def check(store: Store, folder: str, loaded: Loaded, test_NC: Floats) -> Floats:
    """Read a bundle back, as its user will, and compare: what cannot predict is not delivered."""
    found_NC = predictor.load(f"{store.url}/{folder}").predict_proba(loaded.example_rows)
    worst = float(np.abs(found_NC - test_NC[: len(found_NC)]).max())
    if not worst <= TOLERANCE:
        raise BundleError(f"{store.url}/{folder}: read back, it predicts otherwise than the run did (by {worst:.2g})")
    return found_NC
