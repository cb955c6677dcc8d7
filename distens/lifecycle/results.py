"""The outcome that a role returns, and the result that one place (`distens.lifecycle.delivery`) makes and writes of it.

    role.carry_out ─► Outcome: rows · losses · bundles · what is chosen, what is missing ─► deliver ─► Result

An outcome holds predictions and numbers, but no files and no sentences that compare rows: table, verdict, page, bundles
and the values to track are made from it in the same way for every role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distens import probabilities
from distens.combine.protocol import Combiner
from distens.data.dataset import Dataset
from distens.errors import StorageError
from distens.metrics.protocol import shown_metrics
from distens.records import Finished, Floats, Integers, State, task_of
from distens.serve.bundle import BundleMember
from distens.serve.cascade import Cascade
from distens.storage import editions
from distens.storage.store import Store
from distens.targets.classes import target_argument
from distens.targets.protocol import Target, Targets
from distens.tracking.protocol import Participant

if TYPE_CHECKING:
    import pandas as pd

    from distens.data.load import LoadedData
    from distens.serve.predictor import Predictor

FOLDS = 5


@dataclass(frozen=True)
class TableRow:
    """One row of the table: predictions, and their cost.

    `train_seconds` counts the training of what is deployed (of weights that a federation merged, all rounds, or its
    clients' training). The search that found it is counted in the page's details.
    """

    combine_NK: Floats
    test_NK: Floats
    parameters: int
    train_seconds: float
    predict_ms_per_1000: float
    temperature: float = 1.0

    def calibrated(self, labels_N: Integers) -> TableRow:
        """Return the row calibrated by one temperature, which is fitted on the labels of the *combine* split."""
        temperature = probabilities.fit_temperature(self.combine_NK, labels_N)
        return replace(
            self,
            combine_NK=probabilities.apply_temperature(self.combine_NK, temperature),
            test_NK=probabilities.apply_temperature(self.test_NK, temperature),
            temperature=temperature,
        )

    def measured(self, dataset: Dataset) -> dict[str, float]:
        """Return column -> number, measured on the *test* split."""
        return {
            **dataset.table(self.test_NK, "test"),
            "parameters": self.parameters,
            "train_seconds": self.train_seconds,
            "predict_ms_per_1000": self.predict_ms_per_1000,
            "temperature": self.temperature,
        }


@dataclass(frozen=True)
class BundleContent:
    """The content of a bundle: the members that a row of the table is deployed as, and how they are combined.

    Attributes:
        members: the members that predict, each with its weight.
        combine: the combiner's kind and options.
        combine_state: what the combiner has learned.
        cascade: how to predict with fewer members than all; None where that makes no sense.
    """

    members: Sequence[BundleMember]
    combine: Mapping[str, Any] | str
    combine_state: State
    cascade: Cascade | None = None

    @classmethod
    def single(cls, member: BundleMember) -> BundleContent:
        """Return the content of a bundle of one member."""
        return cls([member], "average", State({"weights": np.ones(1)}))


@dataclass(frozen=True)
class PageContent:
    """The parts of a run's page besides table and verdict.

    Attributes:
        members: a line for each member, or client, that is worth showing; `members_title` is their heading.
        failures: the failures that the page has room for.
        details: further facts: name -> text.
        draw: draws the figures into a folder, and returns caption -> PNG file.
    """

    members: Sequence[Mapping[str, Any]] = ()
    members_title: str = "Selected members"
    failures: Sequence[Mapping[str, Any]] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    draw: Callable[[Path], Mapping[str, Path]] = lambda folder: {}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run, as its role returns it.

    Attributes:
        rows: row of the table -> its predictions, calibrated, and their cost; in the table's order.
        losses: row -> measure -> one loss for each unit; rows are compared in pairs, unit by unit.
        units: the name of the units, in the plural, for the verdict.
        bundles: row -> the content of its bundle, for rows that are deployed.
        chosen: the row to deploy; None where no honest choice was possible.
        means: further lines of the table that are not of one model: name -> column -> value.
        missing: rows that could not be made, and tasks that were given up -> the reason.
        foreword, afterword: sentences of the verdict before and after the comparisons.
        weights: member -> its weight in the ensemble; empty if there is no ensemble.
        diversity: member -> its mean diversity to the selection.
        page: the role's parts of the page.
        numbers: further entries of `results.json`, by key.
        participants: clients and the like, which tracking logs besides the tasks.
        notes: lines for the user.
    """

    rows: Mapping[str, TableRow]
    losses: Mapping[str, Mapping[str, Floats]]
    units: str
    bundles: Mapping[str, BundleContent]
    chosen: str | None
    means: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    foreword: Sequence[str] = ()
    afterword: Sequence[str] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    diversity: Mapping[str, float] = field(default_factory=dict)
    page: PageContent = PageContent()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    participants: Sequence[Participant] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, repr=False)
