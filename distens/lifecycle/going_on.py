"""A run that goes on: more is asked of it, or something else is decided from what it has trained.

The role says which changes of the config it can follow (`distens.roles.protocol.GoesOn`). What was finished is used
again, whatever it was finished for: a task that differs from all that the run has carried out gets a name of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from distens.config.config import Config, to_yaml
from distens.errors import ConfigError, shorten_value
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.resuming import FORMAT
from distens.lifecycle.tasks import task_to_json
from distens.records import Task
from distens.storage import editions
from distens.storage.store import Store

BESIDE = ("attempt", "resources", "id", "member")
"""Fields of a task by which it may differ from another one that has the same outcome."""

_WHOLE = ("select", "combine", "metric", "distill", "merge", "search.stop_at")
"""The parts of a config that are compared as a whole; others are compared value by value."""


@dataclass(frozen=True)
class Change:
    """One value of a config that was changed since the run began, or went on.

    Attributes:
        key: dotted, such as `search.members`; of a plug-in that is decided as a whole, its section.
        then, now: the values; None where there was, or is, none.
    """

    key: str
    then: Any
    now: Any

    @property
    def values(self) -> str:
        """Return the values in words."""
        return f"{shorten_value(self.now)} instead of {shorten_value(self.then)}"

    def __str__(self) -> str:
        return f"{self.key}: {self.values}"


def find_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return the changes from one identity of a config (see `Config.identity`) to another; one of the role is first."""
    return sorted(_differences(then, now, ""), key=lambda change: change.key != "role")


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[Change]:
    for key in dict.fromkeys([*then, *now]):
        one, other = then.get(key), now.get(key)
        if one == other:
            continue
        name = f"{prefix}{key}"
        if name not in _WHOLE and isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{name}.")
        else:
            yield Change(name, one, other)


def resolve(found: Sequence[Change], then: Mapping[str, Any], resolved: Mapping[str, Any]) -> list[Change]:
    """Return those changes that still are changes in the resolved config, with its values.

    A value that was written shorter (`select=greedy`) is no change, and neither is an option that a newer version of
    distens has besides.
    """
    keys = [f"{change.key}." for change in found]
    return [
        change
        for change in find_changes(then, resolved)
        if any(key.startswith(f"{change.key}.") or f"{change.key}.".startswith(key) for key in keys)
    ]


def refuse(path: str, change: Change, why: str, allowed: str) -> NoReturn:
    """Refuse a change that a run cannot follow.

    Args:
        path: the run's folder.
        why: the reason, as a sentence.
        allowed: the changes that it can follow, in words.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"{path}: the config was changed since the run started ({change.key}): {change.values}. {why} Start a run of "
        f"its own with the new value (`distens run`). {allowed}"
    )


def go_on(config: Config, store: Store, info: dict[str, Any], ledger: Ledger, ended: str | None) -> None:
    """Prepare a run's folder for another config, whose results will be the next edition.

    The order of the steps matters: after a kill anywhere, the same command, or a plain resume, finds a whole run, and
    the results that there are stay readable.

    Args:
        info: the content of `run.json`, which is changed.
        ended: the reason why nothing more is searched for; None if the search goes on.
    """
    edition = info.get("edition", 1)
    if store.exists(editions.file_of(editions.RESULTS, edition)):
        if not store.exists(kept := editions.config_of(edition)):
            store.write(kept, store.read("config.yaml"))
        edition += 1
    store.write("config.yaml", to_yaml(config).encode())
    for folder in ("final", "figures"):  # of a config that was not asked for to the end
        store.delete(editions.folder_of(folder, edition))
    if ledger.ended != ended:
        ledger.end(ended)
    info |= {"format": FORMAT, "edition": edition, "identity": config.identity()}
    store.write_json("run.json", info)


def reuse(tasks: Sequence[Task], ledger: Ledger) -> list[Task]:
    """Return tasks under the names of equal ones in the ledger, whose outcomes they then have; others get new names.

    A new name is the task's own, or if another task has that, one with a number: `student.2`.
    """
    return [_named(task, ledger) for task in tasks]


def _named(task: Task, ledger: Ledger) -> Task:
    name, number, wanted = task.id, 1, _essence(task)
    while ledger.asked(name) and _essence(ledger.task(name)) != wanted:
        number += 1
        name = f"{task.id}.{number}"
    return replace(task, id=name, member=name)


def _essence(task: Task) -> dict[str, Any]:
    return {name: value for name, value in task_to_json(task).items() if name not in BESIDE}
