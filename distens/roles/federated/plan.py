"""The plan of a federation: a whole config is checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distens import registry, seeding
from distens.addresses import is_address
from distens.config.config import Config, section_of
from distens.data.source import find_target_class
from distens.distill.protocol import DataFree, Refines
from distens.errors import ConfigError, RunError, did_you_mean
from distens.lifecycle.occupying import explain_unknown_name, occupied_resources
from distens.members.protocol import ClientKind, LeavesParts, NormalisesBatches
from distens.merge.protocol import AssumesPlainSteps, Merger, NeedsProxy
from distens.partition.protocol import Partitioner
from distens.records import Resources, Settings
from distens.roles.federated.section import FederatedSection
from distens.roles.federated.weighting import ENSEMBLE, UNIFORM_ENSEMBLES
from distens.runtime.protocol import Runner
from distens.space.space import Space
from distens.targets.classes import Classes
from distens.tracking.protocol import Tracker

RESERVED = ("global", ENSEMBLE, *UNIFORM_ENSEMBLES, "student", "mean_client", "client")
"""Names of rows of the table, and of purposes, that no baseline may take."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

MEMBER = "client"
"""The kind of a federation's members."""


@dataclass(frozen=True)
class FederatedPlan:
    """The plan of a federated run: the config, with every default filled in, and its plug-ins.

    Attributes:
        config: the config, with every default filled in.
        section: the config's `federated`.
        families: the settings of each family; if there are several, clients get them in turn.
        merger: the server's rule; None where clients have several architectures, which no rule merges.
        partitioner: divides the *train* split; None where clients have sources of their own.
        distiller: the plug-in of the config's `distill`; None without one.
        baselines: other distillers, for comparison: name -> kind and options.
        runner: carries out the tasks.
        tracker: logs the run.
    """

    config: Config
    section: FederatedSection
    families: tuple[Settings, ...]
    merger: Merger | None
    partitioner: Partitioner | None
    distiller: DataFree | None
    baselines: Mapping[str, dict[str, Any]]
    runner: Runner
    tracker: Tracker

    @property
    def one_shot(self) -> bool:
        """Return True if each client trains once, and its model is kept."""
        return self.section.rounds == 1

    @property
    def metric(self) -> str:
        """Return the metric by which the server chooses on rows of its own."""
        return str(self.config.metric)

    def settings(self, place: int) -> Settings:
        """Return the settings of the client at a place among all."""
        return self.families[place % len(self.families)]

    def resources(self, place: int, client: str) -> Resources:
        """Return the resources of the client at a place among all: its own, its family's, or the usual ones."""
        return occupied_resources(self.runner, self.settings(place), client)

    @property
    def also(self) -> dict[str, Resources]:
        """Return key of the config -> the resources that clients occupy by it."""
        return {f"runtime.resources.{name}": own for name, own in self.runner.own.items()}

    def check_names(self, clients: Sequence[str]) -> None:
        """Check that every name in `runtime.resources` is that of a client or of a family.

        Raises:
            RunError: a name is neither.
        """
        if why := explain_unknown_name(self.runner, {"clients": clients, "families": list(self.config.members)}):
            raise RunError(why)

    def network(self, input_shape: tuple[int, ...], classes: int) -> Any:
        """Return a member with the first global weights: the network that clients' weights are merged into."""
        settings = self.settings(0)
        member = registry.build_member(settings)
        member.begin(input_shape, classes, settings["start"])
        return member


