"""The plan of an ensemble's run: all of a config is checked, every plug-in built, every end of every range tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distens import registry
from distens.addresses import find_missing_module, is_address
from distens.combine.protocol import Combiner, NeedsClasses
from distens.config.config import Config
from distens.config.sections import DEFAULT_MEMBERS, Spec
from distens.data.load import LoadedData, load_data
from distens.data.source import find_target_class
from distens.distill.protocol import DataFree
from distens.errors import ConfigError, did_you_mean
from distens.evaluate import baselines
from distens.lifecycle.occupying import explain_unknown_name, occupied_resources, unusual_resources
from distens.lifecycle.work.cross_fit import CrossFit
from distens.lifecycle.work.train import Train
from distens.members.protocol import HasDefaultRanges, LearnsNumbers, LeavesParts, UsesNoGpu
from distens.metrics import protocol as metrics
from distens.metrics.protocol import Metric, loss_key, try_metric
from distens.records import History, Resources, Settings
from distens.runtime.protocol import Runner, Work
from distens.schedule.protocol import Decision, Schedule, TrainingLength, trains_in_rungs
from distens.search.protocol import Search
from distens.select.protocol import Selector
from distens.space.space import Space
from distens.targets.classes import Classes
from distens.tracking.protocol import Tracker

MAX_FINDINGS = 20

BOUNDS = {"error": (0.0, 1.0), "nll": (0.0, math.inf), "rmse": (0.0, math.inf), "mae": (0.0, math.inf)}
"""Metric -> the bounds of `search.stop_at`, both excluded: no ensemble is below the first, or above the second."""


@dataclass(frozen=True)
class EnsemblePlan:
    """The plan of an ensemble's run: the config, with all defaults and default ranges filled in, and its plug-ins."""

    config: Config
    space: Space
    search: Search
    schedule: Schedule
    members: int | None
    """The number of members to start; None: as many as there is time for."""

    selector: Selector
    combiner: Combiner
    runner: Runner
    tracker: Tracker
    student: dict[str, Any] | None
    """The student's network, as settings; None: the network of the best member that has one, without its dropout."""

    left_out: Mapping[str, str]
    """Baseline that the config names -> the reason why the run goes without it."""

    own_metric: Metric | None
    """The user's own metric, if search and selection go by one."""

    @property
    def metric(self) -> str:
        """Return the key, in a report's metrics, of what search and selection minimise."""
        return str(self.config.metric) if self.own_metric is None else loss_key(self.own_metric)

    @property
    def work(self) -> Work:
        """Return the work of training a member of the search."""
        return Train() if self.config.data.folds is None else CrossFit()

    @property
    def also(self) -> Mapping[str, Resources]:
        """Return key of the config -> the resources that members occupy by it, if they are not the usual ones."""
        return unusual_resources(self.runner, self.space.corners())

    def occupied(self, settings: Settings) -> Resources:
        """Return the resources that a member of these settings occupies."""
        return occupied_resources(self.runner, settings)

    def next(self, history: History) -> Decision:
        """Return the schedule's decision, which starts no more members than are left to start."""
        decision = self.schedule.decide(history)
        if decision.start is None or self.members is None:
            return decision
        left = self.members - sum(history.started.values())
        left = left if decision.start.left is None else min(left, decision.start.left)
        return replace(decision, start=replace(decision.start, left=left) if left > 0 else None)


def build_plan(config: Config) -> EnsemblePlan:
    """Return the plan of a config.

    Raises:
        ConfigError: something in the config would fail later, or have no effect.
    """
    for name in ("search", "combine") if config.data.folds is None else ("combine",):
        if not getattr(config.data.splits, name):
            raise ConfigError(f"data.splits.{name}: must be above 0 with role `{config.role}`")
    members = {name: _with_default_ranges(name, template) for name, template in config.members.items()}
    config = _for_target(config, members)
    metric = own_metric(config)
    space = Space(members)
    lengths = _check_corners(space)
    if config.data.folds is not None:
        _check_folds(members)
    limits = tuple(name for name in type(config.search).model_fields if name != "kind")
    search = registry.make_plugin("search", config.search.spec(), "search", beside=limits)
    if space.count == 1 and config.search.kind != "random":
        raise ConfigError(
            f"search.kind: {config.search.kind!r} has nothing to search: `members` holds one setting only. "
            "Use `random` to train it with several seeds, or give ranges"
        )
    networks = [name for name, template in members.items() if baselines.is_network(template)]
    _check_baselines(config, networks)
    built = {part: registry.make_plugin(part, getattr(config, part), part) for part in ("select", "combine", "runtime")}
    _check_combiner(config, built["combine"])
    _check_resources(members, space, built["runtime"])
    schedule, members_given, total = _schedule(config, lengths)
    tracker = registry.make_plugin("tracking", config.tracking, "tracking")
    distill, student = _distill(config, networks)
    resolved = config.model_copy(
        update={
            "members": members,
            "metric": config.metric if metric is None else registry.resolve_options(metric),
            "search": config.search.model_copy(update={**registry.resolve_options(search), "members": members_given}),
            "schedule": registry.resolve_options(schedule),
            "distill": distill,
            "tracking": registry.resolve_options(tracker),
            **{part: registry.resolve_options(plugin) for part, plugin in built.items()},
        }
    )
    return EnsemblePlan(
        Config.model_validate(resolved.model_dump(mode="json")),
        space,
        search,
        schedule,
        total,
        built["select"],
        built["combine"],
        built["runtime"],
        tracker,
        student,
        _left_out(config, networks, space),
        metric,
    )


