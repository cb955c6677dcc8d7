"""Reports of trials for an ensemble: a member's state and predictions, by address.

Files lie as in a run (see `distens.storage.store`), in a folder that all trials of an experiment share, with settings
and seed in `task.json` beside them. The trial's result holds metrics, and the address of `report.json` with its
SHA-256.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import tune

from distens import registry
from distens.config.config import Config, load_config, parse_config
from distens.data.dataset import Dataset
from distens.errors import ConfigError, RunError
from distens.lifecycle.tasks import task_to_json
from distens.lifecycle.work._training import HELD_OUT, write_report
from distens.lifecycle.work.cross_fit import CrossFit
from distens.lifecycle.work.train import Train
from distens.members.protocol import Member
from distens.metrics.protocol import shown_metrics
from distens.own_loop import count_parameters, settings_of
from distens.own_loop import member as make_member
from distens.records import (
    Address,
    Failure,
    FileAddresses,
    Floats,
    Integers,
    Report,
    Resources,
    Settings,
    Task,
    settings_key,
)
from distens.roles.ensemble.plan import EnsemblePlan, build_plan, load
from distens.roles.ensemble.purpose import EnsemblePurpose
from distens.runtime._execute import execute
from distens.runtime.protocol import RunContext
from distens.seeding import derive
from distens.storage.encoding import to_json
from distens.storage.store import Store
from distens.targets.classes import Classes
from distens.training.context import Context
from distens.tune import domains

if TYPE_CHECKING:
    from torch import nn

KEPT_ATTEMPTS = 2
"""A trial's last reports, whose files are kept: the last, and the one before, which Tune has if the trial dies now."""

FOLDER_KEY = "distens"
"""The key of a trial's result with the address of its report."""


def build(settings: Mapping[str, Any]) -> Member:
    """Return the untrained member that settings describe: `{"kind": "estimator", "estimator": "lightgbm", …}`.

    Raises:
        ConfigError: an unknown kind or option, or a value out of range.
    """
    return registry.build_member(settings, "member")


def report(
    metrics: Mapping[str, Any],
    *,
    network: nn.Module | None = None,
    data: Dataset | None = None,
    path: str = "",
    options: Mapping[str, Any] | None = None,
    member: Member | None = None,
    rows: Mapping[str, Floats] | None = None,
    labels: Sequence[int] | Integers | None = None,
    seed: int = 0,
    predictions: Floats | None = None,
    storage: str | None = None,
    checkpoint: tune.Checkpoint | None = None,
) -> None:
    """Write a trained network, member or predictions, and report their address with the metrics, as Tune's own does.

    A member's `nll` and `error` on the *search* rows are reported with the metrics. A loop may report its network after
    every epoch; the last one counts.

    Args:
        metrics: the metrics to report; with a member also those that its `fit` returned (`parameters`, and `seconds`
            if measured).
        network: the network that the trial has trained, of which a member is made (see `distens.own_loop.member`).
        data: with a network or a member: the rows, as `distens.load_data` returns them.
        path, options: with a network: `package.module:Class` and the arguments by which it is built again.
        member: a trained member (see `build`), from which an ensemble can be deployed.
        rows: instead of `data`: split -> inputs, for `search`, `combine` and `test`.
        labels: instead of `data`: labels_N of the *search* rows.
        seed: with a member: the seed it was trained with.
        predictions: instead of a member: predictions_NK of the *search* rows. A search can use them to look for
            diversity; an ensemble cannot be deployed from them.
        storage: a folder that all trials share; None: `distens` in the folder of Tune's experiment.
        checkpoint: as in `ray.tune.report`.

    Raises:
        ConfigError: an argument is missing or contradicts another.
        Diverged: predictions are not finite.
    """
    if network is not None:
        if member is not None or data is None:
            raise ConfigError("report: a `network` needs `data`, as `distens.load_data` returns them, and no `member`")
        member = make_member(network, data, path, options)
    elif path or options:
        raise ConfigError("report: `path` and `options` have no effect without a `network`")
    if data is not None:
        if rows is not None or labels is not None:
            raise ConfigError("report: `rows` and `labels` have no effect beside `data`")
        rows, labels = {split: data.inputs[split] for split in HELD_OUT}, data.targets["search"]
    found = {**({} if member is None else count_parameters(member)), **metrics}
    _check_arguments(found, member, rows, labels, predictions)
    if member is not None or predictions is not None:
        store = Store(storage or _experiment_storage())
        name = tune.get_context().get_trial_id()
        if member is not None:
            assert rows is not None and labels is not None
            made = _write_member(store, name, member, found, rows, np.asarray(labels), seed)
            found = {**made.metrics, **found}
        else:
            made = _write_predictions(store, name, np.asarray(predictions))
        found[FOLDER_KEY] = _address(store, made)
    tune.report(found, checkpoint=checkpoint)


