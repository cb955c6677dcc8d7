"""One run of the ensemble role: members are searched for, then the ensemble, a student and baselines are made of them.

    schedule: promote, or start ─► search: propose ─► journal ─► dispatch ─► runner ─► members
        ▲       (or wait, or end)                                 as many packs at once as fit │
        └── history ◄── journal ◄── reports, failures ◄────────────────────────────────────────┘
                            │
                         conclude: select ─► student, baselines ─► combine ─► calibrate ─► outcome

Decisions and proposals depend on history and on the number of members before, not on time (except `search.seconds`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from distens.errors import RunError
from distens.lifecycle.progress import Progress, ProgressEvent, format_outcome
from distens.lifecycle.results import Outcome
from distens.lifecycle.session import Session
from distens.metrics.protocol import shown_name, shown_value
from distens.records import Failure, Finished, Pack, Task
from distens.roles.ensemble.conclusion import combine_and_compare
from distens.roles.ensemble.overview import never_tried
from distens.roles.ensemble.plan import EnsemblePlan
from distens.roles.ensemble.proposals import Proposals
from distens.roles.ensemble.purpose import EnsemblePurpose
from distens.runtime.protocol import RunContext


class EnsembleRun:
    """One run of the ensemble role, on the driver: records and counts, no models and no predictions.

    Args:
        plan: what to do.
        session: the run's session.
    """

    def __init__(self, plan: EnsemblePlan, session: Session) -> None:
        self.plan, self.config, self.session = plan, plan.config, session
        self.store, self.watch, self.ledger = session.store, session.watch, session.ledger
        self.progress = Progress(plan.selector, plan.metric, plan.members or 0)
        self._search_began: float | None = None
        self.proposals: Proposals

    def outcome(self) -> Outcome:
        """Do all that is left to do, and return the outcome."""
        self.session.prepare(self._count_remaining_members())
        loaded = self.session.open()
        for name, why in self.plan.left_out.items():
            self.watch(ProgressEvent("data", f"baselines: {name} is left out: {why}"))
        data, say = loaded.dataset, lambda text: self.watch(ProgressEvent("search", text))
        planner = self.session.planner(loaded)
        self.proposals = Proposals(
            self.plan, self.store, self.ledger, planner, data.targets["search"], data.measured, say
        )
        self.session.start(RunContext(self.store, loaded.dataset.for_members()), self.plan.also)
        self._search()
        went_on = self.session.went_on
        curve = self.progress.curve
        return combine_and_compare(self.plan, self.store, self.ledger, loaded, self._complete_all, went_on, curve)

    def _count_remaining_members(self) -> int | None:
        """Return the least number of members that the search has left to train; None where only time sets a limit."""
        pending = len(self.ledger.pending(EnsemblePurpose.SEARCH))
        if self.ledger.ended is not None:
            return pending
        if self.plan.members is None:
            return None
        return self.plan.members - self.ledger.count(EnsemblePurpose.SEARCH) + pending

    def _search(self) -> None:
        for step, values in self.progress.replay(self.ledger.concluded(EnsemblePurpose.SEARCH), self.proposals.history):
            self.plan.tracker.progress(step, values)  # a tracker that was away may lack it
        self._search_began = time.monotonic() - self.ledger.elapsed
        for task, outcome in self._complete(self.proposals.search()):
            step = self.progress.add(task, outcome, self.proposals.history)
            if step is not None:
                self.plan.tracker.progress(step, self.progress.values())
            self._show(format_outcome(task, outcome, shown_name(self.plan.metric)), outcome)
        self._search_began = None
        if untried := never_tried(self.plan, self.ledger):
            self._show(f"families never tried: {', '.join(untried)}")
        failed = self.ledger.failed(EnsemblePurpose.SEARCH)
        if not self.ledger.finished(EnsemblePurpose.SEARCH):
            reasons = "\n".join(f"  {f.task.id}: {f.failure.reason}: {f.failure.message}" for f in failed[:5])
            raise RunError(f"every member failed ({len(failed)} of {len(failed)}):\n{reasons}")

    def _elapsed(self) -> float | None:
        """Return the seconds that the search has run, over all resumes; None where they limit nothing."""
        if self.config.search.seconds is None or self._search_began is None:
            return None
        return time.monotonic() - self._search_began

    def _show(self, text: str, outcome: Finished | Failure | None = None) -> None:
        self.watch(
            ProgressEvent(
                phase="search",
                text=text,
                counted="members",
                total=self.progress.total,
                finished=self.progress.finished,
                failed=self.progress.failed,
                running=self.ledger.running(),
                metric=shown_name(self.plan.metric),
                best=self._shown(self.progress.best),
                ensemble=self._shown(self.progress.ensemble),
                outcome=outcome,
            )
        )

    def _shown(self, loss: float | None) -> float | None:
        return None if loss is None else shown_value(self.plan.metric, loss)

    def _complete_all(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Finished | Failure]]:
        for task, told in self._complete(self.proposals.packs(tasks)):
            self.watch(ProgressEvent("finish", format_outcome(task, told, shown_name(self.plan.metric)), outcome=told))
            yield task, told

    def _complete(self, packs: Iterator[Sequence[Pack]]) -> Iterator[tuple[Task, Finished | Failure]]:
        def asked(task: Task) -> None:
            if task.purpose == EnsemblePurpose.SEARCH:
                self._show("")

        yield from self.session.complete(packs, asked, self._elapsed)
