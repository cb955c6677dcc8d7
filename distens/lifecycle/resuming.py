"""What a run may be resumed with: formats of its folder, versions of libraries, and changes of its config."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from distens import __version__
from distens.addresses import is_address
from distens.config.config import Config, to_yaml
from distens.errors import ConfigError, RunError, shorten_value
from distens.lifecycle.ledger import Ledger
from distens.storage.store import Store

FORMAT = 1
"""The format of a run's folder; a folder that does not say its own has this one."""

VERSIONED = ("distens", "ray", "torch", "lightning", "scikit-learn", "lightgbm", "mlflow", "numpy", "pyarrow")


def check_format(info: Mapping[str, Any], path: str) -> None:
    """Check that this version of distens can resume a run.

    Args:
        info: the content of `run.json`.
        path: the run's folder, for messages.

    Raises:
        RunError: a newer version wrote the folder, in a format that this one does not know.
        TypeError: the content is not that of a `run.json`.
    """
    for key, kind in (("run", str), ("fingerprint", str), ("identity", dict), ("versions", dict)):
        if not isinstance(info[key], kind):
            raise TypeError(f"its {key} is {shorten_value(info[key])}")
    found = info.get("format", FORMAT)
    if type(found) is not int or found < 1:
        raise TypeError(f"its format is {shorten_value(found)}")
    if found > FORMAT:
        writer = shorten_value(info["versions"].get("distens", "?"))
        raise RunError(
            f"{path}: a run of format {found}, written by distens {writer}; this is distens {__version__}, which "
            f"resumes runs of formats up to {FORMAT}. Install the newer version to resume it"
        )


def find_versions() -> dict[str, str]:
    """Return library -> its version, of those that may change a run's results."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = __version__ if name == "distens" else "not installed"
    return found


def describe_versions(then: Mapping[str, Any], now: Mapping[str, str]) -> Iterator[str]:
    """Yield a note for a run that is resumed with other versions of libraries than those that it was begun with."""
    changed = [
        f"{name} {now[name]} instead of {shorten_value(then[name])}"
        for name in now
        if name in then and then[name] != now[name]
    ]
    if changed:
        yield f"resumed with other versions, which may change results: {', '.join(changed)}"


def goes_deeper(config: Config, then: Mapping[str, Any], path: str) -> bool:
    """Return True if the schedule's maximum rises; False if nothing that decides the result differs.

    Args:
        then: the identity of the run as it was.
        path: the run's folder, for messages.

    Raises:
        ConfigError: anything else was changed, or the new maximum would change the rungs.
    """
    now = config.identity()
    changed = [key for key in {**then, **now} if now.get(key) != then.get(key)]
    if not changed:
        return False
    if "schedule" in changed and _raised(now, then, path) and (changed == ["schedule"] or _more_members(now, then)):
        return True
    raise ConfigError(
        f"{path}: the config was changed since the run started ({', '.join(changed)}). A run is resumed as it was; "
        "start another with the new values. Only storage, runtime and tracking may differ; and schedule.maximum may "
        "rise, with search.members"
    )


def _raised(now: Mapping[str, Any], then: Mapping[str, Any], path: str) -> bool:
    new, old = now.get("schedule"), then.get("schedule")
    if not isinstance(new, dict) or not isinstance(old, dict) or {**new, "maximum": 0} != {**old, "maximum": 0}:
        return False
    if is_address(old.get("kind")):  # the meaning of `maximum` in a user's own schedule is not known here
        return False
    deeper = [old["maximum"] * old["eta"] ** k for k in range(1, 40)]
    if new["maximum"] not in deeper:
        raise ConfigError(
            f"{path}: schedule.maximum: {old['maximum']} may rise to {', '.join(map(str, deeper[:3]))}, …, so "
            f"that the rungs stay as they are; found {new['maximum']}"
        )
    return True


def _more_members(now: Mapping[str, Any], then: Mapping[str, Any]) -> bool:
    new, old = now["search"], then["search"]
    if {**now, "schedule": 0, "search": {**new, "members": 0}} != {
        **then,
        "schedule": 0,
        "search": {**old, "members": 0},
    }:
        return False
    return isinstance(new["members"], int) and isinstance(old["members"], int) and new["members"] > old["members"]


def deepen(config: Config, store: Store, info: dict[str, Any]) -> None:
    """Prepare a run whose members are to be trained further: delete what was made from them, and store the new config.

    The order of the steps matters: after a kill anywhere, the same command, or a plain resume, finds a whole run.
    """
    ledger = Ledger(store)
    store.remove("results.json")
    for entry in ledger.all_finished():
        if entry.task.purpose != "search":
            store.delete(f"members/{entry.task.id}")
    ledger.only("search")
    for folder in ("final", "figures"):
        store.delete(folder)
    info["identity"] = config.identity()
    store.write("config.yaml", to_yaml(config).encode())
    store.write_json("run.json", info)