class Result:
    """The result of a run, as `distens.run` and `distens.load_result` return it.

    Attributes:
        path: the run's folder.
        rows: the honest table: row name -> column -> number, measured on the *test* split. The columns are the target's
            (accuracy, nll, brier, ece, ece_width, aurc of classes; rmse, mae, r2 of numbers), then parameters,
            train_seconds, predict_ms_per_1000, temperature.
        missing: rows that could not be made, and tasks that were given up -> the reason.
        verdict: the comparison of the rows, in sentences.
        weights: member -> its weight in the ensemble, of members with a weight above zero.
        notes: lines for the user, such as the address of the page.
        metric: the key, in members' reports, of what search and selection minimised.
        data: reads the run's data once more, for the leaderboard.
    """

    path: str
    rows: Mapping[str, Mapping[str, float]]
    missing: Mapping[str, str]
    verdict: Sequence[str]
    weights: Mapping[str, float]
    notes: Sequence[str] = field(default_factory=tuple)
    metric: str = field(default="", compare=False)
    data: Callable[[], LoadedData] | None = field(default=None, compare=False)

    def leaderboard(self) -> pd.DataFrame:
        """Return a table of all finished models, the best on the *search* split first.

        Its columns: member, purpose, family, weight (in the ensemble), `search.` and `combine.` metrics, seconds,
        parameters, predict_ms_per_1000, settings. The data are read again, and *combine* predictions of every model.
        """
        import pandas as pd

        from distens.lifecycle import leaderboard

        assert self.data is not None, "only a run's own result has a leaderboard"
        dataset = self.data().dataset
        store, targets_N = Store(self.path), dataset.targets["combine"]
        return pd.DataFrame(leaderboard.rows(store, self.metric, self.weights, dataset.target, targets_N))

    @property
    def best(self) -> Mapping[str, Any]:
        """Return the member that is best on the *search* split: `member`, `settings`, `metrics`, `seconds`.

        Raises:
            StorageError: the run's journal cannot be read, or no member has the run's metric.
        """
        from distens.lifecycle import leaderboard

        found = [e for e in leaderboard.finished_models(Store(self.path)) if self.metric in e.report.metrics]
        if not found:
            raise StorageError(f"{self.path}: no member was measured on the search split")
        task, report = (first := leaderboard.leading(found, self.metric)[0]).task, first.report
        settings = {key: value for key, value in task.settings.items() if key != "family"}
        return {
            "member": task.id,
            "settings": settings,
            "metrics": shown_metrics(report.metrics),
            "seconds": report.seconds,
        }

    @property
    def rounds(self) -> pd.DataFrame:
        """Return a table of a federation's rounds; empty for runs without rounds."""
        import pandas as pd

        store = Store(self.path)
        results = store.read_json(editions.file_of(editions.RESULTS, editions.find_newest(store)))
        return pd.DataFrame(results.get("rounds", []))

    @cached_property
    def predictor(self) -> Predictor:
        """Return the predictor of what the run deploys (see `distens.load`)."""
        from distens.serve.predictor import load

        return load(self.path)

    def __repr__(self) -> str:
        name, (row, values) = self.path.rstrip("/").rpartition("/")[2], next(iter(self.rows.items()), ("no rows", {}))
        shown = ", ".join(f"{column} {value:.4g}" for column, value in list(values.items())[:2])
        return f"<Result {name}: {row}{' ' * bool(shown)}{shown}; {len(self.rows)} rows, {len(self.missing)} missing>"


def costs(entries: Sequence[Finished]) -> tuple[int, float, float]:
    """Return parameters, training seconds, and milliseconds per 1,000 rows, each summed over members.

    The seconds of a training that left several parts are counted once.
    """
    reports = [entry.report for entry in entries]
    return (
        sum(report.parameters for report in reports),
        sum({task_of(report.task_id): report.seconds for report in reports}.values()),
        sum(report.predict_ms_per_1000 for report in reports),
    )


def losses_on_test(rows: Mapping[str, TableRow], target: Target, targets_N: Targets) -> dict[str, dict[str, Floats]]:
    """Return row of the table -> measure -> one loss for each row of the *test* split."""
    return {name: target.losses(row.test_NK, targets_N) for name, row in rows.items()}


def out_of_fold(
    combiner: Combiner, predictions_MNK: Floats, targets_N: Targets, weights_M: Floats, target: Target
) -> Floats:
    """Return the combiner's predictions of rows that it was not fitted on, fold by fold.

    A combiner that learns is too sure of the rows that it learned from, and a temperature fitted there would sharpen
    predictions that it should soften. For a combiner that learns nothing, the result equals `combine` of all rows.
    """
    fold_N = np.arange(len(targets_N)) % FOLDS
    out_NK = np.empty(np.shape(predictions_MNK)[1:])
    for fold in range(FOLDS):
        held = fold_N == fold
        state = combiner.fit(predictions_MNK[:, ~held], targets_N[~held], weights_M, **target_argument(target))
        out_NK[held] = combiner.combine(predictions_MNK[:, held], state, **target_argument(target))
    return out_NK
