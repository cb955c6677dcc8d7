"""One self-contained HTML page of a finished run, and the table that it shares with the command line."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distens import registry
from distens.metrics.protocol import Metric
from distens.targets.protocol import Target

_COSTS = {"parameters": "parameters", "train_seconds": "training (s)", "predict_ms_per_1000": "ms per 1,000 rows"}
_HIDDEN = ("temperature", "ece_width")
"""The keys of a row that are not among the columns."""

_ABSENT = "–"


@dataclass(frozen=True)
class Columns:
    """The columns of the honest table.

    Attributes:
        headings: key of a row -> heading, in order.
        higher: the keys for which higher values are better.
        definitions: key -> the definition of a measure whose heading is not enough.
    """

    headings: Mapping[str, str]
    higher: tuple[str, ...]
    definitions: Mapping[str, str]

    @property
    def measures(self) -> dict[str, str]:
        """Return key -> heading of the columns that say how good a row is, without its costs."""
        return {key: heading for key, heading in self.headings.items() if key not in _COSTS}

    @property
    def note(self) -> str:
        """Return the sentences that stand below the table."""
        higher = [self.headings[key] for key in self.headings if key in self.higher]
        better = f"higher is better for {' and '.join(higher)}, lower for the others" if higher else "lower is better"
        meanings = [f"{self.headings[k]}: {text}." for k, text in self.definitions.items() if k in self.headings]
        return " ".join([f"The best of each column is marked; {better}.", *meanings])


def columns(target: Target | type[Target], metric: Metric | None = None) -> Columns:
    """Return the table's columns: the measures of a target, the user's own metric, and the costs of a row."""
    own = {} if metric is None else {metric.title: metric.title}
    higher = tuple(own) if metric is not None and metric.mode == "max" else ()
    return Columns({**target.headings, **own, **_COSTS}, (*target.higher_is_better, *higher), target.definitions)


def columns_of(rows: Mapping[str, Mapping[str, float]]) -> Columns:
    """Return the columns of a table that was stored without them, by the keys of its rows.

    A key that is no measure of the target's is a metric of the user's own.
    """
    targets = _targets()
    fit = [one for one in targets if any(key in row for row in rows.values() for key in one.headings)]
    found = columns(fit[0] if fit else targets[0])
    own = {key: key for row in rows.values() for key in row if key not in (*found.headings, *_HIDDEN)}
    return replace(found, headings={**found.measures, **own, **_COSTS})


def rows_of(results: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Return the table's rows among the entries of `results.json`: those that have all measures of a target."""
    found = {name: value for name, value in results.items() if isinstance(value, Mapping)}
    return {name: row for name, row in found.items() if any(one.headings.keys() <= row.keys() for one in _targets())}


def _targets() -> list[type[Target]]:
    return [registry.find_plugin("targets", kind, "targets") for kind in registry.names("targets")]


@dataclass(frozen=True)
class ReportData:
    """The contents of the page.

    Attributes:
        run_name: the page's title.
        rows: the honest table: row name -> key -> value; keys that are not among the columns are not shown.
        missing: row name -> the reason why the row is not in the table.
        verdict: plain sentences, the most important first.
        members: the selected members, each with `id`, `weight` and anything else that is known of it; values that are
            mappings (settings) are written out as `key: value`.
        members_title: the heading above the members.
        failures: the failed attempts, each with `id`, `attempt`, `reason`, `message`.
        figures: caption -> PNG file.
        config_yaml: the resolved config.
        details: name -> other facts, e.g. versions, data, the place where the run is stored.
        columns: the columns of the table; None: those of `columns_of`.
    """

    run_name: str
    rows: Mapping[str, Mapping[str, float]]
    missing: Mapping[str, str] = field(default_factory=dict)
    verdict: Sequence[str] = ()
    members: Sequence[Mapping[str, Any]] = ()
    members_title: str = "Selected members"
    failures: Sequence[Mapping[str, Any]] = ()
    figures: Mapping[str, Path] = field(default_factory=dict)
    config_yaml: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    columns: Columns | None = None


def table_lines(rows: Mapping[str, Mapping[str, float]], missing: Mapping[str, str]) -> list[list[str]]:
    """Return the honest table as text: the headings, then one line for each row.

    Missing rows come last, and a last column, `note`, gives the reasons.
    """
    headings = columns_of(rows).headings
    note = [""] * bool(missing)
    lines = [["", *headings.values(), *["note"] * bool(missing)]]
    lines += [[name, *(_number(key, values.get(key)) for key in headings), *note] for name, values in rows.items()]
    lines += [[name, *[_ABSENT] * len(headings), why] for name, why in missing.items()]
    return lines


def best_cells(rows: Mapping[str, Mapping[str, float]], columns: Columns | None = None) -> set[tuple[str, str]]:
    """Return (row name, column key) of every cell whose printed value is the best of its column.

    A table of one row has no best cells.
    """
    found: set[tuple[str, str]] = set()
    columns = columns or columns_of(rows)
    for key in columns.headings if len(rows) > 1 else ():
        values = {name: row[key] for name, row in rows.items() if _is_number(row.get(key))}
        if values:
            top = (max if key in columns.higher else min)(values.values())
            found |= {(name, key) for name, value in values.items() if _number(key, value) == _number(key, top)}
    return found


def write_page(path: Path, data: ReportData) -> None:
    """Write the page. It needs no other file and no network: figures are inside it, and it has no scripts."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("distens.evaluate", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    columns = data.columns or columns_of(data.rows)
    top = best_cells(data.rows, columns)
    page = environment.get_template("_report.html.j2").render(
        data=data,
        headings=list(columns.headings.values()),
        note=columns.note,
        rows=[
            (name, [(_number(key, values.get(key)), (name, key) in top) for key in columns.headings])
            for name, values in data.rows.items()
        ],
        members=_columns(data.members),
        failures=_columns(data.failures),
        figures={caption: base64.b64encode(file.read_bytes()).decode() for caption, file in data.figures.items()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(page, encoding="utf-8")
    os.replace(part, path)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _number(key: str, value: Any) -> str:
    if not _is_number(value):
        return _ABSENT
    if key == "parameters":
        return f"{value:,.0f}"
    if key in ("train_seconds", "predict_ms_per_1000"):
        return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"
    return f"{value:.4f}"


def _columns(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return headings, in order of first appearance, and cells of entries, which need not have the same keys."""
    keys = list(dict.fromkeys(key for entry in entries for key in entry))
    return keys, [[_text(entry.get(key)) for key in keys] for entry in entries]


def _text(value: Any) -> str:
    if value is None:
        return _ABSENT
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
