"""Reports and failures as JSON and back, for journals and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distens.errors import shorten_value
from distens.records import Address, Failure, Part, Record, Report, compact_files


def refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's pairs as a mapping (an `object_pairs_hook`): readers differ in which of two values counts.

    Raises:
        ValueError: a key occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key occurs twice among {shorten_value([key for key, _ in pairs])}")
    return found


def to_json(record: Report | Failure) -> dict[str, Any]:
    """Return a record as a JSON-able mapping; its JSON values are shared, not copied."""
    values = flatten_record(record)
    if isinstance(record, Report):
        values["files"] = _flat_files(record.files)
        if record.parts:
            values["parts"] = [{**flatten_record(part), "files": _flat_files(part.files)} for part in record.parts]
        else:
            del values["parts"], values["averaged"]
        if not record.curves:
            del values["curves"]
    return values


def _flat_files(files: Mapping[str, Address]) -> dict[str, Any]:
    return {name: flatten_record(address) for name, address in files.items()}


def flatten_record(record: Record) -> dict[str, Any]:
    """Return the fields of a record by name."""
    return {name: getattr(record, name) for name in record.__slots__}


def report_from_json(values: Mapping[str, Any]) -> Report:
    """Rebuild the report from `to_json`'s value."""
    parts = tuple(Part(**{**part, "files": _files(part["files"])}) for part in values.get("parts", ()))
    curves = {
        name: {int(epoch): value for epoch, value in one.items()} for name, one in values.get("curves", {}).items()
    }
    return Report(**{**values, "files": _files(values["files"]), "parts": parts, "curves": curves})


def _files(values: Mapping[str, Any]) -> Mapping[str, Address]:
    return compact_files({name: Address(**address) for name, address in values.items()})


def failure_from_json(values: Mapping[str, Any]) -> Failure:
    """Rebuild the failure from `to_json`'s value."""
    return Failure(**values)
