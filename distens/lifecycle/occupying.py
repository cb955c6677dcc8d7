"""The resources that a task occupies: set for its name or its family, needed by its kind, or the usual ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from distens import registry
from distens.errors import ConfigError
from distens.members.protocol import Grouped, UsesNoGpu
from distens.records import Resources, Settings
from distens.runtime.protocol import Runner

MAX_NAMES_SHOWN = 32
"""The largest number of names in a message."""


def occupied_resources(runner: Runner, settings: Settings, name: str = "") -> Resources:
    """Return the resources that a member of these settings occupies.

    Args:
        name: the name of this one member (a client's), which is looked up before its family.

    Raises:
        ConfigError: its kind cannot use the resources that the config gives it.
    """
    if not runner.sized:
        return runner.usual
    family = str(settings.get("family", settings["kind"]))
    own = next((key for key in (name, family) if key in runner.own), None)
    resources = runner.usual if own is None else runner.own[own]
    where = "runtime" if own is None else f"runtime.resources.{own}"
    cls = registry.find_plugin("members", settings["kind"], f"members.{family}")
    if registry.has_capability(cls, UsesNoGpu):
        if own is not None and resources.gpus and resources.gpus != runner.usual.gpus:
            raise ConfigError(
                f"{where}.gpus: {resources.gpus:g} have no effect: no member of kind {settings['kind']!r} uses one"
            )
        resources = replace(resources, gpus=0.0) if resources.gpus else resources
    if registry.has_capability(cls, Grouped):
        try:
            resources = cls.occupied(settings, resources)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
    return resources


def unusual_resources(runner: Runner, members: Iterable[Settings]) -> Mapping[str, Resources]:
    """Return key of the config -> the resources that members occupy by it, where those differ from the usual ones.

    Raises:
        ConfigError: a kind cannot use the resources that the config gives it.
    """
    found: dict[str, Resources] = {}
    for settings in members:
        family, resources = str(settings["family"]), occupied_resources(runner, settings)
        if resources != runner.usual:
            where = f"runtime.resources.{family}" if family in runner.own else f"members.{family}"
            found[where] = max(found.get(where, resources), resources, key=lambda size: size.processes)
    return found


def explain_unknown_name(runner: Runner, names: Mapping[str, Sequence[str]]) -> str:
    """Return the reason why a name in `runtime.resources` is refused; an empty string if every name is known.

    Args:
        names: the things that have names, in the plural (`families`, `clients`) -> the known names.
    """
    known = {name for some in names.values() for name in some}
    for name in runner.own:
        if name not in known:
            there = [f"{words.capitalize()}: {_listed(some)}" for words, some in names.items() if some]
            return f"runtime.resources: {name!r} is not among the {' or '.join(names)}. {'. '.join(there)}"
    return ""


def _listed(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(names[:MAX_NAMES_SHOWN]) + more
