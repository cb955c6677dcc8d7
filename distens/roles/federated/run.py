"""One federated run, from a plan to its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np

from distens import registry, seeding
from distens.data import load as loading
from distens.data.load import LoadedData
from distens.errors import DistensError, RunError
from distens.lifecycle.occupying import occupied_resources
from distens.lifecycle.packs import pack_tasks
from distens.lifecycle.progress import ProgressEvent, format_outcome
from distens.lifecycle.results import Outcome
from distens.lifecycle.session import Session
from distens.members.client import read_histogram
from distens.merge.protocol import NeedsProxy
from distens.packing import Planner
from distens.partition.protocol import FILE, Partition
from distens.records import Failure, Finished, Floats, Task
from distens.roles.federated import conclusion
from distens.roles.federated.clients import ClientData, PartitionedClients, RemoteClients
from distens.roles.federated.journal import RoundLog
from distens.roles.federated.plan import FederatedPlan, check_drawn
from distens.roles.federated.purpose import FederatedPurpose
from distens.roles.federated.rounds import Rounds
from distens.roles.federated.validation import KnownClient, find_giants, find_report_fault
from distens.roles.federated.work.distil_blind import DistilBlind
from distens.roles.federated.work.train_client import TrainClient
from distens.runtime.protocol import RunContext


class FederatedRun:
    """One run of the federated role, on the driver.

    Args:
        plan: what to do.
        session: the run's session.
    """

    def __init__(self, plan: FederatedPlan, session: Session) -> None:
        self.plan, self.config, self.session = plan, plan.config, session
        self.store, self.watch, self.ledger = session.store, session.watch, session.ledger

    def outcome(self) -> Outcome:
        """Do all that is left to do, and return the outcome."""
        self.session.prepare(self._at_once())
        loaded = self.session.open()
        partition, clients = self._clients(loaded)
        names = list(self.plan.section.sources) if partition is None else list(partition.rows)
        self.plan.check_names(names)
        how = "with data of their own" if partition is None else f"by {partition.rule['kind']} ({partition.hash[:8]})"
        self.watch(ProgressEvent("data", f"{len(names)} clients, {how}"))
        planner = self.session.planner(loaded)
        network = _Network(self.plan, loaded)
        if not self.plan.one_shot:
            with suppress(DistensError):  # an error is raised again below, where the tracker sees it
                network.member()  # loads torch, while the runner gets ready
        self.session.start(RunContext(self.store, loaded.dataset.for_members(), clients), self.plan.also)
        logs: Mapping[int, RoundLog] = {}
        refused: Mapping[str, str] = {}
        if self.plan.one_shot:
            refused = self._one_shot(names, planner, loaded, self._counts(partition, loaded))
        else:
            logs = self._rounds(names, partition, loaded, planner, network)
        return conclusion.combine_and_compare(
            self.plan, self.store, self.ledger, loaded, partition, names, logs, refused, self.session.went_on
        )

    def _at_once(self) -> int:
        """Return the least number of clients that train at once, as far as it is known before the data are read."""
        section = self.plan.section
        return section.per_round or len(section.sources) or section.clients or 1

    def _clients(self, loaded: LoadedData) -> tuple[Partition | None, ClientData]:
        section, config = self.plan.section, self.config
        if section.sources:
            sections = {
                name: config.data.model_copy(update={"source": source, "rows": None})
                for name, source in section.sources.items()
            }
            return None, RemoteClients(sections, loaded.preprocessing.to_json(), loaded.dataset.classes)
        if self.store.exists(FILE):
            partition = Partition.read(self.store)
        else:
            partition = self._divide(loaded)
            partition.save(self.store)
        check_drawn(section, len(partition.rows))
        return partition, PartitionedClients(partition.rows)

    def _divide(self, loaded: LoadedData) -> Partition:
        assert self.plan.partitioner is not None
        seed = seeding.derive(self.config.seed, "partition")
        labels_N, classes = loaded.dataset.labels["train"], len(loaded.dataset.classes)

        def column(name: str) -> Any:
            return loading.column(self.config.data, name)[loaded.split_rows["train"]]

        rng = np.random.default_rng(seed)
        rows = self.plan.partitioner.divide(labels_N, classes, self.plan.section.clients, rng, column)
        rule = registry.resolve_options(self.plan.partitioner)
        return Partition.of(rows, labels_N, rule, seed, loaded.dataset.fingerprint)

    # One shot --------------------------------------------------------------------------------------------------------

    def _one_shot(
        self, names: Sequence[str], planner: Planner, loaded: LoadedData, counts: Mapping[str, Sequence[int]]
    ) -> dict[str, str]:
        """Train every client once, and the server's models; return the clients whose reports are refused, and why."""
        seed, limit = self.config.seed, self.plan.section.deadline_seconds
        tasks = [
            Task(
                name,
                FederatedPurpose.CLIENT,
                self.plan.settings(i),
                seeding.derive(seed, "client", name),
                self.plan.resources(i, name),
                TrainClient(name),
                limit_seconds=limit,
            )
            for i, name in enumerate(names)
        ]
        self._complete(tasks, planner, len(names))
        refused = self._refused(conclusion.clients_in_order(self.ledger, names), counts, planner.classes)
        finished = conclusion.clients_in_order(self.ledger, [name for name in names if name not in refused])
        needed = int(np.ceil(self.plan.section.quorum * len(names)))
        if len(finished) < needed:
            failed = {f.task.id: f.failure.message for f in self.ledger.failed(FederatedPurpose.CLIENT)}
            reasons = "; ".join([f"{client}: {why}" for client, why in {**failed, **refused}.items()][:5])
            raise RunError(
                f"{len(finished)} of {len(names)} clients finished, and the quorum (federated.quorum) is {needed}: "
                f"{reasons}"
            )
        shape = loaded.dataset.inputs["test"].shape[1:]
        self._complete(self._made(finished, planner, shape, len(names)), planner, 0)
        return refused

    def _refused(
        self, finished: Sequence[Finished], counts: Mapping[str, Sequence[int]], classes: int
    ) -> dict[str, str]:
        """Return client -> the reason why its report cannot be used."""
        known = {name: KnownClient(sum(own), own) for name, own in counts.items()}
        reports = {entry.task.work.client: entry.report.metrics for entry in finished}
        faults = {
            name: find_report_fault(found, known.get(name, KnownClient()), classes) for name, found in reports.items()
        }
        refused = {name: why for name, why in faults.items() if why}
        unknown = {name: int(found["rows"]) for name, found in reports.items() if name not in {*refused, *known}}
        return refused | find_giants(unknown)

    def _made(self, finished: Sequence[Finished], planner: Planner, shape: tuple[int, ...], clients: int) -> list[Task]:
        """Return the server's tasks: merging the clients, and training the students; they are independent."""
        seed = self.config.seed
        tasks = []
        if self.plan.merger is not None:
            weights_P = conclusion.merge_clients(self.plan, self.store, finished, shape, planner.classes, clients)
            tasks.append(conclusion.make_global_task(self.plan, weights_P))
        distillers = {} if self.plan.distiller is None else {"student": registry.resolve_options(self.plan.distiller)}
        uniform = 1 / len(finished)
        teachers = tuple(teacher for entry in finished for teacher in entry.teachers(uniform))
        counts_MC = [read_histogram(e.report.metrics, planner.classes) for e in finished]
        given = {"counts": self.plan.runner.hold(np.array(counts_MC, dtype=np.int64))}
        for name, spec in {**distillers, **self.plan.baselines}.items():
            settings = {**self.plan.settings(0), "family": "student"}
            resources = occupied_resources(self.plan.runner, settings)
            own = seeding.derive(seed, "finish", name)
            purpose = FederatedPurpose.STUDENT if name == conclusion.STUDENT else FederatedPurpose.BASELINE
            tasks.append(Task(name, purpose, settings, own, resources, DistilBlind(spec, teachers), given=given))
        return tasks

    def _complete(self, tasks: Sequence[Task], planner: Planner, total: int) -> None:
        left = [task for task in tasks if not self.ledger.done(task.id)]

        def show(text: str, told: Finished | Failure | None = None) -> None:
            phase, finished = "clients" if total else "finish", len(self.ledger.finished(FederatedPurpose.CLIENT))
            running, failed = self.ledger.running(), len(self.ledger.failed(FederatedPurpose.CLIENT))
            counted = "clients" if total else ""
            self.watch(ProgressEvent(phase, text, counted, total, finished, failed, running, outcome=told))

        for task, told in self.session.complete(([pack] for pack in pack_tasks(left, planner)), lambda task: show("")):
            show(format_outcome(task, told, self.plan.metric), told)

    # Rounds ----------------------------------------------------------------------------------------------------------

    def _rounds(
        self, names: Sequence[str], partition: Partition | None, loaded: LoadedData, planner: Planner, network: _Network
    ) -> Mapping[int, RoundLog]:
        rows = dict.fromkeys(names, 1) if partition is None else {n: len(r) for n, r in partition.rows.items()}
        judged = bool(len(loaded.dataset.labels["search"]))
        advised = planner.size(self.plan.settings(0), len(names))
        proxy = network.gradient if registry.has_capability(self.plan.merger, NeedsProxy) else None
        counts, classes = self._counts(partition, loaded), len(loaded.dataset.classes)
        start = network.member
        rounds = Rounds(self.plan, self.store, rows, counts, classes, start, proxy, judged, self._told, advised)
        for log in rounds.logs.values():
            self._track(log)
        self._show("", len(rounds.logs))
        weights_P = rounds.run()
        self._complete([conclusion.make_global_task(self.plan, weights_P, self.session.went_on)], planner, 0)
        return rounds.logs

    def _counts(self, partition: Partition | None, loaded: LoadedData) -> dict[str, list[int]]:
        """Return client -> its number of rows of each class; empty where clients have rows of their own."""
        if partition is None:
            return {}
        counts_KC = partition.histograms(loaded.dataset.labels["train"], len(loaded.dataset.classes))
        return dict(zip(partition.rows, counts_KC.tolist(), strict=True))

    def _told(self, log: RoundLog) -> None:
        self._track(log)
        number = f"round {log.round + 1} of {self.plan.section.rounds}"
        if log.metrics:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in log.metrics.items())
            self._show(f"{number}: {shown} on the server's rows", log.round + 1)
            return
        missing = {**log.failed, **log.refused}
        loss = "" if log.loss is None else f", loss {log.loss:.4f}"
        text = f"{number}: {len(log.shares)} of {len(log.asked)} clients{loss}, {log.seconds:.2f} s"
        if missing:
            text += "; without " + "; ".join(f"{client}: {why}" for client, why in missing.items())
        self._show(text, log.round + 1)

    def _show(self, text: str, done: int) -> None:
        self.watch(ProgressEvent("rounds", text, "rounds", self.plan.section.rounds, done, numbered=True))

    def _track(self, log: RoundLog) -> None:
        numbers = {"clients": float(len(log.shares)), "refused": len(log.refused), "failed": len(log.failed)}
        numbers |= {} if log.loss is None else {"loss": log.loss}
        numbers |= {f"global_{name}": value for name, value in log.metrics.items()}
        numbers |= {f"refined_{name}": value for name, value in log.refined.items()}
        self.plan.tracker.progress(log.round + 1, numbers)


class _Network:
    """The server's own network, built at its first use, as that imports torch."""

    def __init__(self, plan: FederatedPlan, loaded: LoadedData) -> None:
        self._plan, self._dataset = plan, loaded.dataset

    @cached_property
    def _built(self) -> Any:
        return self._plan.network(self._dataset.inputs["test"].shape[1:], len(self._dataset.classes))

    def member(self) -> Any:
        """Return the server's own network, as a member."""
        return self._built

    def gradient(self, weights_P: Floats) -> tuple[float, Floats]:
        """Return the loss of weights on the server's *search* rows, and its gradient_P."""
        self._built.become(weights_P)
        return self._built.gradient(self._dataset.examples("search"))
