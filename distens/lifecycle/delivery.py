"""The delivery of a finished run, whatever its role: table, verdict, page, bundles, `results.json`, values to track."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distens.config.config import Config, to_yaml
from distens.data.load import LoadedData
from distens.errors import BundleError
from distens.evaluate import comparison, report
from distens.lifecycle.results import Outcome, Result
from distens.records import Floats
from distens.serve import bundle, predictor
from distens.storage import editions
from distens.storage.filesystem import make_temporary_folder, report_failure
from distens.storage.store import Store
from distens.targets.protocol import Target
from distens.tracking.protocol import FinalInfo, Tracker, model_name

MAX_FAILURES_SHOWN = 200
"""The largest number of failures that the page lists; `results.json` has all."""

TOLERANCE = 1e-6
"""The largest difference between predictions of a bundle that was read back and the run's stored test predictions:
absolute up to 1, relative above."""


def deliver(
    config: Config, store: Store, tracker: Tracker, loaded: LoadedData, outcome: Outcome, edition: int
) -> tuple[Result, FinalInfo]:
    """Write all results into the run's folder; return the result, and the values that the tracker gets at the end.

    `results.json`, which marks the edition as complete, is written last.

    Args:
        tracker: called with each participant.
        edition: the number of the results (see `distens.storage.editions`).

    Raises:
        BundleError: the predictions of a bundle that was read back differ from the run's.
        StorageError: a file cannot be written.
    """
    home = make_temporary_folder()  # pictures and the page are drawn here, and go through the store as all files do
    table, verdict = _table(loaded, outcome)
    weights = {name: weight for name, weight in outcome.weights.items() if weight > 0}
    page = home / editions.file_of("report.html", edition)
    where = f"report: {store.url}/{page.name}"
    result = Result(store.url, table, outcome.missing, verdict, weights, (*outcome.notes, where))
    pictures = dict(outcome.page.draw(home / editions.folder_of("figures", edition)))
    earlier = {"edition": f"{edition}; the results before are beside it"} if edition > 1 else {}
    _write_page(config, store, page, loaded, outcome, result, pictures, earlier)
    folders = _write_bundles(config, store, editions.folder_of("final", edition), loaded, outcome, table)
    final = FinalInfo(
        rows=table,
        weights=weights,
        diversity=outcome.diversity,
        figures=tuple(pictures.values()),
        report=page,
        bundles={name: store.local_folder(folder, home / name) for name, folder in folders.items()},
        scores=_scores(loaded, outcome),
        example=loaded.example_rows,
        verdict=verdict,
        score_name=_score_name(loaded.dataset.target),
        expected={name: _read_back(store, f, loaded, outcome.rows[name].test_NK) for name, f in folders.items()},
    )
    for participant in outcome.participants:
        tracker.participant(participant)
    store.write_json(editions.file_of(editions.RESULTS, edition), _results(loaded, outcome, result))
    return result, final


def _table(loaded: LoadedData, outcome: Outcome) -> tuple[dict[str, Mapping[str, float]], list[str]]:
    """Return the table, measured on the *test* split, and the verdict's sentences."""
    target = loaded.dataset.target
    table: dict[str, Mapping[str, float]] = {n: row.measured(loaded.dataset) for n, row in outcome.rows.items()}
    table |= outcome.means
    compared = comparison.verdict(table, outcome.losses, target.phrases, outcome.units)
    return table, [*outcome.foreword, *compared, *outcome.afterword]


def _write_page(
    config: Config,
    store: Store,
    page: Path,
    loaded: LoadedData,
    outcome: Outcome,
    result: Result,
    pictures: Mapping[str, Path],
    earlier: Mapping[str, str],
) -> None:
    """Write the page, and the pictures, which are drawn already.

    Args:
        page: its path in a temporary folder on this machine, where the pictures are, too.
        earlier: a fact about earlier results: name -> text; empty if there are none.
    """
    data = report.ReportData(
        run_name=_name(result),
        rows=result.rows,
        columns=report.columns(loaded.dataset.target, loaded.dataset.metric),
        missing=result.missing,
        verdict=result.verdict,
        members=outcome.page.members,
        members_title=outcome.page.members_title,
        failures=outcome.page.failures,
        figures=pictures,
        config_yaml=to_yaml(config),
        details={**outcome.page.details, **earlier, **loaded.column_details},
    )
    with report_failure(page):
        report.write_page(page, data)
    for path in (*pictures.values(), page):
        store.write(path.relative_to(page.parent).as_posix(), path.read_bytes(), durable=False)


def _write_bundles(
    config: Config,
    store: Store,
    final: str,
    loaded: LoadedData,
    outcome: Outcome,
    table: Mapping[str, Mapping[str, float]],
) -> dict[str, str]:
    """Write the bundles into a folder of the run's; return row -> the folder of its bundle."""
    folders, sources = {}, store.read_json("run.json").get("sources")
    for name, content in outcome.bundles.items():
        folders[name] = folder = f"{final}/{name}"
        bundle.write_bundle(
            store,
            folder,
            name=model_name(config.name, name),
            target=loaded.dataset.target,
            preprocessing=loaded.preprocessing.to_json(),
            members=content.members,
            combine=content.combine,
            combine_state=content.combine_state,
            temperature=outcome.rows[name].temperature,
            metrics=table[name],
            cascade=content.cascade,
            extra={"sources": sources} if sources else None,
        )
        store.write_predictions(f"{folder}/test.arrow", outcome.rows[name].test_NK)
    return folders


def _scores(loaded: LoadedData, outcome: Outcome) -> dict[str, float]:
    """Return bundle -> the usual metric on the *combine* split; an empty mapping where that split has no rows."""
    target, targets_N = loaded.dataset.target, loaded.dataset.targets["combine"]
    if not len(targets_N):
        return {}
    usual = target.minimised[0]
    return {name: target.metrics(outcome.rows[name].combine_NK, targets_N)[usual] for name in outcome.bundles}


def _score_name(target: Target) -> str:
    """Return the name of the usual metric, as it is shown."""
    usual = target.minimised[0]
    return next((phrase.name for phrase in target.phrases if phrase.column == usual), usual)


def _read_back(store: Store, folder: str, loaded: LoadedData, test_NK: Floats) -> Floats:
    """Read a bundle back, as its user will, and return its predictions of the example rows.

    Raises:
        BundleError: they differ from the run's; a bundle that cannot predict is not delivered.
    """
    found_NK = predictor.load(f"{store.url}/{folder}", imports=True).predict_proba(loaded.example_rows)
    expected_NK = test_NK[: len(found_NK)]
    worst = float((np.abs(found_NK - expected_NK) / np.maximum(1.0, np.abs(expected_NK))).max())
    if not worst <= TOLERANCE:
        raise BundleError(
            f"{store.url}/{folder}: the bundle was read back, and its predictions differ from the run's (by "
            f"{worst:.2g})"
        )
    return found_NK


def _results(loaded: LoadedData, outcome: Outcome, result: Result) -> dict[str, Any]:
    judged = outcome.rows.items() if len(loaded.dataset.targets["combine"]) else ()
    return {
        "run": _name(result),
        **result.rows,
        "missing": dict(result.missing),
        "verdict": list(result.verdict),
        "weights": dict(result.weights),
        "chosen": outcome.chosen,
        **({"diversity": dict(outcome.diversity)} if outcome.diversity else {}),
        "combine": {name: loaded.dataset.table(row.combine_NK, "combine") for name, row in judged},
        **outcome.numbers,
    }


def _name(result: Result) -> str:
    return result.path.rstrip("/").rpartition("/")[2]  # a run that went on keeps its folder
