"""From Tune's results to a run: trials become members of a run whose search is done, and the run is completed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from ray.tune import ResultGrid

from distens.config.config import Config, parse_config, read_config_values
from distens.data.load import LoadedData
from distens.errors import RunError
from distens.lifecycle.progress import Watch
from distens.lifecycle.results import Result
from distens.lifecycle.session import silent
from distens.lifecycle.tasks import task_from_json
from distens.lifecycle.work._training import HELD_OUT
from distens.lifecycle.work.train import Train
from distens.own_loop import deliver, with_members
from distens.records import Failure, Reason, Report, Task, TaskOutcome
from distens.roles.ensemble.plan import build_plan
from distens.roles.ensemble.purpose import EnsemblePurpose
from distens.storage.encoding import report_from_json
from distens.storage.store import Store
from distens.tune.reporting import FOLDER_KEY
from distens.tune.spaces import KIND

TOLERANCE = 1e-5
"""The tolerance between a member's reported NLL and that of its predictions, which are stored as float32."""


@dataclass(frozen=True)
class _Trained:
    """A trained member that a trial left."""

    store: Store
    task: Task
    report: Report
    at: float


def ensemble(
    results: ResultGrid,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    *,
    storage: str | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
    **sections: Any,
) -> Result:
    """Select, combine, calibrate, evaluate, bundle and register an ensemble of the members that trials reported.

    This is a run (see `distens.run`) in a folder of its own, to which members' files are copied. It has the same table,
    page and bundles, is tracked in the same way, and if it is interrupted, `distens resume` continues it. Members that
    finished in trials which Tune forgot when its driver was killed are included; trials that failed are named.

    Args:
        results: the results that `tuner.fit()` returned.
        config: the config that `trainable` was made from. None: `data` must be given, and the members are those that
            trials trained.
        storage: the folder that trials reported to, if no trial in `results` names it.
        overwrite: delete a run of the same config first.
        watch: is called with the progress.
        sections: sections that replace those of the config: `data=…, select="greedy", combine="average", tracking=…`.

    Raises:
        RunError: no trial reported a member, members predicted other rows than the data's, or there is a run of this
            config already.
        ConfigError: a section is not valid.
    """
    trained, without = _members(results, storage)
    if not trained:
        raise RunError(_nothing(without))
    plan = build_plan(_config(results, trained, without, config, sections))

    def outcomes(store: Store, loaded: LoadedData) -> Iterator[tuple[Task, TaskOutcome]]:
        for one in _measured(loaded, trained):
            for address in one.report.addresses():
                store.write(address.path, one.store.read(address.path, address), durable=False)
            task = replace(one.task, attempt=one.report.attempt)
            yield task, replace(one.report, task_id=task.id)
        yield from map(_failed, without.items())

    return deliver(plan, outcomes, overwrite, watch or silent)


def _members(results: ResultGrid, storage: str | None) -> tuple[list[_Trained], dict[str, tuple[Any, str]]]:
    """Return the members in the folders that trials name, in order of time, and the trials without a member.

    The second value is trial -> (its config, the reason why it has no member).
    """
    places = dict.fromkeys([storage] if storage else [])
    if (usual := Path(results.experiment_path, FOLDER_KEY)).is_dir():
        places[str(usual)] = None  # where trials report to whose last result has no member
    without: dict[str, tuple[Any, str]] = {}
    for result in results:
        metrics = result.metrics or {}
        name = str(metrics.get("trial_id") or Path(result.path).name)
        if FOLDER_KEY in metrics:
            places[json.loads(metrics[FOLDER_KEY])["storage"]] = None
        if result.error is not None:
            without[name] = result.config, str(result.error).strip().splitlines()[-1]
        elif FOLDER_KEY not in metrics:
            without[name] = result.config, "it reported neither a member nor predictions (see distens.tune.report)"
    trained: dict[str, _Trained] = {}
    for place in places:
        store = Store(place)
        for name in store.names("members"):
            found = _find_newest_member(store, name)
            if isinstance(found, _Trained):
                trained[name] = found
                without.pop(name, None)  # an earlier report of a trial that then failed
            elif found:
                without[name] = None, found
    return sorted(trained.values(), key=lambda one: (one.at, one.task.id)), without


