"""From trained members to a deployed model: select, train the student and the baselines, combine, calibrate.

Each split decides one thing. *search* selects members, and the best variant of a baseline; *combine* fits the combiner,
and one temperature for every row of the table alike; *test* is predicted here, and read once, for the table. With folds
(see `distens.data.folds`), out-of-fold predictions select members, and *combine* the best variant of a baseline, which
learned from the rows of all folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distens import registry, seeding
from distens.data.load import LoadedData
from distens.evaluate import baselines
from distens.lifecycle.going_on import reuse
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.results import BundleContent, Outcome, TableRow, costs, losses_on_test, out_of_fold
from distens.lifecycle.work.distil import Distil
from distens.lifecycle.work.train import Train
from distens.records import Failure, Finished, Floats, Integers, Settings, State, Task
from distens.roles.ensemble import overview
from distens.roles.ensemble.overview import Selection
from distens.roles.ensemble.plan import EnsemblePlan
from distens.roles.ensemble.purpose import EnsemblePurpose
from distens.serve.bundle import BundleMember
from distens.storage.store import Store
from distens.targets.classes import target_argument

Complete = Callable[[Sequence[Task]], Iterator[tuple[Task, Finished | Failure]]]

ENSEMBLE, REFIT, STUDENT = "ensemble", "refit", "student"
TRAIN = Train()


def combine_and_compare(
    plan: EnsemblePlan,
    store: Store,
    ledger: Ledger,
    loaded: LoadedData,
    complete: Complete,
    went_on: bool,
    curve: Mapping[str, float],
) -> Outcome:
    """Do everything after the search, and return the outcome; all tasks go through `complete`, so they can resume.

    Args:
        went_on: whether the run was concluded before, or begun, with another config: then tasks for that may be there.
        curve: the ensemble's loss during the search (see `Progress`).
    """
    entries, data = standing(plan, ledger), loaded.dataset
    search_MNK = store.read_all_predictions([e.report.files["search"] for e in entries])
    weights_M = plan.selector.select(search_MNK, data.targets["search"], plan.metric, **target_argument(data.measured))
    selection = Selection(entries, weights_M, search_MNK)
    finisher = _Finisher(plan, store, ledger, loaded, selection)
    tasks = finisher.tasks()
    for _ in complete(finisher.begin(reuse(tasks, ledger) if went_on else tasks)):
        pass
    state, rows = finisher.rows()
    diversity_M, pairs = overview.mean_diversity(selection, loaded)
    return Outcome(
        rows=rows,
        losses=losses_on_test(rows, data.target, data.targets["test"]),
        units="test rows",
        bundles=finisher.bundles(state, rows),
        chosen=ENSEMBLE,
        missing=finisher.missing,
        weights={entry.task.id: weight for entry, weight in selection.selected},
        diversity={e.task.id: float(d) for e, d in zip(entries, diversity_M, strict=True)},
        page=overview.page(plan, store, ledger, loaded, selection, rows, diversity_M, pairs, curve),
        numbers=overview.result_entries(plan, ledger, selection, pairs),
    )


def standing(plan: EnsemblePlan, ledger: Ledger) -> Sequence[Finished]:
    """Return the models to select from, in order of names: one for each member, or for each selectable part of one.

    In order of arrival, chance would decide between equal members, and about the last bit of every mean.
    """
    found = plan.schedule.standing(ledger.reports(EnsemblePurpose.SEARCH, plan.metric))
    models = (model for entry in found for model in entry.models())
    return sorted(models, key=lambda entry: (entry.task.member, entry.task.id))


def in_one_go(entry: Finished) -> Settings:
    """Return settings that train a member in one go up to its last rung; if its learning rate ends, to that end."""
    settings, budget = entry.task.settings, entry.task.budget
    if budget is None or registry.build_member(settings).last_epoch() is not None:
        return settings
    return {**settings, "epochs": budget}


@dataclass
class _Finisher:
    plan: EnsemblePlan
    store: Store
    ledger: Ledger
    loaded: LoadedData
    selection: Selection

    def __post_init__(self) -> None:
        self.config, self.entries = self.plan.config, self.selection.entries
        self.selected = self.selection.selected
        self.best = min(self.entries, key=lambda entry: entry.report.metrics[self.plan.metric])
        kinds = {e.task.settings["kind"]: e.task.settings for e in self.entries}
        networks = {kind for kind, settings in kinds.items() if baselines.is_network(settings)}
        self.networks = [e for e in self.entries if e.task.settings["kind"] in networks]
        self.network = self._best_of(self.networks)
        self.missing: dict[str, str] = dict(self.plan.left_out)
        self.asked: dict[str, str] = {}
        self.refit: BundleContent | None = None

    def begin(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Keep the names and purposes of the tasks that the rows are made from; return the tasks."""
        self.asked = {task.id: task.purpose for task in tasks}
        return tasks

    def _best_of(self, entries: Sequence[Finished]) -> Settings | None:
        return in_one_go(min(entries, key=lambda e: e.report.metrics[self.plan.metric])) if entries else None

    def _task(self, name: str, purpose: EnsemblePurpose, settings: Settings, work: Any = TRAIN) -> Task:
        seed = seeding.derive(self.config.seed, "finish", name)
        return Task(name, purpose, settings, seed, self.plan.occupied(settings), work)

    def tasks(self) -> list[Task]:
        """Return the tasks of refits, the student and the baselines; they are independent, so all may run at once."""
        tasks: list[Task] = []
        if self.config.data.folds is not None and self.config.data.folds.refit:
            for entry, _ in self.selected:
                tasks.append(self._task(f"refit-{entry.task.id}", EnsemblePurpose.REFIT, in_one_go(entry)))
        if self.config.distill is not None:
            tasks += self._student_tasks()
        if "larger_single" in self.config.baselines and "larger_single" not in self.missing:
            tasks += self._larger_single_tasks()
        if "seed_ensemble" in self.config.baselines:
            settings, work = in_one_go(self.best), self.plan.work
            for i in range(1, len(self.selected)):
                tasks.append(self._task(f"seed_ensemble-{i}", EnsemblePurpose.SEED_ENSEMBLE, settings, work))
        return tasks

    def _student_tasks(self) -> list[Task]:
        settings = self.plan.student or self.network
        if settings is None:
            self.missing |= dict.fromkeys(("student", "student_on_labels"), "no member that is a network finished")
            return []
        assert isinstance(self.config.distill, dict)
        teachers = tuple(teacher for entry, weight in self.selected for teacher in entry.teachers(weight))
        network = self.plan.student or baselines.without_dropout(settings)
        student = self._task(STUDENT, EnsemblePurpose.STUDENT, network, Distil(self.config.distill, teachers))
        # A student sees more rows in an epoch than there are labels. Its rival, trained on labels, gets the same epochs
        # or the same steps, whichever is better on the search split, and keeps the dropout that was found for labels.
        growth = registry.make_plugin("distill", self.config.distill, "distill").growth
        variants = [settings]
        if growth > 1 and "epochs" in registry.options(
            registry.find_plugin("members", settings["kind"], "distill.network")
        ):
            epochs = registry.build_member(settings, "distill.network").epochs
            variants.append({**settings, "epochs": round(epochs * growth)})
        return [student, *self._variants(EnsemblePurpose.STUDENT_ON_LABELS, variants)]

    def _larger_single_tasks(self) -> list[Task]:
        narrow = self._best_of([entry for entry in self.networks if baselines.can_widen(entry.task.settings)])
        if narrow is None:
            self.missing["larger_single"] = "no member that is a network which can be widened finished"
            return []
        wanted = sum(entry.report.parameters for entry, _ in self.selected)
        shape = self.loaded.dataset.inputs["train"].shape[1:]
        variants = baselines.larger_single(narrow, wanted, shape, len(self.loaded.dataset.target.column_names))
        return self._variants(EnsemblePurpose.LARGER_SINGLE, variants)

    def _variants(self, purpose: EnsemblePurpose, variants: Sequence[Settings]) -> list[Task]:
        return [self._task(f"{purpose}-{i}", purpose, settings) for i, settings in enumerate(variants, 1)]

    def rows(self) -> tuple[State, dict[str, TableRow]]:
        """Return the combiner's state, and the table's rows, calibrated; the labels of *test* are not used yet.

        Keep the content of the refits' bundle.
        """
        targets = self.loaded.dataset.targets
        rows: dict[str, TableRow] = {}
        weights_M = np.array([weight for _, weight in self.selected])
        state, rows[ENSEMBLE] = self._combined([entry for entry, _ in self.selected], weights_M)
        rows["best_single"] = self._single(self.best)
        for purpose in (EnsemblePurpose.STUDENT, EnsemblePurpose.STUDENT_ON_LABELS, EnsemblePurpose.LARGER_SINGLE):
            self._best_variant(purpose, rows)
        if "seed_ensemble" in self.config.baselines:
            rows["seed_ensemble"] = self._seed_ensemble()
        if refits := self._refits():
            refit_state, rows[REFIT] = self._combined(refits, weights_M)
            members = [BundleMember.of(*pair) for pair in zip(refits, weights_M.tolist(), strict=True)]
            self.refit = BundleContent(members, self.config.combine, refit_state)
        return state, {name: self._calibrated(row, targets["combine"]) for name, row in rows.items()}

    def bundles(self, state: State, rows: Mapping[str, TableRow]) -> dict[str, BundleContent]:
        """Return the contents of the bundles: the ensemble's, and the student's if there is one."""
        members = [BundleMember.of(entry, weight) for entry, weight in self.selected]
        cascade = overview.cascade(self.plan, self.store, self.loaded, self.selection, rows[ENSEMBLE])
        found = {ENSEMBLE: BundleContent(members, self.config.combine, state, cascade)}
        if self.refit is not None:
            found[REFIT] = self.refit
        if STUDENT in rows:
            (student,) = self._entries(EnsemblePurpose.STUDENT)
            found[STUDENT] = BundleContent.single(BundleMember.of(student, 1.0))
        return found

    def _read(self, entry: Finished, split: str) -> Floats:
        return self.store.read_predictions(entry.report.files[split])

    def _refits(self) -> list[Finished]:
        """Return the refit of each selected member, in their order; none if there are none, or if one failed."""
        entries = self._entries(EnsemblePurpose.REFIT)
        asked = [name for name, purpose in self.asked.items() if purpose == EnsemblePurpose.REFIT]
        if len(entries) < len(asked):
            self.missing[REFIT] = f"{len(asked) - len(entries)} of {len(asked)} refits failed"
            return []
        by_name = {entry.task.id: entry for entry in entries}
        return [by_name[name] for name in asked]

    def _combined(self, entries: Sequence[Finished], weights_M: Floats) -> tuple[State, TableRow]:
        """Return the combiner's state, and the row, of the weighted members."""
        combine_MNK, test_MNK = (
            np.stack(self.store.read_all_predictions([entry.report.files[split] for entry in entries]))
            for split in ("combine", "test")
        )
        combiner, data = self.plan.combiner, self.loaded.dataset
        target, targets_N = data.target, data.targets["combine"]
        state = combiner.fit(combine_MNK, targets_N, weights_M, **target_argument(target))
        held_out_NK = out_of_fold(combiner, combine_MNK, targets_N, weights_M, target)
        test_NK = combiner.combine(test_MNK, state, **target_argument(target))
        return state, TableRow(held_out_NK, test_NK, *costs(entries))

    def _single(self, entry: Finished) -> TableRow:
        return TableRow(self._read(entry, "combine"), self._read(entry, "test"), *costs([entry]))

    def _entries(self, purpose: EnsemblePurpose) -> Sequence[Finished]:
        for entry in self.ledger.failed(purpose):
            if entry.task.id in self.asked:
                self.missing[entry.task.id] = f"{entry.failure.reason}: {entry.failure.message}"
        return [entry for entry in self.ledger.finished(purpose) if entry.task.id in self.asked]

    def _best_variant(self, purpose: EnsemblePurpose, rows: dict[str, TableRow]) -> None:
        """Add the row of the best variant; note it as missing if every variant failed."""
        entries = self._entries(purpose)
        if entries:
            rows[purpose.value] = self._single(min(entries, key=self._variant_loss))
        elif purpose in self.asked.values():
            self.missing[purpose.value] = "every variant failed"

    def _variant_loss(self, entry: Finished) -> float:
        """Return a variant's loss on *search*, or, if it has learned from these rows (with folds), on *combine*."""
        if self.config.data.folds is None:
            return entry.report.metrics[self.plan.metric]
        data = self.loaded.dataset
        return data.measured.metrics(self._read(entry, "combine"), data.targets["combine"])[self.plan.metric]

    def _seed_ensemble(self) -> TableRow:
        entries = [self.best, *self._entries(EnsemblePurpose.SEED_ENSEMBLE)]
        if len(entries) < len(self.selected):
            self.missing["seed_ensemble"] = f"{len(entries)} of {len(self.selected)} members: the others failed"
        weights_M, mean = np.full(len(entries), 1 / len(entries)), self.loaded.dataset.target.mean
        combine_NK, test_NK = (
            mean([self._read(e, split) for e in entries], weights_M) for split in ("combine", "test")
        )
        return TableRow(combine_NK, test_NK, *costs(entries))

    def _calibrated(self, row: TableRow, labels_N: Integers) -> TableRow:
        return row if self.config.calibrate == "none" else row.calibrated(labels_N)
