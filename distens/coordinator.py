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

import importlib.metadata
import platform
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from threadpoolctl import threadpool_limits

from distens import __version__, finish, resuming
from distens.config import Config, parse_yaml, to_yaml
from distens.data.load import Loaded, load
from distens.errors import ConfigError, RunError, StorageError
from distens.finish import Result
from distens.ledger import Ledger
from distens.packing import Planner
from distens.plan import Plan, check
from distens.progress import Progress, Update, Watch, line
from distens.proposals import Proposals
from distens.records import Failure, Finished, State, Task
from distens.runtime.protocol import Shared
from distens.store import Store
from distens.tracking.protocol import RunInfo

VERSIONED = ("distens", "ray", "torch", "lightning", "scikit-learn", "lightgbm", "mlflow", "numpy", "pyarrow")


def run(config: Config, watch: Watch | None = None, overwrite: bool = False) -> Result:
    """Train, search, combine, evaluate and store one run.

    Args:
        config: what to do.
        watch: is told of every outcome.
        overwrite: delete a run of the same config first.

    Raises:
        DistensError: nothing can be done as asked; the message says what and where.
    """
    if config.sweep is not None:
        raise ConfigError("sweep: has no effect on one run; `distens sweep` does them all. Leave it out")
    plan = check(config)
    store = open_storage(plan.config)
    if store.exists("run.json"):
        if not overwrite and store.names("journal"):  # else it failed before anything was trained
            done = store.exists("results.json")
            hint = f"`distens report {store.url}` shows it" if done else f"`distens resume {store.url}` goes on with it"
            state = "has finished" if done else "was not finished"
            raise RunError(
                f"{store.url}: this run {state}; {hint}. `--overwrite` starts afresh, another `seed` beside it"
            )
        store.delete()
    return Run(plan, store, watch or silent).go()


def resume(path: str, watch: Watch | None = None, overrides: Sequence[str] = ()) -> Result:
    """Go on with a run that was interrupted, from its folder; what finished is not done again.

    Args:
        path: the run's folder.
        watch: is told of every outcome.
        overrides: `key.key=value`, for `runtime` and `tracking`, and to raise `schedule.maximum` (of a finished run
            too); anything else would be another run.

    Raises:
        ConfigError: the config was changed, in the folder or by `overrides`.
        RunError, StorageError: there is no run to resume.
    """
    store = Store(path)
    if not store.exists("run.json"):
        raise RunError(f"{path}: no run here (run.json is missing)")
    info = store.read_json("run.json")
    config = parse_yaml(store.read("config.yaml").decode(), f"{path}/config.yaml", overrides)
    deeper = resuming.goes_deeper(config, info["identity"], path)
    plan = check(config)
    if deeper:
        resuming.deepen(plan.config, store, info)
    return Run(plan, store, watch or silent, info).go()


def silent(update: Update) -> None:
    """Watch nothing."""


def open_storage(config: Config) -> Store:
    """Return the folder of a config's run, which may not be there yet.

    Raises:
        StorageError: the storage cannot be written.
    """
    storage = Store(config.storage)
    probe = f".probe-{uuid.uuid4().hex}"  # of its own: several runs may start in one storage at once
    try:
        storage.write(probe, b"", durable=False)
        storage.remove(probe)
    except (StorageError, OSError) as error:
        raise StorageError(f"storage: {config.storage!r} cannot be written: {error}") from error
    return Store(f"{config.storage.rstrip('/')}/{config.run_name()}")