def _check_arguments(metrics: Any, member: Any, rows: Any, labels: Any, predictions: Any) -> None:
    if member is not None and predictions is not None:
        raise ConfigError("report: `member` and `predictions` exclude each other: a member predicts for itself")
    if member is None and (rows is not None or labels is not None):
        raise ConfigError("report: `rows`, `labels` and `data` have no effect without a `member` or a `network`")
    if predictions is not None and (np.ndim(predictions) != 2 or not np.isfinite(predictions).all()):
        raise ConfigError(f"report: predictions are finite predictions_NK, found shape {np.shape(predictions)}")
    if member is None:
        return
    if rows is None or set(rows) != set(HELD_OUT) or labels is None or len(labels) != len(rows["search"]):
        found = "nothing" if rows is None else ", ".join(f"{len(inputs)} of {split}" for split, inputs in rows.items())
        raise ConfigError(
            f"report: a member needs `rows` for {', '.join(HELD_OUT)} and `labels` of the search rows; found "
            f"{found}; {'no' if labels is None else len(labels)} labels"
        )
    if "parameters" not in metrics:
        raise ConfigError("report: `parameters` is missing in the metrics; pass on what the member's `fit` returned")


def _experiment_storage() -> str:
    """Return a folder beside the trials of Tune's experiment, wherever Tune keeps it."""
    context = tune.get_context().get_storage()
    kind = context.storage_filesystem.type_name
    if kind not in ("local", "s3", "gcs", "hdfs", "abfs"):
        raise ConfigError(f"report: give `storage`; Tune keeps its experiment on a {kind} filesystem of its own")
    path = f"{context.experiment_fs_path}/{FOLDER_KEY}"
    return path if kind == "local" else f"{kind}://{path}"


def _write_member(
    store: Store,
    name: str,
    member: Member,
    metrics: Mapping[str, Any],
    rows: Mapping[str, Floats],
    labels_N: Integers,
    seed: int,
) -> Report:
    settings, attempt = settings_of(member), _next(store, name)
    task = Task(name, EnsemblePurpose.SEARCH, settings, seed, _resources(), Train(), attempt=attempt)
    found = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float | np.number)}
    found.setdefault("seconds", 0.0)
    dataset = Dataset(rows, {"search": labels_N}, Classes(()), "")
    write_task(store, task)
    report = write_report(task, member, found, RunContext(store, dataset), Context(seed))
    if attempt > KEPT_ATTEMPTS:
        store.delete(f"members/{name}/{attempt - KEPT_ATTEMPTS}")
    return report


def _write_predictions(store: Store, name: str, predictions_NK: Floats) -> Report:
    attempt = _next(store, name)
    folder = f"members/{name}/{attempt}"
    files = FileAddresses({"search": store.write_predictions(f"{folder}/search.arrow", predictions_NK, durable=False)})
    made = Report(name, attempt, {}, 0.0, 0, 0.0, platform.node(), files)
    store.write_json(f"{folder}/report.json", to_json(made))
    return made


def write_task(store: Store, task: Task) -> None:
    """Write the task that a member is trained from, in the folder where its report will be."""
    store.write_json(f"members/{task.id}/{task.attempt}/task.json", {"task": task_to_json(task), "at": time.time()})


def _next(store: Store, name: str) -> int:
    """Return the number of the next attempt, which no earlier attempt or late writer has."""
    return 1 + max((int(n) for n in store.names(f"members/{name}") if n.isdigit()), default=0)


