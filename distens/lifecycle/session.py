"""The session of a run, whatever its role: folder, journal, data, runner and tracker, opened and closed in order.

Every task that leaves a report is journalled before it is dispatched, and its outcome before anyone acts on it. So the
driver may die at any moment: pending tasks are handed out again, with the next attempt number, the same settings and
the same seed. Tasks whose answers stay in memory (a client's training in one round) are not journalled: their role
journals what it makes of all of them together, in a folder of its own, and dispatches again those that came after.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from types import TracebackType
from typing import Any, Protocol

from distens import registry
from distens.addresses import module_of
from distens.config.config import Config, to_yaml
from distens.config.sources import describe_edited, hash_sources
from distens.data.load import LoadedData, has_same_rows
from distens.errors import DataError, RunError, StorageError, shorten_value
from distens.lifecycle import resuming
from distens.lifecycle._blas_limit import BlasLimit
from distens.lifecycle.delivery import deliver
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.occupying import occupied_resources
from distens.lifecycle.progress import ProgressEvent, Watch
from distens.lifecycle.rehearsal import rehearse
from distens.lifecycle.results import Outcome, Result
from distens.lifecycle.resuming import find_versions
from distens.lifecycle.tasks import find_texts
from distens.lifecycle.work.evaluate import Evaluate, Evaluation
from distens.members.protocol import UsesNoGpu
from distens.packing import Planner
from distens.records import WAIT, Failure, Finished, Floats, Pack, Report, Resources, Settings, Task, Teacher
from distens.runtime.protocol import RunContext, Runner
from distens.storage import editions
from distens.storage.store import Store
from distens.tracking.protocol import FinalInfo, RunInfo, Tracker
from distens.training.outputs import PROBABILITIES_ADVICE, PROBABILITIES_METRIC

WRITTEN = ("members", "figures", "final", "report.html", editions.RESULTS)
"""The names in a run's folder that are written while it runs, besides journals; later editions write others beside."""

Data = LoadedData
"""The data that a run learns from and is measured on: so far rows of a table, or images."""


class Plan(Protocol):
    """The plan of a run, as far as all roles have it in common.

    Example:
        A role's own plan is a dataclass with these three, and whatever else the role needs::

            @dataclass(frozen=True)
            class MyPlan:
                config: Config
                runner: Runner
                tracker: Tracker
                repetitions: int

            session = Session(role.plan(config), store, watch, None, lambda: data)
    """

    @property
    def config(self) -> Config:
        """Return the resolved config."""
        ...

    @property
    def runner(self) -> Runner:
        """Return the runner, which carries out the tasks."""
        ...

    @property
    def tracker(self) -> Tracker:
        """Return the tracker, which logs the run."""
        ...


class Minimises(Plan, Protocol):
    """A plan of a role that compares models by one of their reports' metrics.

    A run's result names the best model by it::

        metric = plan.metric if registry.has_capability(plan, Minimises) else ""
    """

    @property
    def metric(self) -> str:
        """Return the key, in a report's metrics, of what is minimised."""
        ...


def silent(update: ProgressEvent) -> None:
    """Ignore an update, in a run that nobody watches."""


