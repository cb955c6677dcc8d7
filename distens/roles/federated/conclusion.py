"""From trained clients to a deployed model: the server's models of them, judged on rows of its own.

Each split decides one thing. *search* holds the server's labelled rows, for rules and distillers that use them;
*combine* decides which of the server's models is deployed, and fits one temperature for each; *test* is read here,
once, for the table. Without *combine* rows there is no choice among several models, and the verdict says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distens import probabilities, registry, seeding
from distens.data.load import LoadedData
from distens.distill.protocol import Average, Averages
from distens.evaluate import figures
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.results import BundleContent, Outcome, PageContent, TableRow, costs, losses_on_test
from distens.members.client import read_histogram
from distens.members.protocol import NormalisesBatches
from distens.merge._weights import average_statistics
from distens.merge.protocol import ClientUpdate, Round
from distens.partition.protocol import Partition
from distens.records import Finished, Floats, Task
from distens.roles.federated import overview, partition_figure
from distens.roles.federated.journal import RoundLog
from distens.roles.federated.plan import FederatedPlan
from distens.roles.federated.purpose import FederatedPurpose
from distens.roles.federated.weighting import ENSEMBLE, WeightedClients
from distens.roles.federated.work.fill import Fill
from distens.serve.bundle import BundleMember
from distens.storage.store import Store

GLOBAL, STUDENT = "global", "student"
MEAN = "mean_client"


def make_global_task(plan: FederatedPlan, weights_P: Floats, went_on: bool = False) -> Task:
    """Return the task that makes a member of global weights, predicts with it, and writes its state.

    Args:
        went_on: whether the run had fewer rounds before; then the task's name has their number.
    """
    seed = seeding.derive(plan.config.seed, "finish", GLOBAL)
    given, settings = {"start": plan.runner.hold(weights_P)}, {**plan.settings(0), "family": GLOBAL}
    name = name_global(plan, went_on)
    return Task(name, FederatedPurpose.GLOBAL, settings, seed, plan.runner.usual, Fill(), given=given)


def name_global(plan: FederatedPlan, went_on: bool) -> str:
    """Return the name of the task that makes a member of global weights."""
    return f"{GLOBAL}-{plan.section.rounds}" if went_on else GLOBAL


def merge_clients(
    plan: FederatedPlan, store: Store, finished: Sequence[Finished], shape: tuple[int, ...], classes: int, clients: int
) -> Floats:
    """Return the weights that the server's rule merges from clients that trained once.

    Args:
        plan: the plan, which has the rule.
        store: the run's folder, where the clients' states lie.
        finished: the clients' tasks.
        shape: the shape of a row of inputs.
        classes: the number of classes.
        clients: the number of clients, those included that did not finish.
    """
    assert plan.merger is not None
    updates, member = [], plan.network(shape, classes)
    start_P = member.weights()
    for entry in finished:
        address, found = entry.report.files["state"], entry.report.metrics
        member.load(store.read_state(address.path, address))
        update = ClientUpdate(
            task_id=entry.task.id,
            attempt=entry.report.attempt,
            client=entry.task.work.client,
            weights_P=member.weights(),
            rows=int(found["rows"]),
            steps=int(found["steps"]),
            rate_sum=found["steps"] * member.learning_rate,
            histogram_C=read_histogram(found, classes),
            loss=found.get("train_loss"),
        )
        updates.append(update)
    merged = plan.merger.merge(Round(0, start_P, updates, clients))
    count = member.statistics() if registry.has_capability(member, NormalisesBatches) else 0
    return average_statistics(merged, updates, count).weights_P


def clients_in_order(ledger: Ledger, names: Sequence[str]) -> list[Finished]:
    """Return the clients' tasks that finished in one shot, in the order of the clients' names."""
    found = {entry.task.work.client: entry for entry in ledger.finished(FederatedPurpose.CLIENT)}
    return [found[name] for name in names if name in found]


def combine_and_compare(
    plan: FederatedPlan,
    store: Store,
    ledger: Ledger,
    loaded: LoadedData,
    partition: Partition | None,
    names: Sequence[str],
    logs: Mapping[int, RoundLog],
    refused: Mapping[str, str],
    went_on: bool,
) -> Outcome:
    """Combine and calibrate the server's models, choose one, and return the outcome.

    Args:
        plan, store, ledger, loaded: the run's.
        partition: the division of *train* among the clients; None if they have rows of their own.
        names: all clients.
        logs: round -> its log; empty in one shot.
        refused: client that trained once -> the reason why its report cannot be used.
        went_on: see `make_global_task`.
    """
    return _Conclusion(plan, store, ledger, loaded, partition, names, logs, refused, went_on).outcome()


class _Conclusion:
    def __init__(
        self,
        plan: FederatedPlan,
        store: Store,
        ledger: Ledger,
        loaded: LoadedData,
        partition: Partition | None,
        names: Sequence[str],
        logs: Mapping[int, RoundLog],
        refused: Mapping[str, str],
        went_on: bool,
    ) -> None:
        self.plan, self.store, self.ledger, self.loaded = plan, store, ledger, loaded
        self.partition, self.names, self.logs, self.refused = partition, names, logs, refused
        self.labels, self.target = loaded.dataset.labels, loaded.dataset.target
        self.global_task = name_global(plan, went_on)
        self.judged = bool(len(self.labels["combine"]))
        self.missing: dict[str, str] = {}
        self.rows: dict[str, TableRow] = {}
        self.weighed: WeightedClients | None = None
        self.clients = overview.ClientOverview(names, logs, ledger, overview.counts(loaded, partition, ledger, refused))

    def outcome(self) -> Outcome:
        made = self._made()
        clients = clients_in_order(self.ledger, [name for name in self.names if name not in self.refused])
        if clients:
            self.weighed = self._weighed(clients, made.get(STUDENT))
            self._add_ensembles(self.weighed)
        for name, entry in made.items():
            self.rows[name] = TableRow(self._read(entry, "combine"), self._read(entry, "test"), *costs([entry]))
        if GLOBAL in self.rows:
            spent = [log.seconds for log in self.logs.values()] or [entry.report.seconds for entry in clients]
            self.rows[GLOBAL] = replace(self.rows[GLOBAL], train_seconds=sum(spent))
        if self.judged and self.plan.config.calibrate != "none":
            self.rows = {name: row.calibrated(self.labels["combine"]) for name, row in self.rows.items()}
        chosen, why = self._chosen()
        weights = self._weights()
        return Outcome(
            rows=self.rows,
            losses=losses_on_test(self.rows, self.target, self.labels["test"]),
            units="test rows",
            bundles=self._bundles(made, chosen),
            chosen=chosen,
            means={MEAN: self._mean_client(clients)} if clients else {},
            missing=self.missing,
            foreword=[why],
            afterword=[
                *overview.degraded(self.logs),
                *overview.single(self.logs, [entry.task.work.client for entry in clients]),
            ],
            weights=weights,
            page=PageContent(
                members=self.clients.table(weights),
                members_title="Clients",
                failures=self.clients.failures[: overview.MAX_CLIENTS_SHOWN],
                details=self._details(chosen),
                draw=lambda folder: self._figures(weights, made, folder),
            ),
            numbers=self._numbers(),
            participants=self.clients.participants() if self.logs else (),
            notes=tuple(self.clients.left_out().values()),
        )

    # The server's models ---------------------------------------------------------------------------------------------

    def _made(self) -> dict[str, Finished]:
        """Return the server's finished tasks, by row of the table; add failed ones to `missing`, the clients' too."""
        found: dict[str, Finished] = {}
        for purpose in (FederatedPurpose.GLOBAL, FederatedPurpose.STUDENT, FederatedPurpose.BASELINE):
            for entry in self.ledger.finished(purpose):
                found[entry.task.id] = entry
            for failed in self.ledger.failed(purpose):
                self.missing[failed.task.id] = f"{failed.failure.reason}: {failed.failure.message}"
        rows = {self.global_task: GLOBAL, **{name: name for name in (STUDENT, *self.plan.baselines)}}
        found = {row: found[name] for name, row in rows.items() if name in found}
        for failed in self.ledger.failed(FederatedPurpose.CLIENT):
            self.missing[failed.task.id] = f"{failed.failure.reason}: {failed.failure.message}"
        self.missing |= {client: f"refused: {why}" for client, why in self.refused.items()}
        return found

    def _read(self, entry: Finished, split: str) -> Floats:
        if split not in entry.report.files:
            return np.zeros((0, len(self.loaded.dataset.classes)))
        return self.store.read_predictions(entry.report.files[split])

    def _weighed(self, clients: Sequence[Finished], student: Finished | None) -> WeightedClients:
        counts_MC = np.array([read_histogram(e.report.metrics, len(self.loaded.dataset.classes)) for e in clients])
        distiller = self.plan.distiller
        average: Average = distiller.average if registry.has_capability(distiller, Averages) else "classwise"
        learned_M = None
        if student is not None and "made" in student.report.files:
            made = self.store.read_state(student.report.files["made"].path, student.report.files["made"])
            learned_M = made.arrays.get("weights_M")
        return WeightedClients(clients, average, counts_MC, learned_M)

    def _add_ensembles(self, weighed: WeightedClients) -> None:
        combine_MNC, test_MNC = (np.stack([self._read(e, s) for e in weighed.entries]) for s in ("combine", "test"))
        for name, by in weighed.ensembles().items():
            combine_NC, test_NC = by.probs_NC(combine_MNC), by.probs_NC(test_MNC)
            self.rows[name] = TableRow(combine_NC, test_NC, *costs([weighed.entries[place] for place in by.places]))

    def _mean_client(self, clients: Sequence[Finished]) -> dict[str, float]:
        """Return the mean over clients of their own rows of the table: column -> number."""
        each = [
            TableRow(self._read(e, "combine"), self._read(e, "test"), *costs([e])).measured(self.loaded.dataset)
            for e in clients
        ]
        return {key: float(np.mean([row[key] for row in each])) for key in each[0]}

    def _chosen(self) -> tuple[str | None, str]:
        """Return the row to deploy, or None if there can be no honest choice, and a sentence about that."""
        if not self.judged:
            if len(self.rows) == 1:
                (only,) = self.rows
                return only, f"There is one model to deploy, {only}; the server has no rows to calibrate it on."
            return None, (
                "The server has no rows of its own (data.splits.combine is 0), so no honest choice among "
                f"{', '.join(self.rows)} was possible; all of them are kept."
            )
        if len(self.rows) == 1:
            (only,) = self.rows
            return only, f"There is one model to deploy: {only}."
        metric = self.plan.metric
        values = {
            n: probabilities.class_metrics(r.combine_NK, self.labels["combine"])[metric] for n, r in self.rows.items()
        }
        best = min(values, key=lambda name: values[name])
        others = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if name != best)
        rows = len(self.labels["combine"])
        return (
            best,
            f"On the server's {rows} combine rows {best} has the least {metric} ({values[best]:.4f}; {others}).",
        )

    def _weights(self) -> dict[str, float]:
        """Return client -> its weight in the ensemble of one shot, weights of zero included; empty after rounds."""
        if self.weighed is None:
            return {}
        pairs = zip(self.weighed.entries, self.weighed.weights_M, strict=True)
        return {entry.task.work.client: float(weight) for entry, weight in pairs}

    # Page, figures and bundles ---------------------------------------------------------------------------------------

    def _details(self, chosen: str | None) -> dict[str, str]:
        details = {"clients": str(len(self.names)), "storage": self.store.url}
        if self.partition is not None:
            rule = ", ".join(f"{key} {value}" for key, value in self.partition.rule.items() if key != "kind")
            details["partition"] = f"{self.partition.rule['kind']} ({rule}), {self.partition.hash[:12]}"
        if self.logs:
            details["rounds"] = f"{len(self.logs)}, {sum(log.degraded for log in self.logs.values())} of them degraded"
        details["deployed"] = chosen or "no choice was made"
        return details | self.clients.left_out()

    def _figures(self, weights: Mapping[str, float], made: Mapping[str, Finished], folder: Path) -> dict[str, Path]:
        dataset, pictures = self.loaded.dataset, {}
        if self.logs:
            pictures |= overview.of_rounds(self.logs, self.clients, self.plan.metric, folder)
        pictures["Reliability on the test split"] = folder / "reliability.png"
        curves = {name: row.test_NK for name, row in self.rows.items() if name in (GLOBAL, ENSEMBLE, STUDENT)}
        figures.reliability(curves, self.labels["test"], folder / "reliability.png")
        if self.partition is not None:
            pictures["Rows of each class"] = folder / "partition.png"
            counts_KC = np.array([self.clients.counts[name] for name in self.names])
            partition_figure.draw_partition(counts_KC, self.names, dataset.classes, folder / "partition.png")
        if self.weighed is not None and self.weighed.learned_M is not None:
            pictures["Weights of the clients"] = folder / "weights.png"
            figures.weights(weights, folder / "weights.png")
        titles = {name: name for name in made}
        if self.plan.distiller is not None:
            titles[STUDENT] = f"{registry.plugin_kind(self.plan.distiller)} (student)"
        return pictures | dict(overview.of_distillers(self.store, made, titles, dataset.bounds, folder))

    def _bundles(self, made: Mapping[str, Finished], chosen: str | None) -> dict[str, BundleContent]:
        """Return the contents of the bundles: of the ensemble, the merged model, the student, and the chosen row."""
        found: dict[str, BundleContent] = {}
        if self.weighed is not None:
            for name, by in self.weighed.ensembles().items():
                if name in (ENSEMBLE, chosen):
                    entries = [self.weighed.entries[place] for place in by.places]
                    members = [BundleMember.of(e, w) for e, w in zip(entries, by.weights_K.tolist(), strict=True)]
                    found[name] = BundleContent(members, registry.plugin_kind(by.combiner), by.state)
        for name, entry in made.items():
            if name in (GLOBAL, STUDENT, chosen):
                found[name] = BundleContent.single(BundleMember.of(entry, 1.0))
        return found

    def _numbers(self) -> dict[str, Any]:
        return {
            "partition": self.partition.hash if self.partition is not None else None,
            "rounds": [vars(log) for log in self.logs.values()],
            "failures": self.clients.failures,
        }
