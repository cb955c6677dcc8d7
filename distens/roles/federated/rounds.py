"""Rounds: the server sends its weights, clients train, unusable updates are refused, and the others are merged.

    round t:  draw clients ─► packs ─► runner ─► updates ─► accepted? ─► quorum? ─► merge ─► (refine) ─► journal
                                          └── with them, the weights of round t - 1 are judged on the server's rows

A round is journalled when it is merged, with the weights that it ended with, while the clients of the next round train.
The training of clients in a round that was not journalled is done again, from the same weights and the same seeds, so a
run that is resumed ends with the same weights. Updates travel in memory, not through storage.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from distens import registry, seeding
from distens.errors import RunError
from distens.members.protocol import NormalisesBatches
from distens.merge._weights import average_statistics
from distens.merge.protocol import ClientUpdate, Corrects, Merged, NeedsProxy, Round
from distens.records import WAIT, Answer, Failure, Floats, ObjectHandle, Pack, Resources, Task
from distens.roles.federated.answers import Refinement, ServerScore
from distens.roles.federated.journal import RoundLog, RoundsJournal, ServerState
from distens.roles.federated.plan import FederatedPlan
from distens.roles.federated.purpose import FederatedPurpose
from distens.roles.federated.validation import KnownClient, find_fault, find_giants
from distens.roles.federated.work.client_round import ClientRound
from distens.roles.federated.work.judge import Judge
from distens.roles.federated.work.refine import Refine
from distens.runtime.protocol import Runner
from distens.storage.store import Store

_logger = logging.getLogger("distens")

PACKS_PER_SLOT = 4
"""The number of packs per slot where clients gain nothing from being trained together: all slots end together."""

MAX_CLIENTS_NAMED = 5


class Rounds:
    """All rounds of a run, on the driver.

    Args:
        plan: what to do.
        store: the run's folder, where rounds are journalled.
        rows: client -> its number of rows, or 1 where that is not known; in the clients' order.
        counts: client -> its number of rows of each class; empty where that is not known.
        classes: the number of classes.
        start: returns a member with the first weights.
        proxy: for rules that use the server's rows (see `distens.merge.protocol.Round.proxy`); else None.
        judged: True if the server has rows to judge weights on.
        told: called with the log of every round that was merged, and again when the round's weights were judged.
        advised: the number of such clients that are best trained together.

    Attributes:
        logs: round -> its log.
    """

    def __init__(
        self,
        plan: FederatedPlan,
        store: Store,
        rows: Mapping[str, int],
        counts: Mapping[str, Sequence[int]],
        classes: int,
        start: Callable[[], Any],
        proxy: Callable[[Floats], tuple[float, Floats]] | None,
        judged: bool,
        told: Callable[[RoundLog], None],
        advised: int,
    ) -> None:
        self._plan, self._rows, self._classes = plan, rows, classes
        self._names = list(rows)
        self._resources = {client: plan.resources(i, client) for i, client in enumerate(rows)}
        self._proxy, self._judged, self._told, self._advised = proxy, judged, told, advised
        self._runner: Runner = plan.runner
        self._settings = plan.settings(0)
        self._pattern = registry.build_member(self._settings)
        self._journal = RoundsJournal(store)
        network = start()
        self._server = self._journal.restored() or ServerState(0, network.weights())
        normalises = registry.has_capability(network, NormalisesBatches)
        self._statistics = network.statistics() if normalises else 0
        self._own_places = network.own_places() if normalises else np.arange(0)
        self.logs: Mapping[int, RoundLog] = self._journal.logs
        self._counts = counts
        self._known = {name: KnownClient(rows[name], counts[name]) for name in counts}
        for log in self.logs.values():
            self._known |= {client: KnownClient(count) for client, count in log.rows.items()}
        self._log = RoundLog(0, [])
        self._updates: dict[str, ClientUpdate] = {}
        self._waiting: set[str] = set()
        self._sent: dict[str, Task] = {}

    def run(self) -> Floats:
        """Do all rounds that are left; return the last weights.

        Raises:
            RunError: fewer updates than the quorum, or than the rule needs, came in a round; or the weights of a round
                could not be judged or refined.
            StorageError: a round cannot be written.
        """
        try:
            for outcomes in self._runner.run(self._noted(self._packs())):
                for outcome in outcomes:
                    self._take(outcome)
        finally:
            self._journal.settle()
        return self._server.weights_P

    # Dispatch --------------------------------------------------------------------------------------------------------

    def _noted(self, packs: Iterator[Pack]) -> Iterator[Pack]:
        """Yield packs, and keep their tasks until the next round is over."""
        for pack in packs:
            self._sent |= {task.id: task for task in pack}
            yield pack

    def _packs(self) -> Iterator[Pack]:
        while self._server.rounds < self._plan.section.rounds:
            start = self._runner.hold(self._server.weights_P)
            began = time.monotonic()
            self._log = RoundLog(self._server.rounds, self._cohort(self._server.rounds))
            self._updates, self._waiting = {}, set(self._log.asked)
            self._sent = {name: task for name, task in self._sent.items() if task.work.round == self._log.round - 1}
            for pack in self._divided(self._log.asked):
                left = self._remaining_seconds(began)
                if left is not None and left <= 0:
                    self._late(pack)
                else:
                    yield [self._task(client, start, left) for client in pack]
            yield from self._judgement(start)
            while self._waiting:
                yield WAIT
            self._journal.settle()
            updates = self._merge()
            yield from self._refinement(updates)
            self._log.seconds = time.monotonic() - began
            self._journal.keep(self._log, self._server)
            self._told(self._log)
        yield from self._judgement(None)

    def _cohort(self, number: int) -> list[str]:
        count = self._plan.section.per_round
        if count is None or count >= len(self._names):
            return list(self._names)
        rng = seeding.generator(self._plan.config.seed, "cohort", number)
        return [self._names[place] for place in sorted(rng.choice(len(self._names), count, replace=False))]

    def _divided(self, clients: Sequence[str]) -> list[list[str]]:
        """Divide clients into packs, each of clients that occupy the same resources."""
        groups: dict[Resources, list[str]] = {}
        for client in clients:
            groups.setdefault(self._resources[client], []).append(client)
        return [pack for group in groups.values() for pack in self._shared_out(group)]

    def _shared_out(self, clients: Sequence[str]) -> list[list[str]]:
        """Divide clients into packs of about equal work: who has the most rows goes to the pack with the fewest."""
        slots, pack = self._runner.slots(), self._runner.pack
        if self._plan.partitioner is None:
            count = len(clients)  # one each: rows of clients with data of their own never share a pack
        elif pack != "auto":
            count = math.ceil(len(clients) / pack)
        else:
            count = slots if self._advised > 1 else slots * PACKS_PER_SLOT
        packs: list[list[str]] = [[] for _ in range(min(count, len(clients)))]
        work = [0] * len(packs)
        for client in sorted(clients, key=lambda name: -self._rows[name]):
            least = min(range(len(packs)), key=lambda i: (work[i], len(packs[i])))
            packs[least].append(client)
            work[least] += self._rows[client]
        return packs

    def _task(self, client: str, start: ObjectHandle, limit_seconds: float | None) -> Task:
        number, server = self._server.rounds, self._server
        seed = seeding.derive(self._plan.config.seed, "client", client, "round", number)
        given = {"start": start}
        merger = self._plan.merger
        if registry.has_capability(merger, Corrects):
            given["correction"] = self._runner.hold(merger.correct(client, server.memory, server.weights_P))
        if client in server.own:
            given["own"] = self._runner.hold(server.own[client])
        return Task(
            f"r{number:04d}-{client}",
            FederatedPurpose.ROUND,
            self._settings,
            seed,
            self._resources[client],
            ClientRound(client, number),
            given=given,
            limit_seconds=limit_seconds,
        )

    def _judgement(self, start: ObjectHandle | None) -> Iterator[Pack]:
        """Yield the task that judges the current weights, unless there is nothing to judge or it is done already."""
        number = self._server.rounds - 1
        if self._judged and number >= 0 and not self.logs[number].metrics:
            given = {"start": start or self._runner.hold(self._server.weights_P)}
            yield [
                Task(
                    f"{FederatedPurpose.EVALUATE}-{number:04d}",
                    FederatedPurpose.EVALUATE,
                    self._settings,
                    0,
                    self._runner.usual,
                    Judge(number),
                    given=given,
                )
            ]

    def _refinement(self, updates: Sequence[ClientUpdate]) -> Iterator[Pack]:
        """Yield the task that refines the merged weights, if the run has a distiller; return when it is done."""
        if self._plan.distiller is None:
            return
        number, hold = self._log.round, self._runner.hold
        given = {
            "start": hold(self._server.weights_P),
            "teachers": hold([update.weights_P for update in updates]),
            "counts": hold(np.array([update.histogram_C for update in updates], dtype=np.int64)),
            "memory": hold(self._server.distiller),
        }
        task = Task(
            f"{FederatedPurpose.REFINE}-{number:04d}",
            FederatedPurpose.REFINE,
            self._settings,
            seeding.derive(self._plan.config.seed, "refine"),
            self._runner.usual,
            Refine(registry.resolve_options(self._plan.distiller), number),
            given=given,
        )
        self._waiting = {FederatedPurpose.REFINE}
        yield [task]
        while self._waiting:
            yield WAIT

    def _remaining_seconds(self, began: float) -> float | None:
        deadline = self._plan.section.deadline_seconds
        return None if deadline is None else deadline - (time.monotonic() - began)

    def _late(self, clients: Sequence[str]) -> None:
        for client in clients:
            self._waiting.discard(client)
            self._log.failed[client] = "the round's deadline came before its turn (federated.deadline_seconds)"

    # Outcomes --------------------------------------------------------------------------------------------------------

    def _take(self, outcome: Answer) -> None:
        if isinstance(outcome, ServerScore):
            self._told(self._journal.judge(outcome.round, dict(outcome.metrics)))
        elif isinstance(outcome, Refinement):
            self._server = replace(self._server, weights_P=outcome.weights_P, distiller=outcome.memory)
            self._log.refined = dict(outcome.metrics)
            self._waiting.discard(FederatedPurpose.REFINE)
        elif isinstance(outcome, ClientUpdate):
            task = self._sent.get(outcome.task_id)
            if task is None or task.purpose != FederatedPurpose.ROUND or task.work.round != self._log.round:
                _logger.warning("an update for %.100r, which is no task of this round, is left out", outcome.task_id)
                return
            self._updates[task.work.client] = outcome  # whoever the update says that it is from
            self._waiting.discard(task.work.client)
        elif isinstance(outcome, Failure):
            self._handle_failure(outcome)

    def _handle_failure(self, failure: Failure) -> None:
        task = self._sent[failure.task_id]
        why = f"{failure.reason}: {failure.message}"
        if task.purpose != FederatedPurpose.ROUND:
            if failure.final:
                what = "judged" if task.purpose == FederatedPurpose.EVALUATE else "refined (distill)"
                raise RunError(f"the weights of round {task.work.round:04d} could not be {what}: {why}")
        elif failure.final:
            self._log.failed[task.work.client] = why
            self._waiting.discard(task.work.client)
        else:
            self._log.retried.append(f"{task.work.client}: {why}")

    def _merge(self) -> list[ClientUpdate]:
        log, server, merger = self._log, self._server, self._plan.merger
        assert merger is not None, "a plan with rounds has one"
        updates, norms = self._accepted()
        needed = math.ceil(self._plan.section.quorum * len(log.asked))
        if len(updates) < needed:
            raise RunError(
                f"round {log.round}: {len(updates)} of {len(log.asked)} clients' updates can be merged, and the quorum "
                f"(federated.quorum) is {needed}. {_named(log)}"
            )
        taken = self._journal.taken
        given = Round(log.round, server.weights_P, updates, len(self._names), server.memory, taken, self._proxy)
        try:
            merged: Merged = merger.merge(given)
        except ValueError as error:
            raise RunError(
                f"round {log.round}: merge {registry.plugin_kind(merger)!r}: {error}. {_named(log)}"
            ) from error
        if not registry.has_capability(merger, NeedsProxy):  # else it measured the mix that it returns
            merged = average_statistics(merged, updates, self._statistics)
        shares = [None] * len(updates) if merged.shares_K is None else [float(share) for share in merged.shares_K]
        log.shares = {update.client: share for update, share in zip(updates, shares, strict=True)}
        log.rows = {update.client: int(update.rows) for update in updates if update.client not in self._counts}
        self._known |= {client: KnownClient(count) for client, count in log.rows.items()}
        losses = [(update.loss, update.rows) for update in updates if update.loss is not None]
        weights = [rows for _, rows in losses]
        log.loss = float(np.average([loss for loss, _ in losses], weights=weights)) if losses else None
        own = {**server.own, **self._own(updates)}
        self._server = replace(
            server,
            rounds=log.round + 1,
            weights_P=self._with_own(merged.weights_P, own),
            memory=merged.memory,
            norms=norms,
            own=own,
        )
        self._updates = {}
        return updates

    def _distance(self, one_P: Floats, other_P: Floats) -> float:
        """Return the norm of the difference of weights; infinite if that, or a running statistic, is not finite."""
        learned = len(one_P) - self._statistics
        whole = bool(np.isfinite(one_P[learned:]).all())
        return _distance(one_P[:learned], other_P[:learned]) if whole else math.inf

    def _own(self, updates: Sequence[ClientUpdate]) -> dict[str, Floats]:
        """Return client -> what stays with it of an update."""
        if not len(self._own_places):
            return {}
        return {update.client: update.weights_P[self._own_places] for update in updates}

    def _with_own(self, weights_P: Floats, own: Mapping[str, Floats]) -> Floats:
        """Return weights whose part that stays with clients is the mean, by rows, of what all clients had last."""
        if not own:
            return weights_P
        rows_K = np.array([self._known[client].rows for client in own], dtype=np.float64)
        weights_P = weights_P.copy()
        weights_P[self._own_places] = rows_K / rows_K.sum() @ np.stack(list(own.values())).astype(np.float64)
        return weights_P

    def _accepted(self) -> tuple[list[ClientUpdate], list[float]]:
        """Return the updates that can be merged, in order of clients' names, and their norms; log the refused ones."""
        start_P, found = self._server.weights_P, []
        for client, update in sorted(self._updates.items()):
            known = self._known.get(client, KnownClient())
            why = find_fault(update, client, known, start_P, self._classes, self._pattern, self._log.round)
            if why:
                self._log.refused[client] = why
            elif not np.isfinite(norm := self._distance(update.weights_P, start_P)):
                self._log.refused[client] = "numbers that are not finite"
            else:
                found.append((update, norm))
        giants = find_giants({update.client: update.rows for update, _ in found if update.client not in self._known})
        self._log.refused |= giants
        found = [(update, norm) for update, norm in found if update.client not in giants]
        norms = [*(norm for _, norm in found), *self._server.norms]
        usual = median(norms) if len(norms) > 2 else math.inf
        most = self._plan.section.most_norm * usual if usual > 0 else math.inf
        for update, norm in found:
            if norm > most:
                self._log.refused[update.client] = (
                    f"its norm {norm:.3g} is more than {self._plan.section.most_norm:g} times the median {usual:.3g} "
                    "(federated.most_norm)"
                )
        return [update for update, norm in found if norm <= most], [norm for _, norm in found if norm <= most]


def _distance(one_P: Floats, other_P: Floats) -> float:
    """Return the norm of the difference of two arrays of weights, with little memory; infinite if it is not finite."""
    step, total = 1 << 20, 0.0
    for first in range(0, len(one_P), step):
        part = one_P[first : first + step] - other_P[first : first + step]
        total += float(np.dot(part, part))
    return math.sqrt(total) if math.isfinite(total) else math.inf


def _named(log: RoundLog) -> str:
    parts = [f"{len(named)} {what}" for what, named in (("failed", log.failed), ("were refused", log.refused)) if named]
    reasons = [f"{client}: {why}" for named in (log.failed, log.refused) for client, why in named.items()]
    more = f"; and {len(reasons) - MAX_CLIENTS_NAMED} more" if len(reasons) > MAX_CLIENTS_NAMED else ""
    return f"{', '.join(parts)}: {'; '.join(reasons[:MAX_CLIENTS_NAMED])}{more}" if reasons else ""
