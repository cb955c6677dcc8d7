"""A config checked whole: every plug-in built, every end of every range tried, before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distens import registry
from distens.combine.protocol import Combiner
from distens.config import Config
from distens.errors import ConfigError, did_you_mean
from distens.evaluate import baselines
from distens.runtime.protocol import Runner
from distens.search.protocol import Search
from distens.select.protocol import Selector
from distens.space import Space
from distens.tracking.protocol import Tracker

MOST_FINDINGS = 20


@dataclass(frozen=True)
class Plan:
    """What a run is made of. `config` is resolved: every default and every default range filled in."""

    config: Config
    space: Space
    search: Search
    selector: Selector
    combiner: Combiner
    runner: Runner
    tracker: Tracker
    student: dict[str, Any] | None
    """The student's network, as settings; None for that of the best member that is one, without its dropout."""


def check(config: Config) -> Plan:
    """Return the plan of a config.

    Raises:
        ConfigError: anything that would fail, or have no effect, later.
    """
    members = {name: _with_default_ranges(name, template) for name, template in config.members.items()}
    space = Space(members)
    _check_corners(space)
    search = registry.build("search", config.search.spec(), "search", beside=("members",))
    if space.count == 1 and config.search.kind != "random":
        raise ConfigError(
            f"search.kind: {config.search.kind!r} has nothing to search: `members` holds one setting only. "
            "Use `random` to train it with several seeds, or give ranges"
        )
    networks = [name for name, template in members.items() if baselines.is_network(template)]
    _check_baselines(config, networks)
    built = {part: registry.build(part, getattr(config, part), part) for part in ("select", "combine", "runtime")}
    _check_gpus(members, built["runtime"])
    tracker = registry.build("tracking", config.tracking, "tracking")
    distill, student = _distill(config, networks)
    resolved = config.model_copy(
        update={
            "members": members,
            "search": config.search.model_copy(update=registry.resolved(search)),
            "distill": distill,
            "tracking": registry.resolved(tracker),
            **{part: registry.resolved(plugin) for part, plugin in built.items()},
        }
    )
    return Plan(
        Config.model_validate(resolved.model_dump(mode="json")),
        space,
        search,
        built["select"],
        built["combine"],
        built["runtime"],
        tracker,
        student,
    )


def _with_default_ranges(name: str, template: dict[str, Any]) -> dict[str, Any]:
    where = f"members.{name}"
    kind, _ = registry.split_spec(template, where)
    if "family" in template:
        raise ConfigError(f"{where}.family: the family is named by its key, {name!r}")
    cls = registry.find("members", kind, where)
    fill = getattr(cls, "default_ranges", None)
    try:
        return dict(fill(template)) if fill else template
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_corners(space: Space) -> None:
    findings: dict[str, None] = {}
    for settings in space.corners():
        try:
            registry.build_member(settings)
        except ConfigError as error:
            findings.update(dict.fromkeys(str(error).splitlines()))
            if len(findings) >= MOST_FINDINGS:
                break
    if findings:
        raise ConfigError("\n".join(findings))


def _check_gpus(members: dict[str, dict[str, Any]], runner: Runner) -> None:
    classes = [registry.find("members", template["kind"], f"members.{name}") for name, template in members.items()]
    if runner.resources.gpus and not any(getattr(cls, "uses_gpu", True) for cls in classes):
        raise ConfigError(
            f"runtime: {runner.resources.gpus:g} GPUs per member have no effect: no family of `members` uses one"
        )


def _check_baselines(config: Config, networks: list[str]) -> None:
    for i, name in enumerate(config.baselines):
        if name not in baselines.KINDS:
            raise ConfigError(f"baselines.{i}: unknown baseline {name!r}. {did_you_mean(str(name), baselines.KINDS)}")
        if name in config.baselines[:i]:
            raise ConfigError(f"baselines.{i}: {name!r} is named twice")
    if "larger_single" in config.baselines and not networks:
        raise ConfigError("baselines: `larger_single` widens a network, but no family of `members` is one")


def _distill(config: Config, networks: list[str]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    if config.distill is None:
        return None, None
    distiller = registry.build("distill", config.distill, "distill")
    spec = registry.resolved(distiller)
    student = spec.get("network")
    if student is None:
        if not networks:
            raise ConfigError("distill.network: missing, and no family of `members` is a network to take for it")
        return spec, None
    if not baselines.is_network(student):
        raise ConfigError(f"distill.network.kind: a student is a network, found {student['kind']!r}")
    return spec, {"family": "student", **student}
