"""From trained members to a deployed model: select, train the student and the baselines, combine, test, deliver.

Which rows decide what: *search* selects members and picks among a baseline's variants; *combine* fits the combiner and
one temperature for every row of the table alike; *test* is read here, once, for the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distens import probabilities, registry, seeding
from distens.combine.protocol import Combiner
from distens.data.load import Loaded
from distens.evaluate import baselines, metrics
from distens.lifecycle.delivery import deliver
from distens.lifecycle.ledger import Ledger
from distens.records import Failure, Finished, Floats, Integers, Settings, State, Task, Teacher
from distens.roles.ensemble.plan import Plan
from distens.storage.store import Store
from distens.tracking.protocol import Final

FOLDS = 5

Complete = Callable[[Sequence[Task]], Iterator[tuple[Task, Finished | Failure]]]


@dataclass(frozen=True)
class Row:
    """One line of the table: predictions, and what they cost.

    `train_seconds` counts what is deployed (of weights that a federation merged, all rounds, or its clients' training);
    the search that found it is counted in the report's details.
    """

    combine_NC: Floats
    test_NC: Floats
    parameters: int
    train_seconds: float
    predict_ms_per_1000: float
    temperature: float = 1.0


@dataclass(frozen=True)
class Measured:
    """All that deciding and measuring found, for what is delivered from it."""

    entries: Sequence[Finished]  # every finished member of the search, in the schedule's order: without one, of arrival
    weights_M: Floats  # theirs; 0 where not selected
    selected: Sequence[tuple[Finished, float]]  # those with a weight, and it
    rows: Mapping[str, Row]
    missing: Mapping[str, str]
    combine_state: State


@dataclass(frozen=True)
class Result:
    """What `run` returns.

    Attributes:
        path: the run's folder.
        rows: the honest table: row name -> accuracy, nll, brier, ece, aurc, parameters, train_seconds,
            predict_ms_per_1000.
        missing: rows that could not be made -> why.
        verdict: who won, in sentences.
        weights: selected member's id -> weight.
        notes: where to look next.
    """

    path: str
    rows: Mapping[str, Mapping[str, float]]
    missing: Mapping[str, str]
    verdict: Sequence[str]
    weights: Mapping[str, float]
    notes: Sequence[str] = field(default_factory=tuple)


def metric_of(probs_MNC: Sequence[Floats], weights_M: Floats, labels_N: Integers, metric: str) -> float:
    """Return the metric of a weighted mean of members."""
    return probabilities.metrics(probabilities.mix(probs_MNC, weights_M), labels_N)[metric]


def conclude(plan: Plan, store: Store, ledger: Ledger, loaded: Loaded, complete: Complete) -> tuple[Result, Final]:
    """Do everything that comes after the search; tasks go through `complete`, so all of it resumes."""
    metric, entries = plan.config.metric, standing(plan, ledger)
    search_MNC = store.read_all_predictions([e.report.files["search"] for e in entries])
    weights_M = plan.selector.select(search_MNC, loaded.dataset.labels["search"], metric)
    best = min(entries, key=lambda entry: entry.report.metrics[metric])
    finisher = _Finisher(plan, store, ledger, loaded, entries, weights_M, best)
    for _ in complete(finisher.tasks()):
        pass
    measured = finisher.measure()
    labels_N = loaded.dataset.labels["test"]
    table = {name: table_row(row, labels_N) for name, row in measured.rows.items()}
    test = {name: row.test_NC for name, row in measured.rows.items()}
    verdict = metrics.verdict(table, test, labels_N)
    weights = {entry.task.id: weight for entry, weight in measured.selected}
    result = Result(store.url, table, measured.missing, verdict, weights)
    notes, final = deliver(plan, store, ledger, loaded, measured, result, search_MNC)
    return replace(result, notes=notes), final


def standing(plan: Plan, ledger: Ledger) -> Sequence[Finished]:
    """Return what there is to select from: one entry for each member, by name. In order of arrival, chance would decide
    among equals, and about the last bit of every mean."""
    found = plan.schedule.standing(ledger.reports("search", plan.config.metric))
    return sorted(found, key=lambda entry: (entry.task.member, entry.task.id))


def in_one_go(entry: Finished) -> Settings:
    """Return settings that train a member at once as far as its last rung; or, where its rate ends, to its end."""
    settings, budget = entry.task.settings, entry.task.budget
    if budget is None or registry.build_member(settings).last_epoch() is not None:
        return settings
    return {**settings, "epochs": budget}


def table_row(row: Row, labels_N: Integers) -> dict[str, float]:
    """Return one line of the table, measured on the *test* split."""
    return {
        **metrics.row(row.test_NC, labels_N),
        "parameters": row.parameters,
        "train_seconds": row.train_seconds,
        "predict_ms_per_1000": row.predict_ms_per_1000,
        "temperature": row.temperature,
    }


def out_of_fold(combiner: Combiner, probs_MNC: Floats, labels_N: Integers, weights_M: Floats) -> Floats:
    """Return what the combiner predicts of rows that it was not fitted on, fold by fold.

    A combiner that learns is too sure of the rows it learned from, and a temperature fitted there would sharpen what
    should be softened. For one that learns nothing this is `combine` of all rows.
    """
    fold_N = np.arange(len(labels_N)) % FOLDS
    out_NC = np.empty(np.shape(probs_MNC)[1:])
    for fold in range(FOLDS):
        held = fold_N == fold
        state = combiner.fit(probs_MNC[:, ~held], labels_N[~held], weights_M)
        out_NC[held] = combiner.combine(probs_MNC[:, held], state)
    return out_NC


@dataclass
class _Finisher:
    plan: Plan
    store: Store
    ledger: Ledger
    loaded: Loaded
    entries: Sequence[Finished]
    weights_M: Floats
    best: Finished

    def __post_init__(self) -> None:
        self.config = self.plan.config
        pairs = zip(self.entries, self.weights_M, strict=True)
        self.selected = [(entry, float(weight)) for entry, weight in pairs if weight > 0]
        self.network = self._best_network()
        self.missing: dict[str, str] = {}

    def _best_network(self) -> Settings | None:
        kinds = {e.task.settings["kind"]: e.task.settings for e in self.entries}
        networks = {kind for kind, settings in kinds.items() if baselines.is_network(settings)}
        entries = [e for e in self.entries if e.task.settings["kind"] in networks]
        return in_one_go(min(entries, key=lambda e: e.report.metrics[self.config.metric])) if entries else None

    def _task(self, name: str, purpose: str, settings: Settings, **more: Any) -> Task:
        seed = seeding.derive(self.config.seed, "finish", name)
        return Task(name, purpose, settings, seed, self.plan.runner.usual, **more)

    def tasks(self) -> list[Task]:
        """Return the student and the baselines: independent of each other, so all may run at once."""
        tasks: list[Task] = []
        if self.config.distill is not None:
            tasks += self._student_tasks()
        if "larger_single" in self.config.baselines:
            tasks += self._larger_single_tasks()
        if "seed_ensemble" in self.config.baselines:
            for i in range(1, len(self.selected)):
                tasks.append(self._task(f"seed_ensemble-{i}", "seed_ensemble", in_one_go(self.best)))
        return tasks

    def _student_tasks(self) -> list[Task]:
        settings = self.plan.student or self.network
        if settings is None:
            self.missing |= dict.fromkeys(("student", "student_on_labels"), "no member that is a network finished")
            return []
        assert isinstance(self.config.distill, dict)
        teachers = tuple(Teacher(e.task.settings, e.report.files["state"], w) for e, w in self.selected)
        network = self.plan.student or baselines.without_dropout(settings)
        student = self._task("student", "student", network, distill=self.config.distill, teachers=teachers)
        # A student sees more rows in an epoch than there are labels. Its rival gets the same epochs or the same
        # steps, whichever does better on the search split, and keeps the dropout that was found for labels.
        growth = registry.build("distill", self.config.distill, "distill").growth
        variants = [settings]
        if growth > 1 and "epochs" in registry.options(registry.find("members", settings["kind"], "distill.network")):
            epochs = registry.build_member(settings, "distill.network").epochs
            variants.append({**settings, "epochs": round(epochs * growth)})
        return [student, *self._variants("student_on_labels", variants)]

    def _larger_single_tasks(self) -> list[Task]:
        if self.network is None:
            self.missing["larger_single"] = "no member that is a network finished"
            return []
        wanted = sum(entry.report.parameters for entry, _ in self.selected)
        shape = self.loaded.dataset.inputs["train"].shape[1:]
        variants = baselines.larger_single(self.network, wanted, shape, len(self.loaded.dataset.classes))
        return self._variants("larger_single", variants)

    def _variants(self, purpose: str, variants: Sequence[Settings]) -> list[Task]:
        return [self._task(f"{purpose}-{i}", purpose, settings) for i, settings in enumerate(variants, 1)]

    def measure(self) -> Measured:
        """Combine and calibrate; the labels of *test* are not needed yet."""
        labels = self.loaded.dataset.labels
        rows: dict[str, Row] = {}
        state, rows["ensemble"] = self._ensemble()
        rows["best_single"] = self._single(self.best)
        for purpose in ("student", "student_on_labels", "larger_single"):
            self._best_variant(purpose, rows)
        if "seed_ensemble" in self.config.baselines:
            rows["seed_ensemble"] = self._seed_ensemble()
        rows = {name: self._calibrated(row, labels["combine"]) for name, row in rows.items()}
        return Measured(self.entries, self.weights_M, self.selected, rows, self.missing, state)

    def _read(self, entry: Finished, split: str) -> Floats:
        return self.store.read_predictions(entry.report.files[split])

    def _ensemble(self) -> tuple[State, Row]:
        weights_M = np.array([weight for _, weight in self.selected])
        combine_MNC, test_MNC = (
            np.stack(self.store.read_all_predictions([entry.report.files[split] for entry, _ in self.selected]))
            for split in ("combine", "test")
        )
        combiner, labels_N = self.plan.combiner, self.loaded.dataset.labels["combine"]
        state = combiner.fit(combine_MNC, labels_N, weights_M)
        held_out_NC = out_of_fold(combiner, combine_MNC, labels_N, weights_M)
        test_NC = combiner.combine(test_MNC, state)
        return state, Row(held_out_NC, test_NC, *costs([entry for entry, _ in self.selected]))

    def _single(self, entry: Finished) -> Row:
        return Row(self._read(entry, "combine"), self._read(entry, "test"), *costs([entry]))

    def _entries(self, purpose: str) -> Sequence[Finished]:
        for entry in self.ledger.failed(purpose):
            self.missing[entry.task.id] = f"{entry.failure.reason}: {entry.failure.message}"
        return self.ledger.finished(purpose)

    def _best_variant(self, purpose: str, rows: dict[str, Row]) -> None:
        """Add the row of the variant that does best on the *search* split."""
        entries = self._entries(purpose)
        if entries:
            rows[purpose] = self._single(min(entries, key=lambda e: e.report.metrics[self.config.metric]))
        elif self.ledger.count(purpose):
            self.missing[purpose] = "every variant failed"

    def _seed_ensemble(self) -> Row:
        entries = [self.best, *self._entries("seed_ensemble")]
        if len(entries) < len(self.selected):
            self.missing["seed_ensemble"] = f"{len(entries)} of {len(self.selected)} members: the others failed"
        weights_M = np.full(len(entries), 1 / len(entries))
        combine_NC, test_NC = (
            probabilities.mix([self._read(e, split) for e in entries], weights_M) for split in ("combine", "test")
        )
        return Row(combine_NC, test_NC, *costs(entries))

    def _calibrated(self, row: Row, labels_N: Integers) -> Row:
        return row if self.config.calibrate == "none" else calibrated(row, labels_N)


def calibrated(row: Row, labels_N: Integers) -> Row:
    """Return a row with one temperature, fitted on the labels of the *combine* split."""
    temperature = probabilities.fit_temperature(row.combine_NC, labels_N)
    return replace(
        row,
        combine_NC=probabilities.apply_temperature(row.combine_NC, temperature),
        test_NC=probabilities.apply_temperature(row.test_NC, temperature),
        temperature=temperature,
    )


def costs(entries: Sequence[Finished]) -> tuple[int, float, float]:
    """Return parameters, training seconds, and milliseconds per 1,000 rows, of members together."""
    reports = [entry.report for entry in entries]
    return (
        sum(report.parameters for report in reports),
        sum(report.seconds for report in reports),
        sum(report.predict_ms_per_1000 for report in reports),
    )