def load(plan: EnsemblePlan) -> LoadedData:
    """Return the rows, divided and encoded, and measured by the user's own metric, if there is one.

    Raises:
        ConfigError: that metric does not work on these rows.
        DataError: the source is missing, not readable, or cannot be divided.
    """
    loaded = load_data(plan.config.data, plan.config.seed)
    if plan.own_metric is None:
        return loaded
    try_metric(plan.own_metric, loaded.dataset.target, loaded.dataset.targets["search"])
    return replace(loaded, dataset=replace(loaded.dataset, metric=plan.own_metric))


def _for_target(config: Config, members: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return the config with the values filled in that its target dictates.

    Raises:
        ConfigError: a part of the config does not work with that target.
    """
    target = find_target_class(config.data)
    classes, update = issubclass(target, Classes), dict[str, Any]()
    for name, template in members.items():
        if (
            registry.has_capability(registry.find_plugin("members", template["kind"], f"members.{name}"), LearnsNumbers)
            == classes
        ):
            kinds = [kind for kind in registry.names("members") if _learns_numbers(kind) != classes]
            raise ConfigError(
                f"members.{name}.kind: {template['kind']!r} learns {'numbers' if classes else 'classes'}, and the "
                f"target is {'classes' if classes else 'a number'}. Allowed: {', '.join(kinds)}"
            )
    if config.metric not in target.minimised and not _is_own(config.metric):
        if config.metric != Config.model_fields["metric"].default:
            allowed = f"{', '.join(target.minimised)}, or a function of your own, package.module:function"
            raise ConfigError(f"metric: {config.metric!r} is not measured for this target. Allowed: {allowed}")
        update["metric"] = target.minimised[0]
    for name, value in (config.search.stop_at or {}).items():
        if name not in target.minimised:
            allowed = ", ".join(target.minimised)
            raise ConfigError(f"search.stop_at: {name!r} is not minimised for this target. Allowed: {allowed}")
        if name in BOUNDS and not BOUNDS[name][0] < value < BOUNDS[name][1]:
            low, high = BOUNDS[name]
            raise ConfigError(f"search.stop_at.{name}: a number between {low:g} and {high:g}, found {value:g}")
    if not classes:
        if config.distill is not None:
            raise ConfigError("distill: needs classes, and the target is a number; leave it out")
        update["calibrate"] = "none"  # a temperature calibrates probabilities, and a number has none
    return config.model_copy(update=update)


def _is_own(metric: Spec) -> bool:
    return not isinstance(metric, str) or is_address(metric)


def own_metric(config: Config) -> Metric | None:
    """Return the user's own metric; None if the metric is one of the target's.

    Raises:
        ConfigError: it is no metric, or has a name that means something else.
    """
    spec = config.metric
    if not _is_own(spec):
        return None
    if not isinstance(spec, str) and "path" in spec:
        spec = {"kind": metrics.ADOPTER, **spec}
    metric: Metric = registry.make_plugin("metrics", spec, "metric")
    metrics.check_name(metric, find_target_class(config.data))
    return metric


def _learns_numbers(kind: str) -> bool:
    return registry.has_capability(registry.find_plugin("members", kind, "members"), LearnsNumbers)


def _check_combiner(config: Config, combiner: Combiner) -> None:
    if registry.has_capability(combiner, NeedsClasses) and not issubclass(find_target_class(config.data), Classes):
        kind = registry.plugin_kind(combiner)
        raise ConfigError(f"combine.kind: {kind!r} combines probabilities, and the target is a number. Use `average`")


def _with_default_ranges(name: str, template: dict[str, Any]) -> dict[str, Any]:
    where = f"members.{name}"
    kind, _ = registry.split_spec(template, where)
    if "family" in template:
        raise ConfigError(f"{where}.family: the family is named by its key, {name!r}")
    cls = registry.find_plugin("members", kind, where)
    try:
        return dict(cls.default_ranges(template)) if registry.has_capability(cls, HasDefaultRanges) else template
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_corners(space: Space) -> dict[str, TrainingLength]:
    """Build a member at the ends of all ranges; return family -> training lengths, of families trained in parts."""
    findings: dict[str, None] = {}
    causes: list[ConfigError] = []
    lengths: dict[str, TrainingLength] = {}
    for settings in space.corners():
        try:
            member = registry.build_member(settings)
            if trains_in_rungs(settings):
                _add_length(lengths, settings["family"], member)
        except ConfigError as error:
            findings.update(dict.fromkeys(str(error).splitlines()))
            causes.append(error)
            if len(findings) >= MAX_FINDINGS:
                break
    if findings:  # a module that is not here may be elsewhere (see `distens.cli.submit`), another fault is one anywhere
        raise ConfigError("\n".join(findings)) from min(causes, key=lambda e: find_missing_module(e) is not None)
    return lengths


def _check_folds(members: Mapping[str, Mapping[str, Any]]) -> None:
    for name, template in members.items():
        if registry.has_capability(registry.find_plugin("members", template["kind"], f"members.{name}"), LeavesParts):
            raise ConfigError(
                f"data.folds: a member of {name!r} leaves several models by itself (kind {template['kind']!r}), which "
                "cannot be divided into folds"
            )


def _add_length(lengths: dict[str, TrainingLength], family: str, member: Any) -> None:
    known, last = lengths.get(family, TrainingLength((), None)), member.last_epoch()
    lasts = [some for some in (known.last, last) if some is not None]
    lengths[family] = TrainingLength(tuple(sorted({*known.epochs, member.epochs})), min(lasts, default=None))


def _schedule(config: Config, lengths: Mapping[str, TrainingLength]) -> tuple[Schedule, int | None, int | None]:
    """Return the schedule, `search.members` with its default filled in, and the number of members to start."""
    schedule: Schedule = registry.make_plugin("schedule", config.schedule, "schedule")
    try:
        schedule = schedule.planned(lengths)
        given = config.search.members
        if given is None and config.search.seconds is None and schedule.total(None) is None:
            given = DEFAULT_MEMBERS
        return schedule, given, schedule.total(given)
    except ValueError as error:
        raise ConfigError(f"schedule: {error}") from error


def _check_resources(members: dict[str, dict[str, Any]], space: Space, runner: Runner) -> None:
    if why := explain_unknown_name(runner, {"families": list(members)}):
        raise ConfigError(why)
    unusual_resources(runner, space.corners())
    classes = [
        registry.find_plugin("members", template["kind"], f"members.{name}") for name, template in members.items()
    ]
    if runner.usual.gpus and all(registry.has_capability(cls, UsesNoGpu) for cls in classes):
        raise ConfigError(
            f"runtime: {runner.usual.gpus:g} GPUs per member have no effect: no family of `members` uses one"
        )


def _check_baselines(config: Config, networks: list[str]) -> None:
    for i, name in enumerate(config.baselines):
        if not isinstance(name, str):
            raise ConfigError(f"baselines.{i}: an ensemble's baselines have no options; found {name!r}")
        if name not in baselines.KINDS:
            raise ConfigError(f"baselines.{i}: unknown baseline {name!r}. {did_you_mean(str(name), baselines.KINDS)}")
        if name in config.baselines[:i]:
            raise ConfigError(f"baselines.{i}: {name!r} is named twice")
    if "larger_single" in config.baselines and not networks:
        raise ConfigError("baselines: `larger_single` widens a network, but no family of `members` is a network")


def _left_out(config: Config, networks: list[str], space: Space) -> dict[str, str]:
    """Return the baseline `larger_single`, with the reason, if no network of the config has a width."""
    if "larger_single" not in config.baselines or any(map(baselines.can_widen, space.corners())):
        return {}
    return {"larger_single": f"no network of `members` ({', '.join(networks)}) can be widened: its model has no width"}


def _distill(config: Config, networks: list[str]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    if config.distill is None:
        return None, None
    distiller = registry.make_plugin("distill", config.distill, "distill")
    if registry.has_capability(distiller, DataFree):
        kind = registry.plugin_kind(distiller)
        raise ConfigError(f"distill.kind: {kind!r} is for role `federated`, whose server has no training rows")
    spec = registry.resolve_options(distiller)
    student = spec.get("network")
    if student is None:
        if not networks:
            raise ConfigError(
                "distill.network: missing, and no family of `members` is a network that could be used instead"
            )
        return spec, None
    if not baselines.is_network(student):
        raise ConfigError(f"distill.network.kind: a student is a network, found {student['kind']!r}")
    return spec, {"family": "student", **student}
