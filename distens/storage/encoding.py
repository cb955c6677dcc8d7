"""Reports and failures as JSON and back, for journals and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distens.records import Address, Failure, Files, Record, Report


def to_json(record: Report | Failure) -> dict[str, Any]:
    """Return a record as a JSON-able mapping; its JSON values are shared, not copied."""
    values = flat(record)
    if isinstance(record, Report):
        values["files"] = {name: flat(address) for name, address in record.files.items()}
    return values


def flat(record: Record) -> dict[str, Any]:
    """Return the fields of a record by name."""
    return {name: getattr(record, name) for name in record.__slots__}


def report_from_json(values: Mapping[str, Any]) -> Report:
    """Return the report that `to_json` wrote."""
    return Report(**{**values, "files": Files({name: Address(**a) for name, a in values["files"].items()})})


def failure_from_json(values: Mapping[str, Any]) -> Failure:
    """Return the failure that `to_json` wrote."""
    return Failure(**values)
