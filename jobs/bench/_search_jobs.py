"""Replays as work for processes: one file per table, method and repetition; existing files are not made again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _search_replay import Plan, Replay, diversities, filled, selected
from _search_tables import Table, read
from threadpoolctl import threadpool_limits

from distens import registry
from distens.records import Floats

BUDGETS = (25, 50, 75, 100)
"""Numbers of evaluations after which selectors are applied, besides the end."""


SHARED = {
    "search": ("space/*.py", "_*.py", "search/_*.py", "diversity/*.py", "select/*.py"),
    "select": ("select/_*.py",),
}
"""The files that the kinds of a family depend on, besides their own."""


def _loaded() -> dict[tuple[str, str], str]:
    """Import all searches and selectors; return, for each, eight digits that identify its code.

    All are imported when the process starts: files that are edited later are neither imported during a comparison nor
    mistaken for the code that made its results.
    """
    root, codes = Path(registry.__file__).parent, {}
    for family, patterns in SHARED.items():
        shared = b"".join(file.read_bytes() for pattern in patterns for file in sorted(root.glob(pattern)))
        for name in registry.names(family):
            registry.find_plugin(family, name, family)
            own = (root / family / f"{name}.py").read_bytes()
            codes[family, name] = hashlib.sha256(shared + own).hexdigest()[:8]
    return codes


CODES = _loaded()


def _code(family: str, spec: Any) -> str:
    return CODES[family, registry.split_spec(spec, family)[0]]


@dataclass(frozen=True)
class Job:
    """The work of one process: one table and repetition with all methods."""

    cache: str
    table: str
    repetition: int
    plan: Plan
    methods: Mapping[str, Any]
    selectors: Mapping[str, Any]
    others: Sequence[str]
    out: str

    def file(self, method: str) -> Path:
        """Return the file of a method's result."""
        return Path(self.out) / self.table / f"{method}-{self.repetition}.json"

    def todo(self) -> list[str]:
        """Return the methods whose results are missing or incomplete."""
        return [name for name in self.methods if self._missing(name, _known(self.file(name)))]

    def _missing(self, method: str, known: Mapping[str, Any] | None) -> list[str]:
        """Return the selectors that a result lacks."""
        if known is None:
            return list(self.selectors)
        asked = {"spec": self.methods[method], **asdict(self.plan)}
        found = {key: known[key] for key in asked}
        if found != asked:
            raise SystemExit(f"{self.file(method)}: is of {found}, not of {asked}; use another --out or method name")
        have = known["selected"]
        return [name for name, spec in self.selectors.items() if name not in have or have[name]["spec"] != spec]

    def carry_out(self) -> str:
        """Carry out the remaining work, one file per method; return a line about it."""
        started, did = time.process_time(), []
        with threadpool_limits(1):
            for method in self.todo():
                self._one(method)
                did.append(method)
        seconds = time.process_time() - started
        return f"{self.table} {self.repetition}: {', '.join(did) or 'done before'}, {seconds:.0f} CPU s"

    def _one(self, method: str) -> None:
        table, div_KK = _table(self.cache, self.table)
        result, spec = _known(self.file(method)), self.methods[method]
        if result is None:
            trace = Replay(table, self.repetition, self.plan, div_KK).run(filled(spec, self.others))
            names = {"table": self.table, "method": method, "repetition": self.repetition, "spec": spec}
            code = _code("search", spec)
            result = {**names, **asdict(self.plan), "code": code, "trace": asdict(trace), "selected": {}}
        for name in self._missing(method, result):
            made = selected(table, result["trace"]["arrived"], self.selectors[name], self.plan.metric, BUDGETS)
            result["selected"][name] = {**made, "code": _code("select", self.selectors[name])}
        file = self.file(method)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(result))
        part.rename(file)


def _known(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text()) if file.exists() else None


_LAST: dict[tuple[str, str], tuple[Table, Floats]] = {}


def _table(cache: str, name: str) -> tuple[Table, Floats]:
    """Return a table and its diversities; the last one is cached."""
    if (cache, name) not in _LAST:
        _LAST.clear()
        table = read(Path(cache) / f"{name}.npz")
        _LAST[cache, name] = table, diversities(table)
    return _LAST[cache, name]
