"""Sweeps: whole runs over values of their own config, as trials of Ray Tune (`distens sweep`).

    sweep.over ─► every end checked ─► search ─► journal ─► a run of its own, in the sweep's folder ─► combine split ─┐
                                          ▲                                                                          │
                                          └──────────────────────────────────────────────────────────────────────────┘

The metric is measured on the *combine* split. Each run reads its *test* split once, for its table. That split decides
nothing here, so the best run's results on it are not biased by the choice.

A sweep that was stopped or killed continues where it was: its journal holds the runs that were started, finished runs
are not repeated, and an interrupted run resumes. No state of Tune's own is needed for that.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray import tune

from distens import coordinator, registry
from distens.config.config import Config, parse_config, write_yaml
from distens.coordinator import make_plan, role_of
from distens.errors import ConfigError, RunError
from distens.lifecycle.session import Plan
from distens.records import Failed, Finished, Settings
from distens.roles.ensemble.plan import own_metric
from distens.runtime.ray_actors import RayActors
from distens.space.space import Space
from distens.storage.store import Store
from distens.tracking.protocol import FinalInfo, RunInfo
from distens.tune.domains import tuned
from distens.tune.one_run import FAILURE, MEASURED, replace_values, run_one
from distens.tune.reporting import absolute
from distens.tune.searcher import DivBOSearch
from distens.tune.spaces import TuneSpace

MEASURES = {"nll": "min", "brier": "min", "ece": "min", "ece_width": "min", "aurc": "min", "accuracy": "max"}
WITHOUT_EFFECT = ("name", "role", "storage", "runtime", "tracking", "sweep")
"""Keys of the config that do not affect results."""

RESTARTS = 5
"""A run whose process dies, whose node is lost or whose storage fails is resumed this many times at most."""

RUN_BYTES = 2**28
"""The memory that Tune reserves on a node for the process of a run, which itself trains nothing."""


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep.

    Attributes:
        values: dotted key -> the value in this run.
        value: the sweep's metric on the *combine* split; None for a run that failed.
        path: the run's folder.
        why: the reason why the run failed; empty if it did not.
    """

    values: Mapping[str, Any]
    value: float | None
    path: str
    why: str = ""


@dataclass(frozen=True)
class SweepResult:
    """The result of `sweep`: its folder and metric, its runs in order of arrival, the best of them, and notes."""

    path: str
    metric: str
    runs: Sequence[SweptRun]
    best: SweptRun
    notes: Sequence[str]


def sweep(config: Config, say: Callable[[str], None] = lambda line: None) -> SweepResult:
    """Carry out the runs of a config's `sweep` section that are not done yet, and return the result of all runs.

    Args:
        config: a config with a `sweep` section.
        say: is called with a line for every run.

    Raises:
        ConfigError: an end of a swept range is not valid in the config, or a swept key has no effect.
        RunError: every run failed.
    """
    job = _Sweep(config)
    return job.go(say)


