"""Sections of a report on the screen, as Markdown, and as JSON with the conditions of the measurement."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rich.table
from _search_figures import critical_differences, diversity_over_time
from _search_report import Results, Section, named, ranks_of
from _search_stats import critical_difference
from rich.console import Console

VERSIONED = ("distens", "lightgbm", "numpy", "scikit-learn", "scipy", "torch")


def show(console: Console, section: Section) -> None:
    """Print one section."""
    table = rich.table.Table(title=section.title, caption=section.note or None, title_justify="left")
    for i, heading in enumerate(section.head):
        table.add_column(heading, justify="right" if i else "left")
    for row in section.rows:
        table.add_row(*row)
    console.print(table)


def markdown(section: Section) -> str:
    """Return one section as Markdown."""
    lines = [f"## {section.title}", ""]
    lines += ["| " + " | ".join(section.head) + " |", "|---" + "|--:" * (len(section.head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in section.rows]
    return "\n".join([*lines, "", *([section.note, ""] if section.note else [])])


def heading(results: Results) -> str:
    """Return two sentences that describe the comparison."""
    first = next(iter(results.runs.values()))
    text = (
        f"{len(results.tables)} tables, {len(results.repetitions)} repetitions, {first['evaluations']} evaluations of "
        f"the cached settings, of which the first {first['initial']} are the same for all methods; metric: "
        f"{results.metric}."
    )
    if results.left_out:
        text += f" Left out, as some method lacks them: {results.left_out} replays."
    if results.mixed():
        text += f" MIXED: made by several versions of the code: {', '.join(results.mixed())}."
    return text


def write(
    stem: Path,
    results: Results,
    contenders: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    mean_diversity: Mapping[str, Sequence[float]],
    faults: Sequence[str],
) -> None:
    """Write `stem`.md, `stem`.json and two pictures."""
    ranks = ranks_of(results, contenders, f"test_{results.metric}")[1]
    title = f"Average rank of the mean test {results.metric} over {len(results.tables)} tables"
    pictures = {kind: stem.with_name(f"{stem.name}_{kind}.png") for kind in ("ranks", "diversity")}
    if len(contenders) > 1 and len(results.tables) > 1:
        difference = critical_difference(len(contenders), len(results.tables))
        critical_differences(pictures["ranks"], list(map(named, contenders)), ranks, difference, title)
    diversity_over_time(pictures["diversity"], mean_diversity)
    about = _about(results)
    specs = [f"| {method} | `{json.dumps(spec)}` | {code} |" for method, (spec, code) in about["methods"].items()]
    chosen = [f"| {name} | `{json.dumps(spec)}` | |" for name, spec in about["selectors"].items()]
    text = [
        f"# Search on cached members, {about['date']}\n",
        heading(results) + "\n",
        f"![ranks]({pictures['ranks'].name})\n",
        *map(markdown, sections),
        f"![diversity]({pictures['diversity'].name})\n",
        "## How it was made\n",
        "| name | spec | code |\n|---|---|---|",
        *specs,
        *chosen,
        "",
        f"Repetitions {results.repetitions[0]} to {results.repetitions[-1]}; every seed follows from the table's name, "
        "the repetition and the number of the proposal. Tables: " + ", ".join(results.tables) + ".",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()) + ".",
        "",
        *(f"**Self-test failed:** {fault}\n" for fault in faults),
    ]
    stem.with_name(f"{stem.name}.md").write_text("\n".join(text), encoding="utf-8")
    data = {section.title: section.data for section in sections}
    content = {**about, "tables": results.tables, "faults": list(faults), "sections": data}
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(content, indent=1))


def _about(results: Results) -> dict[str, Any]:
    methods = {}
    for method in results.methods:
        runs = [run for key, run in results.runs.items() if key[2] == method]
        methods[method] = (runs[0]["spec"], ", ".join(sorted({run["code"] for run in runs})))
    first = next(iter(results.runs.values()))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "metric": results.metric,
        "evaluations": first["evaluations"],
        "initial": first["initial"],
        "repetitions": results.repetitions,
        "methods": methods,
        "selectors": {name: first["selected"][name]["spec"] for name in results.selectors},
        "versions": _versions(),
    }


def write_simply(
    stem: Path, title: str, about: Mapping[str, Any], specs: Mapping[str, Any], sections: Sequence[Section]
) -> None:
    """Write sections and the conditions of the measurement, as `stem`.md and `stem`.json."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    about = {"date": time.strftime("%Y-%m-%d"), **about, "versions": _versions()}
    text = [f"# {title}, {about['date']}\n", *map(markdown, sections), "## How it was made\n"]
    text += ["| name | spec |\n|---|---|", *(f"| {name} | `{json.dumps(spec)}` |" for name, spec in specs.items()), ""]
    text += [f"- {key}: {json.dumps(value)}" for key, value in about.items()]
    stem.with_name(f"{stem.name}.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    data = {section.title: section.data for section in sections}
    stem.with_name(f"{stem.name}.json").write_text(json.dumps({**about, "methods": specs, "sections": data}, indent=1))


def _versions() -> dict[str, str]:
    return {name: version(name) for name in VERSIONED} | {"python": platform.python_version()}
