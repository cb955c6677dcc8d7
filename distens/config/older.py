"""Configs of older versions: what they wrote elsewhere is put where it is read today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_RUNTIME = "ray_actors"


def current(values: Any) -> Any:
    """Return a config's plain values as this version writes them; the very same, where nothing is older.

    Raises:
        ValueError: something is said twice, in the old place and in the new one.
    """
    section = values.get("federated") if isinstance(values, Mapping) else None
    if not isinstance(section, Mapping) or "resources" not in section:
        return values
    rest = {key: value for key, value in section.items() if key != "resources"}
    if not section["resources"]:
        return {**values, "federated": rest}
    runtime = values.get("runtime", DEFAULT_RUNTIME)
    runtime = {"kind": runtime} if isinstance(runtime, str) else runtime
    if not isinstance(runtime, Mapping):
        return values  # refused for that
    if runtime.get("resources"):
        raise ValueError("federated.resources: is read as runtime.resources, which is given too; leave one out")
    return {**values, "federated": rest, "runtime": {**runtime, "resources": section["resources"]}}
