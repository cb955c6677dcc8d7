"""The code of a user's own modules that a config names: hashes of their files, to tell when the code was edited."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distens.config.addresses import is_address, module_of

ADDRESS_KEYS = ("kind", "path")
"""The keys of a config whose value, or choices of values, may be addresses `package.module:Class`."""


def hash_sources(values: Any, imports: bool = False) -> dict[str, str]:
    """Return module -> SHA-256 of the file of each module that addresses in plain values of a config name.

    Args:
        values: mappings, lists and plain values.
        imports: whether to look for modules that are not imported yet, which may import the packages around them.
    """
    found = {name: _find_file(name, imports) for name in sorted(set(_modules(values)))}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in found.items() if file is not None}


def describe_edited(values: Any, stored: Any, imports: bool = False) -> str:
    """Return the names and files of the modules whose code is not that of stored hashes any more; "" if there are none.

    Args:
        values, imports: see `hash_sources`.
        stored: the hashes that `hash_sources` returned then; a module that is not among them is left out.
    """
    if not isinstance(stored, Mapping):
        return ""
    now = hash_sources(values, imports)
    edited = [name for name, digest in now.items() if name in stored and stored[name] != digest]
    return ", ".join(f"{name} ({_find_file(name, imports)})" for name in edited)


def _modules(values: Any, marked: bool = False) -> Iterator[str]:
    """Yield the modules of all addresses; `marked`: whether the value is that of a key which may have one."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _modules(value, marked or key in ADDRESS_KEYS)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _modules(value, marked)
    elif marked and is_address(values):
        yield module_of(values)


def _find_file(name: str, imports: bool) -> Path | None:
    """Return the file of a module; None if it has none, or is not imported and may not be looked for."""
    found: Any = sys.modules.get(name)
    if found is None and imports:
        try:
            found = importlib.util.find_spec(name)
        except Exception:  # the packages around it may raise anything; whoever imports it says so
            return None
    file = getattr(found, "__file__", None) or getattr(found, "origin", None)
    return Path(file) if file and Path(file).is_file() else None
