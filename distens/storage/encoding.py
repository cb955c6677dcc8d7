"""Records as JSON and back, for journals and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distens.records import Address, Failure, Files, Report, Resources, Task, Teacher

_ABSENT: tuple[tuple[str, Any], ...] = (
    ("budget", None),
    ("bracket", ""),
    ("client", ""),
    ("round", None),
    ("limit_seconds", None),
)


def to_json(record: Task | Report | Failure) -> dict[str, Any]:
    """Return a record as a JSON-able mapping; its JSON values are shared, not copied."""
    values = _flat(record)
    if isinstance(record, Task):
        resources = _flat(record.resources)
        values["resources"] = {name: value for name, value in resources.items() if value or name in ("cpus", "gpus")}
        for name, absent in _ABSENT:  # without a schedule or clients, as if there were none
            if values[name] == absent:
                del values[name]
        values.pop("given")  # it ends with the process; who asks for the task again gives it anew
        values["teachers"] = [{**_flat(t), "state": _flat(t.state)} for t in record.teachers]
    elif isinstance(record, Report):
        values["files"] = {name: _flat(address) for name, address in record.files.items()}
    return values


def _flat(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def task_from_json(values: Mapping[str, Any]) -> Task:
    """Return the task that `to_json` wrote."""
    teachers = tuple(Teacher(t["settings"], Address(**t["state"]), t["weight"]) for t in values.get("teachers", ()))
    resources = {**values["resources"]}
    if "custom" in resources:
        resources["custom"] = tuple((name, amount) for name, amount in resources["custom"])
    return Task(**{**values, "resources": Resources(**resources), "teachers": teachers})


def report_from_json(values: Mapping[str, Any]) -> Report:
    """Return the report that `to_json` wrote."""
    return Report(**{**values, "files": Files({name: Address(**a) for name, a in values["files"].items()})})


def failure_from_json(values: Mapping[str, Any]) -> Failure:
    """Return the failure that `to_json` wrote."""
    return Failure(**values)
