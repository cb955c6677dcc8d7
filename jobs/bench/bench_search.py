"""Searches and selectors on 24 tables: the quality of their ensembles after 100 evaluations, and the costs.

    python jobs/bench/bench_search.py build --tables DIR --cache DIR
    python jobs/bench/bench_search.py replay --cache DIR --out RUNS --repetitions 10
    python jobs/bench/bench_search.py report --out RUNS

    python jobs/bench/bench_search.py live --tables DIR --out LIVE --autogluon-python VENV/bin/python

`build` evaluates 400 random settings of 12 families on each table (`DIR/*.parquet`, the label in `target`), with
distens itself, and keeps their predictions: a few minutes per table. `replay` lets every search choose 100 of these 400
members, and gives their results to every selector: seconds to a minute per search. Methods of one repetition begin with
the same random settings, so they are compared in pairs. `report` shows ranks, tests, costs and self-tests of the
results so far, also while replays still run. `live` trains members, with equal CPU seconds for every search and for
AutoGluon.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import _search_live_report as live_reporting
import _search_report as reporting
import _search_write as writing
import typer
from _search_jobs import Job
from _search_live import AUTOGLUON, Live
from _search_replay import PAPER_GREEDY, Plan
from _search_tables import PAPER
from _search_tables import build as build_table
from rich.console import Console

from distens import registry

FINITE = {"proposals": 2000, "local": 0}
"""With a table of 400 settings this many draws find all that are left, and walks uphill find no others."""

METHODS = {
    "random": "random",
    "bayes": {"kind": "bayes", **FINITE},
    "rising_bandit": {"kind": "rising_bandit", **FINITE},
    "evolution": "evolution",
    "divbo": {"kind": "divbo", **FINITE},
    "gain": {"kind": "gain", **FINITE},
}
SELECTORS = {
    "single": {"kind": "top", "size": 1},
    "greedy25": PAPER_GREEDY,
    "greedy": "greedy",
    "quadratic": "quadratic",
}
LIVE = ("random", "divbo", "gain")
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def named(options: list[str] | None, family: str, usual: dict[str, Any]) -> dict[str, Any]:
    """Return name -> spec of options: each the name of a usual one, or `name=spec`, where a spec is a kind or JSON."""
    if not options:
        return usual
    found = {}
    for option in options:
        name, _, text = option.partition("=")
        found[name] = json.loads(text) if text.startswith("{") else text or usual.get(name, name)
        registry.find_plugin(family, registry.split_spec(found[name], option)[0], option)
    return found


@app.command()
def build(
    tables: Annotated[Path, typer.Option(help="A folder of Parquet files.")],
    cache: Annotated[Path, typer.Option(help="Where the evaluated members go.")],
    members: int = 400,
    only: Annotated[list[str] | None, typer.Option("--table", help="These tables alone.")] = None,
) -> None:
    """Evaluate random settings of every table; tables that exist already are skipped."""
    (cache / "runs").mkdir(parents=True, exist_ok=True)
    for seed, path in enumerate(sorted(tables.glob("*.parquet"))):
        if (only is None or path.stem in only) and not (cache / f"{path.stem}.npz").exists():
            print(build_table(path.absolute(), seed, cache, members), flush=True)


@app.command()
def replay(
    cache: Annotated[Path, typer.Option(help="Where `build` put the tables.")],
    out: Annotated[Path, typer.Option(help="Where results go; what is there is not done again.")],
    repetitions: int = 10,
    first: Annotated[int, typer.Option(help="The number of the first repetition.")] = 0,
    method: Annotated[list[str] | None, typer.Option(help="`kind`, or `name={json}`; several.")] = None,
    selector: Annotated[list[str] | None, typer.Option(help="`kind`, or `name={json}`; several.")] = None,
    only: Annotated[list[str] | None, typer.Option("--table", help="These tables alone.")] = None,
    metric: Annotated[str, typer.Option(help="error or nll.")] = "error",
    evaluations: int = 100,
    initial: Annotated[int, typer.Option(help="Random settings that all methods begin with.")] = 5,
    in_flight: Annotated[int, typer.Option(help="The number of members in training at a time.")] = 1,
    processes: int = 2,
) -> None:
    """Give the cached members to searches and selectors."""
    there = sorted(path.stem for path in cache.glob("*.npz") if not path.stem.endswith((".tmp", ".part")))
    chosen = [name for name in there if only is None or name in only]
    plan = Plan(metric, evaluations, initial, in_flight)
    methods, selectors = named(method, "search", METHODS), named(selector, "select", SELECTORS)
    jobs = [
        Job(
            *(str(cache), table, repetition, plan, methods, selectors),
            [str(cache / f"{other}.npz") for other in there if other != table],
            str(out),
        )
        for table in chosen
        for repetition in range(first, first + repetitions)
    ]
    jobs = [job for job in jobs if job.todo()]
    print(
        f"{len(chosen)} tables, {len(methods)} methods, {len(selectors)} selectors: {len(jobs)} jobs to do", flush=True
    )
    started = time.time()
    if processes == 1:
        for job in jobs:
            print(job.carry_out(), flush=True)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            for done in as_completed([pool.submit(job.carry_out) for job in jobs]):
                print(done.result(), flush=True)
    print(f"done in {time.time() - started:.0f} s", flush=True)


@app.command()
def report(
    out: Annotated[list[str], typer.Option(help="A folder of replays; `label=folder` for more, to compare them.")],
    contender: Annotated[list[str] | None, typer.Option(help="`method+selector`; the others are left out.")] = None,
    selector: Annotated[str, typer.Option(help="The selector of methods without one.")] = "greedy25",
    only: Annotated[list[str] | None, typer.Option("--table", help="These tables alone.")] = None,
    results: Annotated[Path | None, typer.Option(help="A folder for search_<date>.md, .json and pictures.")] = None,
    name: Annotated[str, typer.Option(help="Instead of search_<date>.")] = "",
) -> None:
    """Print ranks, tests, costs and self-tests; exit with status 3 if a search is silently broken."""
    pairs = [tuple(text.rsplit("+", 1)) for text in contender or ()]
    methods = list(dict.fromkeys(pair[0] for pair in pairs)) or None
    folders = {text.rpartition("=")[0]: Path(text.rpartition("=")[2]) for text in out}
    found = reporting.gather(folders, only, methods)
    chosen = [(pair[0], pair[1]) for pair in pairs] or [(method, selector) for method in found.methods]
    tests, faults = reporting.self_tests(found)
    over_time = reporting.diversity(found)
    sections = [
        reporting.summary(found, chosen),
        reporting.grid(found),
        reporting.duels(found, chosen),
        reporting.by_tables(found, chosen),
        reporting.anytime(found, selector),
        over_time,
        reporting.costs(found),
        tests,
    ]
    console = Console(width=200)
    console.print(writing.heading(found))
    for section in sections:
        writing.show(console, section)
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
        stem = results / (name or f"search_{time.strftime('%Y-%m-%d')}")
        writing.write(stem, found, chosen, sections, over_time.data, faults)
        console.print(f"written: {stem}.md, .json, _ranks.png, _diversity.png")
    for fault in faults:
        console.print(f"[bold red]SELF-TEST FAILED[/] {fault}")
    if faults:
        raise typer.Exit(3)


@app.command()
def live(
    tables: Annotated[Path, typer.Option(help="A folder of Parquet files.")],
    out: Annotated[Path, typer.Option(help="Where results go; what is there is not done again.")],
    seconds: Annotated[float, typer.Option(help="CPU seconds of each search.")] = 600.0,
    repetitions: int = 3,
    method: Annotated[list[str] | None, typer.Option(help="`name={json}`: a config's sections, search first.")] = None,
    only: Annotated[list[str] | None, typer.Option("--table", help="These tables alone.")] = None,
    metric: Annotated[str, typer.Option(help="error or nll.")] = "error",
    autogluon_python: Annotated[Path | None, typer.Option(help="An interpreter that has AutoGluon.")] = None,
    results: Annotated[Path | None, typer.Option(help="A folder for live_<date>.md and .json.")] = None,
) -> None:
    """Run searches for equal CPU seconds, and AutoGluon for as many as the longest of them used."""
    methods = {name: {"search": name} for name in LIVE}
    if method:
        methods = {name: json.loads(text) for name, _, text in (option.partition("=") for option in method)}
    found: dict[tuple[str, int, str], dict[str, Any]] = {}
    for table in only or PAPER[:8]:
        for repetition in range(repetitions):
            one = Live((tables / f"{table}.parquet").absolute(), repetition, seconds, metric, out.absolute())
            row = {name: one.distens(name, sections) for name, sections in methods.items()}
            if autogluon_python is not None:
                row[AUTOGLUON] = one.autogluon(str(autogluon_python), max(r["cpu_seconds"] for r in row.values()))
            found |= {(table, repetition, name): result for name, result in row.items()}
            line = ", ".join(f"{name} {r['error']:.4f} in {r['cpu_seconds']:.0f} s" for name, r in row.items())
            print(f"{table} {repetition}: {line}", flush=True)
    names = [*methods, *((AUTOGLUON,) if autogluon_python else ())]
    sections = live_reporting.sections(found, names, AUTOGLUON if autogluon_python else names[0])
    console = Console(width=160)
    if autogluon_python is None:
        console.print("AutoGluon: no interpreter was named (--autogluon-python)")
    for section in sections:
        writing.show(console, section)
    if results is not None:
        about = {"seconds": seconds, "repetitions": repetitions, "metric": metric, "tables": only or PAPER[:8]}
        specs = {
            name: [next(r for key, r in found.items() if key[2] == name)[k] for k in ("spec", "details")]
            for name in names
        }
        writing.write_simply(results / f"live_{time.strftime('%Y-%m-%d')}", "Search, live", about, specs, sections)


if __name__ == "__main__":
    app()
