"""One run, from a config to a bundle.

    plan ─► data ─► search: propose ─► journal ─► dispatch ─► runner ─► member        (as many at once as fit)
                      ▲                                          │
                      └── history ◄── journal ◄── report/failure ┘
                                          │
                                       finish: select ─► student, baselines ─► combine ─► test ─► bundle ─► tracker

Every task is journalled before it is dispatched, and its outcome before it is acted on. So the driver may die at any
moment: `resume` reads the journal, hands out again what was pending (with the next attempt number, the same settings
and the same seed), and proposes on from there. Proposals depend on history and on how many came before, not on time.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from distens import __version__, finish, seeding
from distens.config import Config, parse_yaml, to_yaml
from distens.data.load import Loaded, load
from distens.errors import ConfigError, RunError, StorageError
from distens.finish import Result
from distens.ledger import Ledger
from distens.plan import Plan, check
from distens.progress import Progress, Update, Watch, line
from distens.records import Failure, Finished, Floats, History, Outcome, State, Task
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
    plan = check(config)
    store = _store(plan.config)
    if store.exists("run.json"):
        if not overwrite and store.names("journal"):  # else it failed before anything was trained
            done = store.exists("results.json")
            hint = f"`distens report {store.url}` shows it" if done else f"`distens resume {store.url}` goes on with it"
            state = "has finished" if done else "was not finished"
            raise RunError(
                f"{store.url}: this run {state}; {hint}. `--overwrite` starts afresh, another `seed` beside it"
            )
        store.delete()
    return _Run(plan, store, watch or _silent).go()


def resume(path: str, watch: Watch | None = None, overrides: Sequence[str] = ()) -> Result:
    """Go on with a run that was interrupted, from its folder; what finished is not done again.

    Args:
        path: the run's folder.
        watch: is told of every outcome.
        overrides: `key.key=value`, for `runtime` and `tracking`; anything else would be another run.

    Raises:
        ConfigError: the config was changed, in the folder or by `overrides`.
        RunError, StorageError: there is no run to resume.
    """
    store = Store(path)
    if not store.exists("run.json"):
        raise RunError(f"{path}: no run here (run.json is missing)")
    info = store.read_json("run.json")
    config = parse_yaml(store.read("config.yaml").decode(), f"{path}/config.yaml", overrides)
    _check_unchanged(config, info, path)
    plan = check(config)
    return _Run(plan, store, watch or _silent, info).go()


def _silent(update: Update) -> None:
    pass


def _store(config: Config) -> Store:
    storage = Store(config.storage)
    try:
        storage.write(".probe", b"")
        storage.remove(".probe")
    except (StorageError, OSError) as error:
        raise StorageError(f"storage: {config.storage!r} cannot be written: {error}") from error
    return Store(f"{config.storage.rstrip('/')}/{config.run_name()}")


def _check_unchanged(config: Config, info: dict[str, Any], path: str) -> None:
    now, then = config.identity(), info["identity"]
    changed = [key for key in now if now[key] != then.get(key)]
    if changed:
        raise ConfigError(
            f"{path}: the config was changed since the run started ({', '.join(changed)}). A run is resumed as it was; "
            "start another with the new values. Only storage, runtime and tracking may differ"
        )


class _Run:
    """The driver's memory of one run: records and counts, no models and no predictions."""

    def __init__(self, plan: Plan, store: Store, watch: Watch, info: dict[str, Any] | None = None) -> None:
        self.plan, self.config, self.store, self.watch = plan, plan.config, store, watch
        self.ledger = Ledger(store)
        self.loaded: Loaded
        self.resumed = info is not None
        self.info = info or {}
        self.progress = Progress(plan.selector, self.config.metric)

    def go(self) -> Result:
        """Do all that is left to do."""
        self.watch(Update("data", f"reading {self.config.data.source}"))
        self.loaded = loaded = load(self.config.data, self.config.seed)
        self._open()
        counts = ", ".join(f"{name} {len(rows)}" for name, rows in loaded.dataset.labels.items())
        classes = len(loaded.dataset.classes)
        self.watch(Update("data", f"{self.store.url}: rows: {counts}; {classes} classes", path=self.store.url))
        tracker, runner = self.plan.tracker, self.plan.runner
        status, final, notes = "failed", None, []
        try:
            runner.start(Shared(self.store, loaded.dataset.for_members()))
            tracker.start(self._run_info())
            for task, outcome in self.ledger.outcomes():
                tracker.member(task, outcome)
            self._search()
            result, final = finish.conclude(self.plan, self.store, self.ledger, loaded, self._complete)
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

    def _run_info(self) -> RunInfo:
        config = self.config.model_dump(mode="json")
        versions, fingerprint = self.info["versions"], self.info["fingerprint"]
        return RunInfo(self.config.name, self.info["run"], config, self.store.url, versions, fingerprint)

    def _search(self) -> None:
        def proposals() -> Iterator[Task]:
            yield from self.ledger.pending("search")
            while (number := self.ledger.count("search")) < self.config.search.members:
                rng = seeding.generator(self.config.seed, "search", number)
                settings = self.plan.search.propose(self._history(), self.plan.space, 1, rng)[0]
                name = f"m{number:04d}"
                seed = seeding.derive(self.config.seed, "member", name)
                yield Task(name, "search", settings, seed, self.plan.runner.resources)

        self.progress.replay(self._history())
        for task, outcome in self._complete(proposals()):
            history = self._history()
            self.progress.add(history, outcome)
            done = len(history.finished) + len(history.failed)
            if isinstance(outcome, Finished) and self.progress.best is not None:
                values = {"best_single": self.progress.best, "ensemble": self.progress.ensemble or self.progress.best}
                counts = {"finished": len(history.finished), "failed": len(history.failed)}
                self.plan.tracker.progress(done, {**values, **counts})
            self._show(history, line(task, outcome, self.config.metric), outcome)
        history = self._history()
        if not history.finished:
            reasons = "\n".join(f"  {f.task.id}: {f.failure.reason}: {f.failure.message}" for f in history.failed[:5])
            raise RunError(f"every member failed ({len(history.failed)} of {len(history.failed)}):\n{reasons}")

    def _show(self, history: History, text: str, outcome: Finished | Failure | None = None) -> None:
        self.watch(
            Update(
                phase="search",
                text=text,
                total=self.config.search.members,
                finished=len(history.finished),
                failed=len(history.failed),
                running=history.pending,
                metric=self.config.metric,
                best=self.progress.best,
                ensemble=self.progress.ensemble,
                outcome=outcome,
            )
        )

    def _history(self) -> History:
        labels_N = self.loaded.dataset.labels["search"]
        return self.ledger.history("search", self.config.metric, labels_N, self._predictions)

    def _predictions(self, task_id: str) -> Floats:
        return self.store.read_predictions(self.ledger.report(task_id).files["search"])

    def _complete(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Finished | Failure]]:
        """Carry out tasks that are not done yet; yield every outcome, lost attempts included, once it is journalled."""

        def dispatched() -> Iterator[Task]:
            for task in tasks:
                if not self.ledger.done(task.id):
                    asked = self.ledger.ask(task)
                    if task.purpose == "search":
                        self._show(self._history(), "")
                    yield asked

        for outcome in self.plan.runner.run(dispatched()):
            task, told = self._receive(outcome)
            if told is not None:
                self.plan.tracker.member(task, told)
                if task.purpose != "search":
                    self.watch(Update("finish", line(task, told, self.config.metric), outcome=told))
                yield task, told

    def _receive(self, outcome: Outcome) -> tuple[Task, Finished | Failure | None]:
        task = self.ledger.task(outcome.task_id)
        if self.ledger.done(task.id):  # a late double of an outcome that is already journalled
            return task, None
        return task, self.ledger.tell(outcome)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = __version__ if name == "distens" else "not installed"
    return found