class Run:
    """The driver's memory of one run: records and counts, no models and no predictions.

    Args:
        plan: what to do.
        store: the run's folder.
        watch: is told of every outcome.
        info: what `run.json` says of a run that is resumed.
        loaded: the plan's data, if they were read before.
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
        self.ledger = Ledger(store)
        self._given = loaded
        self.loaded: Loaded
        self.resumed = info is not None
        self.info = info or {}
        self.progress = Progress(plan.selector, self.config.metric, plan.members or 0)
        self._search_began: float | None = None
        self.proposals: Proposals

    def go(self) -> Result:
        """Do all that is left to do."""
        self.watch(Update("data", f"reading {self.config.data.source}"))
        self.loaded = loaded = self._given or load(self.config.data, self.config.seed)
        self._open()
        counts = ", ".join(f"{name} {len(rows)}" for name, rows in loaded.dataset.labels.items())
        classes = len(loaded.dataset.classes)
        self.watch(Update("data", f"{self.store.url}: rows: {counts}; {classes} classes", path=self.store.url))
        tracker, runner = self.plan.tracker, self.plan.runner
        shape, gpu = loaded.dataset.inputs["train"].shape[1:], runner.resources.gpus > 0
        planner = Planner(runner.pack, runner.slots, runner.dispatch_seconds, gpu, shape, classes)
        labels_N, say = loaded.dataset.labels["search"], lambda text: self.watch(Update("search", text))
        self.proposals = Proposals(self.plan, self.store, self.ledger, planner, labels_N, say)
        status, final, notes = "failed", None, []
        try:
            runner.start(Shared(self.store, loaded.dataset.for_members()))
            tracker.start(self._run_info())
            for task, outcome in self.ledger.outcomes():
                tracker.member(task, outcome)
            with threadpool_limits(limits=1, user_api="blas"):  # members have the other cores
                self._search()
                result, final = finish.conclude(self.plan, self.store, self.ledger, loaded, self._complete_all)
            status = "finished"
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            runner.stop()
            notes = tracker.finish(final, status)
        self.watch(Update("done", "finished"))
        return replace(result, notes=(*result.notes, *notes))

    def _open(self) -> None:
        fingerprint = self.loaded.dataset.fingerprint
        if self.resumed:
            if self.info["fingerprint"] != fingerprint:
                raise RunError(
                    f"data.source: the data changed since the run started (fingerprint {fingerprint[:12]} instead of "
                    f"{self.info['fingerprint'][:12]}); its members were trained on other rows. Start a new run"
                )
            self._forget_what_is_gone()
            return
        self.info = {
            "format": 1,
            "name": self.config.name,
            "run": self.config.run_name(),
            "hash": self.config.hash(),
            "identity": self.config.identity(),
            "fingerprint": fingerprint,
            "versions": _versions(),
            "started": time.time(),
        }
        self.store.write("config.yaml", to_yaml(self.config).encode())
        self.store.write_state("splits.safetensors", State(self.loaded.split_rows))
        self.store.write_json("preprocessing.json", self.loaded.preprocessing.to_json())
        self.store.write_json("run.json", self.info)

    def _forget_what_is_gone(self) -> None:
        """Members' files are not waited for (see `distens.store`): after a loss of power the last ones may be gone."""
        if self.store.local:
            done = self.ledger.all_finished()
            gone = [e for e in done if not all(map(self.store.holds, e.report.files.values()))]
            if gone:
                self.ledger.lose(gone)

    def _run_info(self) -> RunInfo:
        config = self.config.model_dump(mode="json")
        versions, fingerprint = self.info["versions"], self.info["fingerprint"]
        return RunInfo(self.config.name, self.info["run"], config, self.store.url, versions, fingerprint)

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
        yield from self._complete(self.proposals.packs(tasks))

    def _complete(self, packs: Iterator[Sequence[Task]]) -> Iterator[tuple[Task, Finished | Failure]]:
        """Carry out tasks that are not done yet; yield every outcome, lost attempts included, once it is journalled.
        Empty packs are passed on: they say that there is nothing to do before the next outcome."""

        def dispatched() -> Iterator[Sequence[Task]]:
            for pack in packs:
                left = [task for task in pack if not self.ledger.done(task.id)]
                if not pack:
                    yield []
                elif left:
                    asked = self.ledger.ask(left)
                    if asked[0].purpose == "search":
                        self._show("")
                    yield asked

        for outcomes in self.plan.runner.run(dispatched()):
            for told in self.ledger.tell(outcomes, self._elapsed()):
                task = told.task if isinstance(told, Finished) else self.ledger.task(told.task_id)
                self.plan.tracker.member(task, told)
                if task.purpose != "search":
                    self.watch(Update("finish", line(task, told, self.config.metric), outcome=told))
                yield task, told


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = __version__ if name == "distens" else "not installed"
    return found
