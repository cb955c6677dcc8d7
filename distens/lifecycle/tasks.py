"""Tasks as JSON and back, for journals and files; the class of a task's work is found again by its kind."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from distens import registry
from distens.addresses import is_address
from distens.distill.protocol import DataFree
from distens.errors import did_you_mean
from distens.lifecycle.work.train import Train
from distens.records import Record, Resources, Task
from distens.runtime.protocol import Work
from distens.storage.encoding import flatten_record

_ABSENT: tuple[tuple[str, Any], ...] = (("budget", None), ("bracket", ""), ("limit_seconds", None))
"""Fields that are left out of the JSON where they have these values."""

_USUAL = flatten_record(Resources())

_ROLES = "distens.roles."


def task_to_json(task: Task) -> dict[str, Any]:
    """Return a task as a JSON-able mapping; its JSON values are shared, not copied."""
    values = flatten_record(task)
    values["purpose"] = str(task.purpose)
    values["resources"] = {
        name: value
        for name, value in flatten_record(task.resources).items()
        if value != _USUAL[name] or name in ("cpus", "gpus")
    }
    del values["given"]  # held values end with the process; whoever dispatches the task again gives them anew
    if task.member == task.id:
        del values["member"]
    for name, absent in _ABSENT:
        if values[name] == absent:
            del values[name]
    del values["work"]
    if task.work is not None and task.work != Train():
        values["work"] = {"kind": work_kind(task.work), **_plain(task.work)}
    return values


def task_from_json(values: Mapping[str, Any]) -> Task:
    """Rebuild a task from `task_to_json`'s value, of this version or an older one."""
    values = _of_older(values) if "work" not in values else values
    resources = {**values["resources"]}
    if "custom" in resources:
        resources["custom"] = tuple((name, amount) for name, amount in resources["custom"])
    work = dict(values["work"])
    cls = find_work(work.pop("kind"))
    return Task(**{**values, "resources": Resources(**resources), "work": _adapter(cls).validate_python(work)})


def find_addresses(task: Task) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every text in a task's settings, and in the plug-ins of its work, that may be an address.

    No plug-in is looked at, so that none is imported: whatever has the form of an address counts, however deep it is.
    """
    for family, spec in [("", task.settings), *task.work.plugins()]:
        place = f"{task.id}: {family}" if family else task.id
        yield from ((place, text) for text in find_texts(spec) if is_address(text))


def find_texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from find_texts(key)
            yield from find_texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from find_texts(inner)


def work_kind(work: Any) -> str:
    """Return the kind of a work, for a journal: its file's name; for a role's own work, `<role>.<file's name>`."""
    module, name = type(work).__module__, registry.plugin_kind(work)
    if module.startswith(_ROLES):
        return f"{module.removeprefix(_ROLES).split('.')[0]}.{name}"
    return name


def find_work(kind: str) -> type:
    """Return the class of a kind of work. Only distens' own modules are imported.

    Raises:
        ValueError: there is no work of that kind.
    """
    if is_address(kind):  # the work of a user's own role, which the config names: its module is imported by now
        module, _, name = kind.partition(":")
        found: Any = vars(sys.modules.get(module, object)).get(name)
        known = isinstance(found, type) and dataclasses.is_dataclass(found) and registry.has_names(found, Work)
        if not known:
            raise ValueError(f"work: {kind!r} is not a work in a module that the config names")
        return found
    role, dot, name = kind.partition(".")
    if dot and role not in registry.names("roles"):
        raise ValueError(f"work: {kind!r} belongs to an unknown role")
    if dot and not importlib.util.find_spec(f"distens.roles.{role}.work"):
        raise ValueError(f"work: {kind!r} belongs to a role without work of its own")
    family, name = (f"roles.{role}.work", name) if dot else ("lifecycle.work", kind)
    if name not in registry.names(family):
        raise ValueError(f"work: unknown kind {kind!r}. {did_you_mean(name, registry.names(family))}")
    return registry.find_plugin(family, name, "work")


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return {name: _plain(inner) for name, inner in flatten_record(value).items()}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _of_older(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's values in today's form, from those that an older version wrote.

    In older versions the client whose rows are learned from, the distiller and its teachers were fields of the task
    itself, and the member's name was read from the id.
    """
    now = {"work": {"kind": "train"}, **values}
    client, distiller, teachers = now.pop("client", ""), now.pop("distill", None), now.pop("teachers", ())
    now.pop("round", None)
    if teachers and distiller is None:
        raise ValueError("the task has teachers, but no distiller")
    if "budget" in now:
        now["member"] = now["id"].removesuffix(f"-{now['budget']}")
    if distiller is not None and _is_blind(distiller["kind"]):
        now["work"] = {"kind": "federated.distil_blind", "distiller": distiller, "teachers": teachers}
        if now["purpose"] != "student":  # a baseline: each had a purpose of its own
            now["purpose"] = "baseline"
    elif distiller is not None:
        now["work"] = {"kind": "distil", "distiller": distiller, "teachers": teachers}
    elif client:
        now["work"] = {"kind": "federated.train_client", "client": client}
    elif now["purpose"] == "global":
        now["work"] = {"kind": "federated.fill"}
    return now


def _is_blind(kind: str) -> bool:
    ours = kind in registry.names("distill")  # older versions had no distillers from outside
    return ours and registry.has_capability(registry.find_plugin("distill", kind, "distill"), DataFree)