def build_plan(config: Config) -> FederatedPlan:
    """Return the plan of a federation's config.

    Raises:
        ConfigError: something in the config would fail later, or have no effect.
    """
    section = section_of(config, FederatedSection, "who the clients are")
    config = _of_today(config, section)
    if config.data.folds is not None:
        raise ConfigError("data.folds: has no effect in a federation, whose clients learn from all their rows")
    if not issubclass(find_target_class(config.data), Classes):
        raise ConfigError("data.task: a federation's clients can only learn classes so far")
    if config.metric not in Classes.minimised:
        allowed = ", ".join(Classes.minimised)
        raise ConfigError(f"metric: {config.metric!r} is not measured in a federation. Allowed: {allowed}")
    families = _families(config)
    merger = _merger(config, section, families)
    partitioner = _partitioner(section)
    distiller, baselines = _distillers(config, section)
    _check_use(config, section, families)
    runner = registry.make_plugin("runtime", config.runtime, "runtime")
    names = {"clients": list(section.sources), "families": list(config.members)}
    if section.sources and (why := explain_unknown_name(runner, names)):
        raise ConfigError(why)
    tracker = registry.make_plugin("tracking", config.tracking, "tracking")
    values = section.model_dump(mode="json")
    if partitioner is not None:
        values["partition"] = registry.resolve_options(partitioner)
    resolved = config.model_copy(
        update={
            config.role: values,
            "merge": None if merger is None else registry.resolve_options(merger),
            "distill": None if distiller is None else registry.resolve_options(distiller),
            "baselines": tuple({**spec, "name": name} for name, spec in baselines.items()),
            "runtime": registry.resolve_options(runner),
            "tracking": registry.resolve_options(tracker),
        }
    )
    return FederatedPlan(
        Config.model_validate(resolved.model_dump(mode="json")),
        section,
        families,
        merger,
        partitioner,
        distiller,
        baselines,
        runner,
        tracker,
    )


def _of_today(config: Config, section: FederatedSection) -> Config:
    """Return the config with clients' resources, which older configs have in `federated`, moved to `runtime`."""
    if not section.resources:
        return config
    runtime = {"kind": config.runtime} if isinstance(config.runtime, str) else config.runtime
    if runtime.get("resources"):
        raise ConfigError("federated.resources: is read as runtime.resources, which is given too; leave one out")
    return config.model_copy(update={"runtime": {**runtime, "resources": section.resources}})


def _families(config: Config) -> tuple[Settings, ...]:
    found: list[Settings] = []
    for name, template in config.members.items():
        kind, _ = registry.split_spec(template, f"members.{name}")
        cls = registry.find_plugin("members", kind, f"members.{name}")
        if not registry.has_capability(cls, ClientKind):
            raise ConfigError(f"members.{name}.kind: a federation's members are of kind {MEMBER!r}, found {kind!r}")
        if registry.has_capability(cls, LeavesParts):
            raise ConfigError(f"members.{name}.kind: a client leaves one model, and {kind!r} leaves several parts")
        settings = list(Space({name: template}).corners())
        if len(settings) > 1:
            raise ConfigError(f"members.{name}: a federation searches nothing; give every value, not a range")
        if "start" in template:
            raise ConfigError(f"members.{name}.start: the run's seed decides the clients' first weights; leave it out")
        given = {**settings[0], "start": seeding.derive(config.seed, "start", name)}
        registry.build_member(given)
        found.append(given)
    return tuple(found)


def _merger(config: Config, section: FederatedSection, families: Sequence[Settings]) -> Merger | None:
    if len(families) > 1:
        names = ", ".join(str(settings["family"]) for settings in families)
        if config.merge is not None or section.rounds > 1:
            key = "merge" if config.merge is not None else "federated.rounds"
            raise ConfigError(f"{key}: weights of several families ({names}) cannot be merged; `distill` joins them")
        return None
    merger: Merger = registry.make_plugin("merge", config.merge or "fedavg", "merge")
    kind = registry.plugin_kind(merger)
    if registry.has_capability(merger, NeedsProxy) and not config.data.splits.search:
        raise ConfigError(f"merge: {kind!r} needs rows of the server's own, but data.splits.search is 0")
    if registry.has_capability(merger, AssumesPlainSteps) and not registry.build_member(families[0]).plain_steps:
        raise ConfigError(
            f"merge: {kind!r} assumes plain gradient steps of its clients: optimizer sgd, no momentum, no weight decay"
        )
    return merger


def _partitioner(section: FederatedSection) -> Partitioner | None:
    if section.sources:
        for name in ("partition", "clients"):
            if getattr(section, name) is not None:
                raise ConfigError(f"federated.{name}: has no effect beside `sources`, which name the clients")
        return None
    return registry.make_plugin("partition", section.partition or "iid", "federated.partition")