def _find_newest_member(store: Store, name: str) -> _Trained | str:
    """Return the newest complete member of that name; else the reason why there is none, or "" without a report."""
    for attempt in sorted(filter(str.isdigit, store.names(f"members/{name}")), key=int, reverse=True):
        folder = f"members/{name}/{attempt}"
        if not store.exists(f"{folder}/report.json"):
            continue
        report = report_from_json(store.read_json(f"{folder}/report.json"))
        if "state" not in report.files and not report.averaged:
            return "it reported predictions only: good for a search, but no model to deploy (report a `member`)"
        about = store.read_json(f"{folder}/task.json")
        return _Trained(store, task_from_json(about["task"]), report, about["at"])
    return ""


def _nothing(without: Mapping[str, tuple[Any, str]]) -> str:
    reasons = "\n".join(f"  {name}: {why}" for name, (_, why) in list(without.items())[:5])
    return f"no trial reported a member for an ensemble:\n{reasons or '  there are no trials'}"


def _config(
    results: ResultGrid,
    trained: Sequence[_Trained],
    without: Mapping[str, Any],
    config: Config | Mapping[str, Any] | str | Path | None,
    sections: Mapping[str, Any],
) -> Config:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", Path(results.experiment_path).name).lstrip("_-")[:64] or "tune"
    values = {"name": name, **({} if config is None else read_config_values(config)), **sections}
    return parse_config(with_members(values, [one.task.settings for one in trained], len(trained) + len(without)))


def _measured(loaded: LoadedData, trained: Sequence[_Trained]) -> list[_Trained]:
    """Return the members, measured on the data's *search* split.

    Predictions of other rows than the data's are refused: with them every later result would be wrong without a sign.

    Raises:
        RunError: a member's predictions have other shapes, or another NLL on the *search* split than it reported.
    """
    labels, found = loaded.dataset.labels, []
    for one in trained:
        predictions = {split: one.store.read_predictions(one.report.files[split]) for split in HELD_OUT}
        for split, predictions_NK in predictions.items():
            if predictions_NK.shape != (len(labels[split]), len(loaded.dataset.classes)):
                raise RunError(
                    f"{one.task.id} predicted {predictions_NK.shape[0]} rows of {split} in {predictions_NK.shape[1]} "
                    "classes, but "
                    f"the data have {len(labels[split])} and {len(loaded.dataset.classes)}: were they split alike?"
                )
        metrics = loaded.dataset.measured.metrics(predictions["search"], labels["search"])
        if not np.isclose(metrics["nll"], one.report.metrics["nll"], rtol=TOLERANCE, atol=TOLERANCE):
            raise RunError(
                f"{one.task.id}: its NLL on search was {one.report.metrics['nll']:.6g}, by the labels of these data it "
                f"is {metrics['nll']:.6g}: the rows differ, or their order"
            )
        if strange := [name for name, value in metrics.items() if not np.isfinite(value)]:
            raise RunError(f"{one.task.id}: its {strange[0]} on search is {metrics[strange[0]]}")
        found.append(replace(one, report=replace(one.report, metrics={**one.report.metrics, **metrics})))
    return found


def _failed(trial: tuple[str, tuple[Any, str]]) -> tuple[Task, Failure]:
    """Return the task and the failure of a trial without a member."""
    name, (config, why) = trial
    settings = (config or {}).get("member")
    if not (isinstance(settings, Mapping) and "family" in settings):
        settings = {"family": KIND, "kind": KIND}
    reason: Reason = next((known for known in get_args(Reason) if f"{known}: " in why), "crashed")
    return Task(name, EnsemblePurpose.SEARCH, settings, 0, work=Train()), Failure(name, 1, reason, why, 0.0, "")