class Session:
    """The driver's part of one run that does not depend on its role.

    Used in a `with` block: at its end the runner releases everything, and a tracker that was started logs how the run
    ended.

    Args:
        plan: what to do.
        store: the run's folder.
        watch: called with an update after each dispatch and each outcome.
        info: the content of `run.json`, for a run that is resumed; None for a new run.
        data: reads and returns the data that the run learns from and is measured on.

    Raises:
        RunError: the journal has a class that the config does not name.
        StorageError: the journal is damaged, or what the run will write leads out of its folder.
    """

    def __init__(
        self, plan: Plan, store: Store, watch: Watch, info: dict[str, Any] | None, data: Callable[[], Data]
    ) -> None:
        self.config, self.runner, self.tracker = plan.config, plan.runner, plan.tracker
        self.store, self.watch = store, watch
        self.ledger = Ledger(store)
        self.resumed = info is not None
        self.info = info or {}
        self.edition: int = self.info.get("edition", 1)
        self.went_on = "edition" in self.info
        self.notes: list[str] = []
        if self.resumed:
            self._refuse_links()
            self._refuse_imports()
            self.notes += resuming.describe_versions(self.info["versions"], find_versions())
        self._read, self._data = data, None
        self._final: FinalInfo | None = None
        self._started = False
        self._limits = ExitStack()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._limits.close()
        self.runner.stop()
        if self._started:
            status = "finished" if error is None else "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            self.notes += self.tracker.finish(self._final if error is None else None, status)

    def prepare(self, tasks: int | None) -> None:
        """Let the runner get ready for a number of tasks (None: as many as fit at once), while the data are read."""
        if self.store.exists(editions.file_of(editions.RESULTS, self.edition)):
            tasks = 0  # a run that has results trains nothing
        pack = self.runner.pack
        packs = tasks if tasks is None or pack == "auto" else math.ceil(tasks / pack)
        self.runner.prepare(packs, ["torch"] if self._trains_networks() else [])

    def _trains_networks(self) -> bool:
        """Return False if no family uses a GPU: then no process waits for the import of torch, which takes seconds."""
        kinds = [registry.split_spec(spec, "members")[0] for spec in self.config.members.values()]
        return not all(
            registry.has_capability(registry.find_plugin("members", kind, "members"), UsesNoGpu) for kind in kinds
        )

    def open(self) -> Data:
        """Read the data; begin the run's folder, or check that a resumed run's folder still fits them and the config.

        Raises:
            DataError: the data cannot be read.
            ConfigError: code of the user's own failed in a rehearsal (see `distens.lifecycle.rehearsal`).
            RunError: they have changed since the run began, or this version reads them otherwise.
        """
        for note in self.notes:
            self.watch(ProgressEvent("data", note))
        self.watch(ProgressEvent("data", f"reading {self.config.data.source}"))
        try:
            data = self._data = self._read()
        except DataError as error:
            found = not isinstance(error.__cause__, OSError)
            if self.resumed and found and has_same_rows(self.config.data, self.store, self.info["fingerprint"]):
                how = f"does not read them so: {error}"
                raise RunError(resuming.describe_other_reading(how, self.info)) from error
            raise
        if not self.resumed:
            for note in rehearse(self.config, data.dataset, self._on_gpu):
                self.notes.append(note)
                self.watch(ProgressEvent("data", note))
        self._begin(data)
        self.watch(ProgressEvent("data", f"{self.store.url}: {data.summary}", path=self.store.url))
        for line in data.column_lines:
            self.watch(ProgressEvent("data", line))
        return data

    def planner(self, loaded: LoadedData) -> Planner:
        """Return the planner, which decides how many tasks go to an actor together."""
        runner, dataset = self.runner, loaded.dataset
        shape, classes = dataset.inputs["train"].shape[1:], len(dataset.target.column_names)
        folds = max(1, len(dataset.folds))
        return Planner(runner.pack, runner.slots, runner.dispatch_seconds, self._on_gpu, shape, classes, folds)

    def _on_gpu(self, settings: Settings) -> bool:
        return occupied_resources(self.runner, settings).gpus > 0

    def start(self, shared: RunContext, also: Mapping[str, Resources] = {}) -> None:
        """Start the runner and the tracker; the tracker is called with the outcomes that are journalled already.

        Args:
            also: key of the config -> resources that tasks will need and that are not the usual ones (see
                `Runner.start`, `distens.lifecycle.occupying`).
        """
        self._started = True
        self.runner.start(shared, also)
        self.tracker.start(self._run_info())
        for task, outcome in self.ledger.outcomes():
            self.tracker.member(task, outcome)
        # The driver keeps to one core: members have the others.
        self._limits.enter_context(BlasLimit())

    def deliver(self, outcome: Outcome) -> Result:
        """Write the results of the run, and return them."""
        assert self._data is not None, "open comes first"
        result, self._final = deliver(self.config, self.store, self.tracker, self._data, outcome, self.edition)
        return result

    def complete(
        self,
        packs: Iterator[Sequence[Pack]],
        asked: Callable[[Task], None] | None = None,
        elapsed: Callable[[], float | None] = lambda: None,
    ) -> Iterator[tuple[Task, Finished | Failure]]:
        """Carry out tasks that are not done yet; yield every outcome, lost attempts included, once it is journalled.

        Args:
            packs: yields lists of packs that can be dispatched at once and are journalled as one entry; `WAIT`
                means that there is nothing to do before the next outcome.
            asked: called with the first task of every pack that is dispatched.
            elapsed: returns the seconds that the search has run, if they are to be journalled; else None.
        """

        def dispatched() -> Iterator[Pack]:
            for now in packs:
                left = [[task for task in pack if not self.ledger.done(task.id)] for pack in now]
                attempts = iter(self.ledger.ask([task for pack in left for task in pack]))
                if not now:
                    yield WAIT
                for pack in filter(None, left):
                    tasks = list(islice(attempts, len(pack)))
                    if asked is not None:
                        asked(tasks[0])
                    yield tasks

        for answers in self.runner.run(dispatched()):
            outcomes = [answer for answer in answers if isinstance(answer, Report | Failure)]
            for told in self.ledger.tell(outcomes, elapsed()):
                task = told.task if isinstance(told, Finished) else self.ledger.task(told.task_id)
                self.tracker.member(task, told)
                if isinstance(told, Finished) and PROBABILITIES_METRIC in told.report.metrics:
                    self._note_once(f"members.{task.settings.get('family')}: {PROBABILITIES_ADVICE}")
                yield task, told

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def evaluate(self, members_by_mean: Mapping[str, Sequence[Teacher]]) -> dict[str, Mapping[str, Floats]]:
        """Measure weighted means of members' predictions; return name -> measure -> one loss for each *search* row.

        Nothing is journalled: a mean that is needed again is measured again.

        Args:
            candidates: name of a mean -> its members by address, with weights that sum to one.

        Raises:
            RunError: a mean could not be measured.
        """
        usual = self.runner.usual
        tasks = {
            f"evaluate-{name}": Task(f"evaluate-{name}", "evaluate", {}, 0, usual, Evaluate(tuple(members)))
            for name, members in members_by_mean.items()
        }
        found: dict[str, Mapping[str, Floats]] = {}
        for answers in self.runner.run(iter([[task] for task in tasks.values()])):
            for answer in answers:
                if isinstance(answer, Evaluation):
                    found[answer.task_id] = answer.losses
                elif isinstance(answer, Failure) and answer.final:
                    raise RunError(f"{answer.task_id}: {answer.reason}: {answer.message}")
        return {name: found[f"evaluate-{name}"] for name in members_by_mean}

    def _begin(self, data: Data) -> None:
        fingerprint = data.fingerprint
        if self.resumed:
            if self.info["fingerprint"] != fingerprint:
                raise RunError(resuming.describe_other_data(data, self.config.data, self.store, self.info))
            if edited := describe_edited(self.config.model_dump(mode="json"), self.info.get("sources")):
                self.notes.append(f"the code was edited since the run began; earlier members had the old one: {edited}")
            self._forget_what_is_gone()
            return
        self.info = {
            "format": 1,
            "name": self.config.name,
            "run": self.config.run_name(),
            "hash": self.config.hash(),
            "identity": self.config.identity(),
            "fingerprint": fingerprint,
            "versions": find_versions(),
            "started": time.time(),
        }
        if sources := hash_sources(self.config.model_dump(mode="json")):
            self.info["sources"] = sources
        if data.columns:
            self.info["columns"] = [column.to_json() for column in data.columns]
        self.store.write("config.yaml", to_yaml(self.config).encode())
        data.keep(self.store)
        self.store.write_json("run.json", self.info)

    def _refuse_links(self) -> None:
        """Refuse links that lead out before anything is trained; the store would refuse them when all is done."""
        later = (editions.file_of(name, self.edition) for name in WRITTEN if "." in name)
        folders = (editions.folder_of(name, self.edition) for name in ("figures", "final"))
        for name in dict.fromkeys([*WRITTEN, *later, *folders]):
            if self.store.leads_out(name):
                raise StorageError(f"{self.store.url}: refused: {name} is a link that leads out of the folder")

    def _refuse_imports(self) -> None:
        """Refuse a journal with a class that the config does not name, before any module is imported for it.

        Raises:
            RunError: the journal has one.
        """
        named = set(find_texts(self.config.model_dump(mode="json")))
        for address, place in self.ledger.addresses.items():
            if address not in named:
                raise RunError(
                    f"{self.store.url}: refused: {place} in the journal names a class in the module "
                    f"{module_of(address)!r}, and config.yaml does not name {shorten_value(address)}"
                )

    def _forget_what_is_gone(self) -> None:
        """Make finished tasks pending again whose files are gone.

        Nothing waits until members' files are safe on disk (see `distens.storage.store`): a power loss may take the
        last of them.
        """
        if self.store.local:
            done = self.ledger.all_finished()
            gone = [e for e in done if not all(map(self.store.has_file, e.report.addresses()))]
            if gone:
                self.ledger.lose(gone)

    def _run_info(self) -> RunInfo:
        config = self.config.model_dump(mode="json")
        versions, fingerprint = self.info["versions"], self.info["fingerprint"]
        name, run = self.config.name, self.info["run"]
        return RunInfo(name, run, config, self.store.url, versions, fingerprint, self.edition)
