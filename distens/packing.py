"""Which tasks share an actor, and how many: members of one architecture are trained as one program.

Members of a kind that can (it names its `free` settings, see `distens.members.protocol.Packable`) share a pack when
all their other settings are equal.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from distens import registry
from distens.records import Settings
from distens.space import key as settings_key


def free(settings: Settings) -> tuple[str, ...]:
    """Return the settings, dotted, in which members of one pack may differ; none for a kind that cannot be packed."""
    return tuple(getattr(registry.find("members", settings["kind"], "members"), "free", ()))


def key(settings: Settings) -> str | None:
    """Return what members of one pack share; None for a kind that trains one member at a time."""
    names = free(settings)
    if not names:
        return None
    shared: dict[str, Any] = copy.deepcopy(dict(settings))
    for name in names:
        *parents, last = name.split(".")
        place: Any = shared
        for step in parents:
            place = place.get(step) if isinstance(place, Mapping) else None
        if isinstance(place, dict):
            place.pop(last, None)
    return settings_key(shared)