def _resources() -> Resources:
    given = tune.get_context().get_trial_resources().required_resources
    return Resources(given.get("CPU", 0.0), given.get("GPU", 0.0))


def _address(store: Store, made: Report) -> str:
    path = f"members/{made.task_id}/{made.attempt}/report.json"
    content = store.read(path)
    found = Address(path, hashlib.sha256(content).hexdigest(), len(content))
    return json.dumps({"storage": absolute(store.url), **dataclasses.asdict(found)})


def as_config(config: Config | Mapping[str, Any] | str | Path) -> Config:
    """Return the config that is given as a config, a mapping, or the path of a YAML file."""
    if isinstance(config, Config):
        return config
    return parse_config(config) if isinstance(config, Mapping) else load_config(config)


def planned(config: Config | Mapping[str, Any] | str | Path) -> EnsemblePlan:
    """Return the plan of a config whose members are trained in trials.

    Raises:
        ConfigError: the config is not valid, or has a section without effect in trials.
    """
    plan = build_plan(as_config(config).model_copy(update={"sweep": None}))
    if registry.plugin_kind(plan.schedule) != "none":
        raise ConfigError("schedule: has no effect in Ray Tune, whose own schedulers stop trials; leave it out")
    return plan


def absolute(url: str) -> str:
    """Return an address that means the same in every process: a local path made absolute."""
    store = Store(url)
    return store.path("") if store.local else store.url


def experiment_folder(config: Config) -> str:
    """Return the folder where trials of a plan's config leave their members, and the search its journal."""
    return absolute(f"{config.storage.rstrip('/')}/{config.run_name()}-tune")


def param_space(config: Config | Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Return a config's `members` for `tune.Tuner(param_space=…)`: `{"member": a choice of families}`.

    Raises:
        ConfigError: the config is not valid.
    """
    return domains.members_space(planned(config).config.members)


def trainable(config: Config | Mapping[str, Any] | str | Path) -> Callable[..., None]:
    """Return a function for `tune.Tuner`: it trains and reports the member in `config["member"]`, on the config's data.

    The data are loaded here, once, and every trial reads them from Ray's object store. A trial occupies the resources
    that the config's `runtime` gives one member. The same settings make the same member, under the same name: a trial
    that is run again resumes from the last checkpoint, or finds that training is done. A `seed` beside `member` in the
    space makes other members.

    Raises:
        ConfigError, DataError: the config is not valid, or its data cannot be read.
    """
    plan = planned(config)
    loaded = load(plan)
    shared = RunContext(Store(experiment_folder(plan.config)), loaded.dataset.for_members())
    resources = plan.runner.usual
    train = functools.partial(_train, root=plan.config.seed, resources=resources, search_path=tuple(sys.path))
    train.__name__ = "distens"  # pyright: ignore[reportAttributeAccessIssue]  # what Tune calls its trials
    given = tune.with_parameters(train, shared=shared)
    return tune.with_resources(given, {"cpu": resources.cpus, "gpu": resources.gpus})


def _train(
    config: Mapping[str, Any], *, root: int, resources: Resources, search_path: Sequence[str], shared: RunContext
) -> None:
    sys.path += [folder for folder in search_path if folder not in sys.path]  # for a user's own module beside a config
    settings: Settings = config["member"]
    key = settings_key({**settings, "seed": config.get("seed")})
    name = f"{settings['family']}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    seed = int(config.get("seed", derive(root, "member", key)))
    work = CrossFit() if shared.dataset.folds else Train()
    task = Task(name, EnsemblePurpose.SEARCH, settings, seed, resources, work, attempt=_next(shared.store, name))
    write_task(shared.store, task)
    threads = max(1, int(resources.cpus))
    _limit_threads(threads)
    (outcome,) = execute([task], shared, threads)
    if isinstance(outcome, Failure):
        raise RunError(f"{outcome.reason}: {outcome.message}")
    assert isinstance(outcome, Report)
    costs = {"seconds": outcome.seconds, "parameters": outcome.parameters}
    tune.report({**shown_metrics(outcome.metrics), **costs, FOLDER_KEY: _address(shared.store, outcome)})


def _limit_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch or LightGBM is loaded
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