class _Sweep:
    def __init__(self, config: Config) -> None:
        if config.sweep is None:
            raise ConfigError("sweep: missing; set `over` (what to sweep) and `samples` (the number of runs)")
        self.config, self.section = config, config.sweep
        self.row, self.measure, self.mode = _objective(config)
        space = _space(config)
        self.space = tuned(space)
        self._tune_space = TuneSpace(self.space)
        self.plan = _check_ends(config, Space({"config": space}, "sweep.over"))
        self.name = f"{config.name}-sweep-{_hash(config)}"
        self.folder = absolute(f"{config.storage.rstrip('/')}/{self.name}")

    def go(self, say: Callable[[str], None]) -> SweepResult:
        coordinator.open_storage(self.config)  # fails now if it cannot be written
        store = Store(self.folder)
        values = self.config.model_dump(mode="json")
        store.write("sweep.yaml", write_yaml(values).encode())
        runner = self.plan.runner if isinstance(self.plan.runner, RayActors) else RayActors()
        tracker, status, notes, final = self.plan.tracker, "failed", [], None
        runner.connect()
        try:
            tracker.start(RunInfo(self.config.name, self.name, values, self.folder, {}, ""))
            search = self._search()
            left = self.section.samples - len(search.book.done)
            if left > 0:
                self._fit(search, left, runner, say)
            runs = self._runs(search)
            result = self._result(runs)
            final = _final(result, self.row)
            status = "finished"
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            runner.stop()
            notes = tracker.finish(final, status)
        return replace(result, notes=(*result.notes, *notes))

    def _search(self) -> DivBOSearch:
        return DivBOSearch(
            self.space,
            metric="value",
            mode=self.mode,
            search=self.section.search,
            storage=self.folder,
            seed=self.config.seed,
        )

    def _fit(self, search: DivBOSearch, left: int, runner: RayActors, say: Callable[[str], None]) -> None:
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # we handle Ctrl-C ourselves
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # part of the new output is printed whatever `verbose` is
        base = self.config.model_copy(update={"sweep": None, "storage": self.folder})
        kept, runs, runtime = self._divide_resources(runner)
        run = tune.with_parameters(
            run_one,
            base=base.model_dump(mode="json"),
            more={"runtime": runtime, "tracking": self._tracking()},
            objective=(self.row, self.measure),
            search_path=list(sys.path),
            folder=os.getcwd(),
        )
        tune.Tuner(
            tune.with_resources(run, tune.PlacementGroupFactory([kept])),
            tune_config=tune.TuneConfig(
                search_alg=search,
                num_samples=left,
                max_concurrent_trials=runs,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=self.folder,
                verbose=0,
                callbacks=[_Lines(self, search, say)],
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
            ),
        ).fit()

    def _divide_resources(self, runner: RayActors) -> tuple[dict[str, float], int, Any]:
        """Return the resources that Tune reserves for a run, the number of runs at a time, and their `runtime` section.

        Tune reserves no resources for a run's members: they are placed by `runtime`, as in any run, and each run gets
        an equal share of the slots. Nodes may come and go. Tune waits for reserved resources as long as it takes.
        """
        if not isinstance(self.plan.runner, RayActors):
            cpus = self.plan.runner.usual.cpus
            return {"CPU": cpus}, self.section.concurrency, registry.resolve_options(self.plan.runner)
        runner.check()
        runs = min(self.section.concurrency, runner.slots())
        runtime = {**registry.resolve_options(runner), "address": None, "concurrency": runner.slots() // runs}
        return {"memory": RUN_BYTES}, runs, runtime

    def _tracking(self) -> dict[str, Any]:
        spec = registry.resolve_options(self.plan.tracker)
        if "within" in spec:  # a tracker that nests
            spec |= {"within": self.name, "experiment": spec["experiment"] or self.config.name}
        return spec

    def run_of(self, settings: Settings) -> tuple[dict[str, Any], str]:
        """Return the values of one run, and its folder."""
        values = self._tune_space.config(settings)
        config = replace_values(self.config.model_copy(update={"sweep": None}).model_dump(mode="json"), values)
        return values, f"{self.folder}/{make_plan(parse_config(config)).config.run_name()}"

    def swept(self, entry: Finished | Failed) -> SweptRun:
        """Return one run of the sweep, with its value or the reason why it failed."""
        values, path = self.run_of(entry.task.settings)
        if isinstance(entry, Failed):
            store = Store(path)
            why = store.read(FAILURE).decode() if store.exists(FAILURE) else entry.failure.message
            return SweptRun(values, None, path, why)
        (value,) = entry.report.metrics.values()
        return SweptRun(values, -value if self.mode == "max" else value, path)

    def _runs(self, search: DivBOSearch) -> list[SweptRun]:
        return [self.swept(entry) for entry in search.book.done.values()]

    def _result(self, runs: Sequence[SweptRun]) -> SweepResult:
        done = [run for run in runs if run.value is not None]
        if not done:
            reasons = "\n".join(f"  {_shown(run.values)}: {run.why}" for run in runs[:5])
            raise RunError(f"{self.folder}: every run of the sweep failed:\n{reasons}")
        sign = -1 if self.mode == "max" else 1
        best = min(done, key=lambda run: sign * (run.value or 0.0))
        return SweepResult(self.folder, f"{self.row}.{self.measure}", runs, best, _cautions(best))


class _Lines(tune.Callback):
    """A callback that reports a line for every run that ends."""

    def __init__(self, job: _Sweep, search: DivBOSearch, say: Callable[[str], None]) -> None:
        self._job, self._search, self._say = job, search, say

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves the state of callbacks; this one needs none

    def __setstate__(self, state: dict[str, Any]) -> None:
        pass

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._line(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._line(trial.trial_id)

    def _line(self, trial_id: str) -> None:
        entry = self._search.book.done.get(trial_id)
        if entry is None:
            return
        run = self._job.swept(entry)
        result = f"{self._job.row}.{self._job.measure} {run.value:.4f}" if run.value is not None else run.why
        done = len(self._search.book.done)
        self._say(f"[{done}/{self._job.section.samples}] {_shown(run.values)}: {result}")


def _objective(config: Config) -> tuple[str, str, str]:
    assert config.sweep is not None
    row, _, measure = config.sweep.metric.partition(".")
    rows = [name for name in role_of(config).sweep_rows if name != "student" or config.distill is not None]
    if not rows:
        raise ConfigError(f"sweep: has no effect with role `{config.role}`; leave it out")
    own, modes = own_metric(config), dict(MEASURES)
    if own is not None:
        modes[own.title] = str(own.mode)
    if row not in rows or measure not in modes:
        raise ConfigError(
            f"sweep.metric: found {config.sweep.metric!r}. Allowed: ROW.MEASURE, of {', '.join(rows)} and "
            f"{', '.join(modes)}"
        )
    mode = config.sweep.mode or modes[measure]
    if mode != modes[measure]:
        raise ConfigError(f"sweep.mode: would choose the worst run by {measure}; leave it out, or set the other mode")
    return row, measure, mode


def _space(config: Config) -> dict[str, Any]:
    """Return the template of the swept values, with every key checked."""
    assert config.sweep is not None
    registry.make_plugin("search", config.sweep.search, "sweep.search")
    for key, domain in config.sweep.over.items():
        if key.split(".")[0] in WITHOUT_EFFECT:
            raise ConfigError(f"sweep.over.{key}: has no effect on a run's results")
        if not ({"choices", "low", "mean"} & set(domain)):
            raise ConfigError(f"sweep.over.{key}: a domain is needed, as in `members`; found {domain!r}")
    space = Space({"config": config.sweep.over}, "sweep.over")
    if space.count < config.sweep.samples:
        found = f"{config.sweep.samples} runs, but `over` holds {space.count:g} different ones"
        raise ConfigError(f"sweep.samples: {found}")
    return dict(config.sweep.over)


def _check_ends(config: Config, space: Space) -> Plan:
    """Return the plan of the config itself, after a check that every end of every range makes a valid config."""
    base = config.model_copy(update={"sweep": None})
    plan, values = make_plan(base), base.model_dump(mode="json")
    for corner in space.corners():
        ours = {key: value for key, value in corner.items() if key != "family"}
        try:
            make_plan(parse_config(replace_values(values, ours)))
        except ConfigError as error:
            raise ConfigError(f"sweep.over: with {_shown(ours)}: {error}") from error
    return plan


def _cautions(best: SweptRun) -> list[str]:
    other = [key for key in best.values if key == "seed" or key.startswith("data.")]
    return [
        f"{key}: changes the split of the rows, so that runs are measured on different rows; the best {key} is chance"
        for key in other
    ]


def _hash(config: Config) -> str:
    section = config.sweep.model_dump(mode="json", exclude={"concurrency", "samples"}) if config.sweep else {}
    text = json.dumps([config.identity(), section], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def _final(result: SweepResult, row: str) -> FinalInfo:
    """Return the final record of a sweep for tracking: its best run, and all runs as a table."""
    measured = Store(result.best.path).read_json(MEASURED)[row]
    rows: dict[str, Any] = {"best": {f"combine_{name}": value for name, value in measured.items()}}
    for run in result.runs:
        name = run.path.rsplit("/", 1)[1]
        rows[name] = {**run.values, result.metric: run.value, **({"why": run.why} if run.why else {})}
    verdict = (f"best by {result.metric} on the combine split: {_shown(result.best.values)} ({result.best.path})",)
    return FinalInfo(rows, {}, {}, (), None, {}, {}, None, verdict=verdict)
