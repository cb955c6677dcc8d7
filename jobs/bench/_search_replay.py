"""Replays of searches on a cached table: a search proposes settings of the table, whose results are looked up.

    picks ──► search.propose(history, space among the table's settings) ──► simulated clock ──► history ──► …

The first `initial` settings are one random order of the table's settings per repetition, the same for all methods. With
several members in flight each result arrives when its cached training time has passed. All randomness is derived from
the table's name, the repetition and the number of the proposal, so a replay is the same on every machine.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from _search_tables import Table
from _search_watch import watched

from distens import registry, seeding
from distens.diversity.pairwise import diversity
from distens.lifecycle.work.train import Train
from distens.probabilities import class_metrics, mix
from distens.records import Failed, Failure, FileAddresses, Finished, Floats, History, Report, Task, settings_key
from distens.select.greedy import Greedy

PROBES = (20, 40, 60, 80)
"""Numbers of finished members at which the pick without the diversity weight is computed too."""

OTHERS = "@others"
"""In a method's spec: stands for the cached files of all other tables (leave one table out)."""

PAPER_GREEDY = {"kind": "greedy", "size": 25, "cut": False, "bags": 1}
_POOL = Greedy(size=25, cut=False, bags=1)


@dataclass(frozen=True)
class Plan:
    """The rules by which every method of a comparison is replayed.

    Attributes:
        metric: the metric to minimise, `error` or `nll`.
        evaluations: the number of settings that are tried.
        initial: how many of these are the same random settings for all methods.
        in_flight: the number of members in training at a time.
    """

    metric: str = "error"
    evaluations: int = 100
    initial: int = 5
    in_flight: int = 1


@dataclass
class Trace:
    """The trace of one replay. Settings are given by their index in the table.

    Attributes:
        asked: settings in order of proposal.
        arrived: settings in order of arrival.
        pool_diversity: each proposal's least diversity to the members that greedy selection took from the finished
            ones; None while there were none, and for settings that failed.
        least_diversity: each proposal's least diversity to all members finished or in training.
        propose_cpu: CPU seconds of each proposal that the search made.
        simulated_seconds: the time at which the last result arrived, counting only training.
        members_seconds: the sum of the training times.
        surrogates: smallest and mean spread of the predictions of the search's surrogates (see `watched`).
        changed: the number of probed picks that the diversity weight changed, and the number of probed picks.
    """

    asked: list[int] = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)
    pool_diversity: list[float | None] = field(default_factory=list)
    least_diversity: list[float | None] = field(default_factory=list)
    propose_cpu: list[float] = field(default_factory=list)
    simulated_seconds: float = 0.0
    members_seconds: float = 0.0
    surrogates: dict[str, dict[str, float]] = field(default_factory=dict)
    changed: list[int] = field(default_factory=lambda: [0, 0])


def filled(spec: Any, others: Sequence[str]) -> Any:
    """Return a spec with OTHERS replaced."""
    if spec == OTHERS:
        return list(others)
    if isinstance(spec, Mapping):
        return {key: filled(value, others) for key, value in spec.items()}
    return [filled(value, others) for value in spec] if isinstance(spec, list) else spec


class Replay:
    """One table and one repetition, with all that its methods share."""

    def __init__(self, table: Table, repetition: int, plan: Plan, div_KK: Floats | None = None) -> None:
        self.table, self.plan = table, plan
        self.root = seeding.derive(0, table.name, repetition)
        order = seeding.generator(self.root, "initial").permutation(len(table.settings))
        self.order: list[int] = order.tolist()
        self.places = {settings_key(settings): k for k, settings in enumerate(table.settings)}
        self.div_KK = diversities(table) if div_KK is None else div_KK

    def run(self, spec: Any) -> Trace:
        """Return the trace of a search on this table."""
        search = registry.make_plugin("search", spec, "search")
        trace, history = Trace(), _Past(self)
        clock, under_way = 0.0, []
        with watched() as seen:
            while len(trace.arrived) < min(self.plan.evaluations, len(self.order)):
                while len(under_way) < self.plan.in_flight and len(trace.asked) < self.plan.evaluations:
                    if len(trace.asked) == len(self.order):
                        break
                    k = self._ask(search, history, trace)
                    heapq.heappush(under_way, (clock + self.table.seconds_K[k], len(trace.asked), k))
                    trace.asked.append(k)
                    history.ask(k)
                clock, _, k = heapq.heappop(under_way)
                trace.arrived.append(k)
                history.tell(k)
        trace.simulated_seconds = float(clock)
        trace.members_seconds = float(self.table.seconds_K[trace.asked].sum())
        trace.surrogates = seen.figures()
        return trace

    def _ask(self, search: Any, history: _Past, trace: Trace) -> int:
        number = len(trace.asked)
        if len(history.finished) + len(history.pending) < self.plan.initial:
            k = next(k for k in self.order if k not in history.known)
        else:
            now = history.now()
            before = time.process_time()
            k = self._proposal(search, now, number)
            trace.propose_cpu.append(time.process_time() - before)
            if len(history.finished) in PROBES and getattr(search, "beta", 0):
                with watched():  # predictions of this probe are not those of the search
                    plain = self._proposal(replace(search, beta=0.0), now, number)
                trace.changed = [trace.changed[0] + (plain != k), trace.changed[1] + 1]
        assert k not in history.known, f"{self.table.name}: settings were proposed twice"
        self._note_diversity(k, history, trace)
        return k

    def _proposal(self, search: Any, history: History, number: int) -> int:
        rng = seeding.generator(self.root, "search", number)
        (settings,) = search.propose(history, self.table.space, 1, rng)
        return self.places[settings_key(settings)]

    def _note_diversity(self, k: int, history: _Past, trace: Trace) -> None:
        failed = self.table.metrics[k] is None
        known = [*history.finished, *(p for p in history.pending if self.table.metrics[p] is not None)]
        for values, others in ((trace.pool_diversity, history.pool()), (trace.least_diversity, known)):
            values.append(None if failed or not others else float(self.div_KK[k, others].min()))


