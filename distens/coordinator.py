"""One run, from a config to a bundle.

    plan ─► data ─► schedule: promote, or start ─► search: propose ─► journal ─► dispatch ─► runner ─► members
                      ▲       (or wait, or end)                                    as many packs at once as fit │
                      └── history ◄── journal ◄── reports, failures ◄───────────────────────────────────────────┘
                                          │
                                       finish: select ─► student, baselines ─► combine ─► test ─► bundle ─► tracker

Every task is journalled before it is dispatched, and its outcome before it is acted on. So the driver may die at any
moment: `resume` reads the journal, hands out again what was pending (with the next attempt number, the same settings
and the same seed), and goes on deciding from there. Decisions and proposals depend on history and on how many members
came before, not on time (but for `search.seconds`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from distens.config.config import Config, parse_yaml
from distens.data.load import Loaded
from distens.errors import ConfigError, RunError, StorageError, StorageFailed, damage, shown
from distens.lifecycle import resuming
from distens.lifecycle.progress import Progress, Update, Watch, line
from distens.lifecycle.results import Outcome, Result
from distens.lifecycle.session import Session, silent
from distens.records import Failure, Finished, Pack, Task
from distens.roles.ensemble import conclude as finish
from distens.roles.ensemble.plan import Plan, check
from distens.roles.ensemble.proposals import Proposals
from distens.roles.federated import plan as federated
from distens.roles.federated.plan import FederatedPlan
from distens.runtime.protocol import Shared
from distens.storage.store import Store


def checked(config: Config) -> Plan | FederatedPlan:
    """Return the plan of one run, or raise ConfigError: what a config says that cannot be done."""
    if config.sweep is not None:
        raise ConfigError("sweep: has no effect on one run; `distens sweep` does them all. Leave it out")
    return federated.check(config) if config.role == "federated" else check(config)


def run(config: Config, watch: Watch | None = None, overwrite: bool = False, go_on: bool = False) -> Result:
    """Train, search, combine, evaluate and store one run.

    Args:
        config: what to do.
        watch: is told of every outcome.
        overwrite: delete a run of the same config first.
        go_on: go on with a run of the same config, if there is one.

    Raises:
        DistensError: nothing can be done as asked; the message says what and where.
    """
    assert not (overwrite and go_on), "either"
    plan = checked(config)
    store = open_storage(plan.config)
    if store.exists("run.json"):
        if not overwrite and store.names("journal"):  # else it failed before anything was trained
            if go_on:
                return _go(plan, store, watch or silent, store.read_json("run.json"))
            done = store.exists("results.json")
            hint = f"`distens report {store.url}` shows it" if done else f"`distens resume {store.url}` goes on with it"
            state = "has finished" if done else "was not finished"
            raise RunError(
                f"{store.url}: this run {state}; {hint}. `--overwrite` starts afresh, another `seed` beside it"
            )
        store.delete()
    return _go(plan, store, watch or silent, None)


def resume(path: str, watch: Watch | None = None, overrides: Sequence[str] = ()) -> Result:
    """Go on with a run that was interrupted, from its folder; what finished is not done again.

    Args:
        path: the run's folder.
        watch: is told of every outcome.
        overrides: `key.key=value`, for `runtime`, `tracking` and `federated.resources`, and to raise `schedule.maximum`
            (of a finished run too); anything else would be another run.

    Raises:
        ConfigError: the config was changed, in the folder or by `overrides`.
        RunError, StorageError: there is no run to resume.
    """
    store = Store(path)
    if not store.exists("run.json"):
        raise RunError(f"{path}: no run here (run.json is missing)")
    with damage(f"{store.url}/config.yaml"):
        text = store.read("config.yaml").decode()
    config = parse_yaml(text, f"{path}/config.yaml", overrides)
    with damage(f"{store.url}/run.json"):
        info = store.read_json("run.json")
        for key, kind in (("run", str), ("fingerprint", str), ("identity", dict), ("versions", dict)):
            if not isinstance(info[key], kind):
                raise TypeError(f"its {key} is {shown(info[key])}")
        deeper = resuming.goes_deeper(config, info["identity"], path)
    plan = checked(config)
    if deeper:
        resuming.deepen(plan.config, store, info)
    return _go(plan, store, watch or silent, info)


def _go(plan: Plan | FederatedPlan, store: Store, watch: Watch, info: dict[str, Any] | None) -> Result:
    try:
        if isinstance(plan, FederatedPlan):
            from distens.roles.federated.run import Federation

            return Federation(plan, store, watch, info).go()
        return Run(plan, store, watch, info).go()
    except StorageFailed as error:
        again = f"Nothing that finished is lost: once that is mended, `distens resume {store.url}` goes on"
        raise StorageFailed(f"{error}. {again}") from error


def open_storage(config: Config) -> Store:
    """Return the folder of a config's run, which may not be there yet.

    Raises:
        StorageError: the storage cannot be written.
    """
    probe = f".probe-{uuid.uuid4().hex}"  # of its own: several runs may start in one storage at once
    try:
        storage = Store(config.storage)
        storage.write(probe, b"", durable=False)
        storage.remove(probe)
    except StorageError as error:
        raise StorageError(f"storage: cannot be written: {error}") from error
    return Store(f"{config.storage.rstrip('/')}/{config.run_name()}")


class Run:
    """The driver's memory of one run of the ensemble role: records and counts, no models and no predictions.

    Args:
        plan, store, watch, info, loaded: see `Session`.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        watch: Watch,
        info: dict[str, Any] | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        self.plan, self.config, self.store, self.watch = plan, plan.config, store, watch
        self.session = Session(plan, store, watch, info, loaded)
        self.ledger = self.session.ledger
        self.progress = Progress(plan.selector, self.config.metric, plan.members or 0)
        self._search_began: float | None = None
        self.proposals: Proposals

    def go(self) -> Result:
        """Do all that is left to do."""
        with self.session.prepared(self._left()):
            return self._go()

    def _left(self) -> int | None:
        """Return how many members of the search are left at least; None where time decides."""
        if self.plan.members is None:
            return None
        return self.plan.members - self.ledger.count("search") + len(self.ledger.pending("search"))

    def _go(self) -> Result:
        loaded = self.session.open()
        labels_N, say = loaded.dataset.labels["search"], lambda text: self.watch(Update("search", text))
        planner = self.session.planner(loaded)
        self.proposals = Proposals(self.plan, self.store, self.ledger, planner, labels_N, say)

        def work() -> Outcome:
            self._search()
            return finish.conclude(self.plan, self.store, self.ledger, loaded, self._complete_all)

        return self.session.carry_out(loaded, Shared(self.store, loaded.dataset.for_members()), work)

    def _search(self) -> None:
        self.progress.replay(self.proposals.history())
        self._search_began = time.monotonic() - self.ledger.elapsed
        for task, outcome in self._complete(self.proposals.search()):
            step = self.progress.add(outcome, self.proposals.history)
            if step is not None:
                self.plan.tracker.progress(step, self.progress.values())
            self._show(line(task, outcome, self.config.metric), outcome)
        self._search_began = None
        failed = self.ledger.failed("search")
        if not self.ledger.finished("search"):
            reasons = "\n".join(f"  {f.task.id}: {f.failure.reason}: {f.failure.message}" for f in failed[:5])
            raise RunError(f"every member failed ({len(failed)} of {len(failed)}):\n{reasons}")

    def _elapsed(self) -> float | None:
        """Return how long the search has run, over all resumes, if it matters."""
        if self.config.search.seconds is None or self._search_began is None:
            return None
        return time.monotonic() - self._search_began

    def _show(self, text: str, outcome: Finished | Failure | None = None) -> None:
        self.watch(
            Update(
                phase="search",
                text=text,
                total=self.progress.total,
                finished=self.progress.finished,
                failed=self.progress.failed,
                running=self.ledger.running(),
                metric=self.config.metric,
                best=self.progress.best,
                ensemble=self.progress.ensemble,
                outcome=outcome,
            )
        )

    def _complete_all(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Finished | Failure]]:
        for task, told in self._complete(self.proposals.packs(tasks)):
            self.watch(Update("finish", line(task, told, self.config.metric), outcome=told))
            yield task, told

    def _complete(self, packs: Iterator[Sequence[Pack]]) -> Iterator[tuple[Task, Finished | Failure]]:
        def asked(task: Task) -> None:
            if task.purpose == "search":
                self._show("")

        yield from self.session.complete(packs, asked, self._elapsed)
