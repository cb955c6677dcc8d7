"""The leaderboard of a finished run: every model that was trained, with its settings, cost and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from distens.lifecycle.ledger import Ledger
from distens.metrics.protocol import shown_name, shown_value
from distens.records import Finished
from distens.storage.store import Store
from distens.targets.protocol import Target, Targets


def leading(entries: list[Finished], metric: str) -> list[Finished]:
    """Return entries, the best first; those without the metric, such as clients that were not judged, are last."""
    return sorted(entries, key=lambda entry: entry.report.metrics.get(metric, float("inf")))


def finished_models(store: Store) -> list[Finished]:
    """Return every model of a run that finished, purpose by purpose; of a member in rungs, that of the highest."""
    ledger = Ledger(store)
    purposes = dict.fromkeys(entry.task.purpose for entry in ledger.all_finished())
    return [model for purpose in purposes for entry in ledger.finished(purpose) for model in entry.models()]


def rows(
    store: Store, metric: str, weights: Mapping[str, float], target: Target, targets_N: Targets
) -> Iterator[dict[str, Any]]:
    """Yield a row of the leaderboard for every finished model, the best on the *search* split first.

    Args:
        metric: the key of what search and selection minimised.
        weights: member -> its weight in the ensemble.
        targets_N: of the *combine* split.
    """
    for entry in leading(finished_models(store), metric):
        task, report = entry.task, entry.report
        family = task.settings.get("family", task.settings.get("kind", ""))
        judged = {f"search.{name}": value for name, value in report.metrics.items() if name in target.minimised}
        if metric in report.metrics:
            judged[f"search.{shown_name(metric)}"] = shown_value(metric, report.metrics[metric])
        also = {"train_loss": report.metrics["train_loss"]} if "train_loss" in report.metrics else {}
        if "combine" in report.files and len(targets_N):
            predictions_NK = store.read_predictions(report.files["combine"])
            judged |= {f"combine.{name}": value for name, value in target.table(predictions_NK, targets_N).items()}
        yield {
            "member": task.id,
            "purpose": str(task.purpose),
            "family": family,
            "weight": weights.get(task.id, 0.0),
            **judged,
            **also,
            "seconds": report.seconds,
            "parameters": report.parameters,
            "predict_ms_per_1000": report.predict_ms_per_1000,
            "settings": {key: value for key, value in task.settings.items() if key != "family"},
        }