def diversities(table: Table) -> Floats:
    """Return the diversity of every pair of the table's settings on the *search* split; NaN if one of them failed."""
    div_KK = np.full((len(table.settings), len(table.settings)), np.nan)
    done = np.flatnonzero(table.place_K >= 0)
    div_MM = diversity(table.probs_search_MNC)
    div_KK[np.ix_(done, done)] = div_MM[np.ix_(table.place_K[done], table.place_K[done])]
    return div_KK


class _Past:
    """The settings tried so far, as lists that grow; `now` returns the history that a search may know."""

    def __init__(self, replay: Replay) -> None:
        self._table, self._metric = replay.table, replay.plan.metric
        self.finished: list[int] = []
        self.failed: list[int] = []
        self.pending: list[int] = []
        self.known: set[int] = set()
        self._pool: list[int] = []
        self._pool_of = 0

    def ask(self, k: int) -> None:
        self.pending.append(k)
        self.known.add(k)

    def tell(self, k: int) -> None:
        self.pending.remove(k)
        (self.failed if self._table.metrics[k] is None else self.finished).append(k)

    def now(self) -> History:
        return History(
            finished=tuple(Finished(self._task(k), self._report(k)) for k in self.finished),
            failed=tuple(Failed(self._task(k), self._failure(k)) for k in self.failed),
            pending=tuple(map(self._task, self.pending)),
            metric=self._metric,
            targets_N=self._table.labels_search_N,
            predictions=lambda task_id: self._table.search_probs(int(task_id[1:])),
        )

    def pool(self) -> list[int]:
        """Return the members that greedy selection would use; it is repeated once 5% more members have finished."""
        if len(self.finished) >= 1.05 * self._pool_of:
            self._pool_of = len(self.finished)
            self._pool = [k for k, w in zip(self.finished, self._weights(), strict=True) if w]
        return self._pool

    def _weights(self) -> Sequence[float]:
        if not self.finished:
            return []
        probs = [self._table.search_probs(k) for k in self.finished]
        return _POOL.select(probs, self._table.labels_search_N, self._metric).tolist()

    def _task(self, k: int) -> Task:
        return Task(f"m{k:04d}", "search", self._table.settings[k], k, work=Train())

    def _report(self, k: int) -> Report:
        values = self._table.metrics[k]
        assert values is not None
        parameters = int(values.get("parameters", 0))
        return Report(
            f"m{k:04d}", 1, values, float(self._table.seconds_K[k]), parameters, 0.0, "cache", FileAddresses({})
        )

    def _failure(self, k: int) -> Failure:
        reason: Any = self._table.reasons[k]
        return Failure(f"m{k:04d}", 1, reason, "as it did when it was cached", float(self._table.seconds_K[k]), "cache")


def selected(table: Table, arrived: Sequence[int], spec: Any, metric: str, budgets: Sequence[int]) -> dict[str, Any]:
    """Return search and test metrics of a selector's ensemble of the members of a trace, at the end and at budgets.

    Args:
        arrived: settings in order of arrival; those that failed are skipped.
        budgets: numbers of evaluations after which members are selected as well; the end is always added.
    """
    selector = registry.make_plugin("select", spec, "select")
    row: dict[str, Any] = {}
    before = time.process_time()
    for budget in sorted({*(b for b in budgets if b < len(arrived)), len(arrived)}):
        done = [k for k in arrived[:budget] if table.metrics[k] is not None]
        probs_search = [table.search_probs(k) for k in done]
        weights_M = np.asarray(selector.select(probs_search, table.labels_search_N, metric))
        search = class_metrics(mix(probs_search, weights_M), table.labels_search_N)
        test = class_metrics(mix([table.test_probs(k) for k in done], weights_M), table.labels_test_N)
        row[str(budget)] = {
            "search_error": search["error"],
            "search_nll": search["nll"],
            "test_error": test["error"],
            "test_nll": test["nll"],
            "members": int(np.count_nonzero(weights_M)),
        }
    return {"spec": spec, "at": row, "cpu_seconds": time.process_time() - before}
