"""The code of a user's own modules that a config names: hashes of their files, to tell when the code was edited."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distens.addresses import is_address, is_users_file, module_of
from distens.config.sections import is_data_module

ADDRESS_KEYS = ("kind", "path", "model", "objective", "metric", "estimator")
"""The keys of a config whose value, or choices of values, may be addresses `package.module:Class`; `source` may, too,
if it has that form."""


def hash_sources(values: Any, imports: bool = False) -> dict[str, str]:
    """Return module -> SHA-256 of its file, for the modules that addresses in plain values of a config name.

    The user's modules that these import are among them; installed packages are not, and neither is what is not
    imported yet.

    Args:
        values: mappings, lists and plain values.
        imports: whether to import modules that are named and not imported yet.
    """
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in _find_files(values, imports).items()}


def describe_edited(values: Any, stored: Any, imports: bool = False) -> str:
    """Return the names and files of the modules whose code is not that of stored hashes any more; "" if there are none.

    Args:
        values, imports: see `hash_sources`.
        stored: the hashes that `hash_sources` returned then; a module that is not among them is left out.
    """
    if not isinstance(stored, Mapping):
        return ""
    files, now = _find_files(values, imports), hash_sources(values)
    edited = [name for name, digest in now.items() if name in stored and stored[name] != digest]
    return ", ".join(f"{name} ({files[name]})" for name in edited)


def _find_files(values: Any, imports: bool) -> dict[str, Path]:
    """Return module -> file of the user's modules, in order of names."""
    left, found = sorted(set(_named_modules(values))), dict[str, Path]()
    for name in left if imports else ():
        try:
            importlib.import_module(name)
        except Exception:  # a user's module may raise anything; whoever needs it says so
            continue
    while left:
        name = left.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if name not in found and file and file.endswith(".py") and Path(file).is_file():
            found[name] = Path(file)
            left += [other for other in _imports(name, Path(file)) if _is_users(other)]
    return dict(sorted(found.items()))


def _named_modules(values: Any, marked: bool = False) -> Iterator[str]:
    """Yield the modules of all addresses; `marked`: whether the value is that of a key which may have one."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            is_class = key == "source" and isinstance(value, str) and is_data_module(value)
            yield from _named_modules(value, is_class or key in ADDRESS_KEYS or (marked and key == "choices"))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _named_modules(value, marked)
    elif marked and is_address(values):
        yield module_of(values)


def _imports(name: str, file: Path) -> Iterable[str]:
    """Yield the names in a module's import statements, of which some may be modules."""
    package = getattr(sys.modules[name], "__package__", None)
    try:
        statements = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # it was edited, and is imported no more
        return
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and (package or not statement.level):
            source = "." * statement.level + (statement.module or "")
            source = importlib.util.resolve_name(source, package) if statement.level else source
            yield from (source, *(f"{source}.{alias.name}" for alias in statement.names))


def _is_users(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and is_users_file(file)