def _distillers(config: Config, section: FederatedSection) -> tuple[DataFree | None, dict[str, dict[str, Any]]]:
    distiller = None if config.distill is None else _distiller(config, config.distill, "distill")
    if distiller is not None and section.rounds > 1 and not registry.has_capability(distiller, Refines):
        kinds = registry.names("distill")
        able = [kind for kind in kinds if registry.has_capability(registry.find_plugin("distill", kind, ""), Refines)]
        raise ConfigError(
            f"distill.kind: {registry.plugin_kind(distiller)!r} works in one shot, and there are {section.rounds} "
            f"rounds. After every round: {', '.join(able)}"
        )
    known = [kind for kind in registry.names("distill") if _data_free(kind)]
    baselines: dict[str, dict[str, Any]] = {}
    for i, spec in enumerate(config.baselines):
        where = f"baselines.{i}"
        kind, options = registry.split_spec(spec, where)
        name = options.pop("name", kind)
        if not is_address(kind) and kind not in known:
            raise ConfigError(f"{where}: unknown baseline {kind!r} of a federation. {did_you_mean(str(kind), known)}")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            missing = ". An address is not a name: add `name`" if name == kind else ""
            raise ConfigError(f"{where}.name: letters, digits, _ and -, found {name!r}{missing}")
        if name in baselines or name in RESERVED or (distiller is not None and name == registry.plugin_kind(distiller)):
            raise ConfigError(f"{where}: {name!r} is named twice; `name` gives it another one")
        if section.rounds > 1:
            raise ConfigError(f"{where}: {name!r} works in one shot, and there are {section.rounds} rounds")
        shared = {} if distiller is None else _shared_options(registry.resolve_options(distiller), kind)
        baselines[name] = registry.resolve_options(_distiller(config, {"kind": kind, **shared, **options}, where))
    return distiller, baselines


def _shared_options(given: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the options that a baseline takes over from the run's own distiller, if both train a generator of rows.

    Both then cost alike. (Other distillers learn in another way: an option of the same name means another thing.)
    """
    options = registry.options(registry.find_plugin("distill", kind, "baselines"))
    alike = "generator_steps" in options and "generator_steps" in given
    return {key: value for key, value in given.items() if alike and key in options and value is not None}


def _data_free(kind: str) -> bool:
    return registry.has_capability(registry.find_plugin("distill", kind, "distill"), DataFree)


def _distiller(config: Config, spec: Any, where: str) -> DataFree:
    kind, _ = registry.split_spec(spec, where)
    distiller = registry.make_plugin("distill", spec, where)
    if not _data_free(kind):
        allowed = [name for name in registry.names("distill") if _data_free(name)]
        raise ConfigError(f"{where}.kind: {kind!r} needs the clients' rows. Without them: {', '.join(allowed)}")
    if distiller.needs_proxy and not config.data.splits.search:
        raise ConfigError(f"{where}: {kind!r} needs rows of the server's own, but data.splits.search is 0")
    return distiller


def _check_use(config: Config, section: FederatedSection, families: Sequence[Settings]) -> None:
    for name, settings in zip(config.members, families, strict=True):
        member = registry.build_member(settings)
        if section.rounds == 1 and registry.has_capability(member, NormalisesBatches) and member.keeps_own:
            raise ConfigError(
                f"members.{name}.batch_norm: 'local' has no effect in one shot (rounds: 1), where every client keeps "
                "all of its network"
            )
    if section.per_round is not None and section.rounds == 1:
        raise ConfigError("federated.per_round: has no effect in one shot (rounds: 1), where every client trains once")
    check_drawn(section, len(section.sources) or section.clients)
    splits = config.data.splits
    if not splits.search and not splits.combine and config.metric != "nll":
        raise ConfigError(
            "metric: has no effect without rows of the server's own (data.splits.search and data.splits.combine are 0)"
        )


def check_drawn(section: FederatedSection, clients: int | None) -> None:
    """Check that a round draws no more clients than there are.

    Args:
        section: the config's `federated`.
        clients: the number of clients; None if only the partition will give it.

    Raises:
        ConfigError: a round draws more.
    """
    if section.per_round is not None and clients is not None and section.per_round > clients:
        raise ConfigError(f"federated.per_round: {section.per_round} clients a round, but there are {clients}")
