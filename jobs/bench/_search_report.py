"""A report on replays: ranks, tests, costs and self-tests; tables on screen, and the same as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _search_stats import average_ranks, by_table, critical_difference, friedman, holm, wilcoxon

from distens.records import Floats

CONSTANT = 1e-9
"""A spread below this counts as zero."""

PHASES = ((6, 25), (26, 50), (51, 75), (76, 100))


@dataclass(frozen=True)
class Results:
    """The replays of one comparison, of all tables and repetitions that every method has, in order.

    Attributes:
        runs: (table, repetition, method) -> a result as `_search_replay` wrote it.
        left_out: pairs of table and repetition that some method lacks.
    """

    tables: tuple[str, ...]
    repetitions: tuple[int, ...]
    methods: tuple[str, ...]
    selectors: tuple[str, ...]
    metric: str
    runs: Mapping[tuple[str, int, str], Mapping[str, Any]]
    left_out: int

    def losses(self, method: str, selector: str, what: str, at: str = "") -> Floats:
        """Return a measure of every table and repetition: (T, R).

        Args:
            what: the measure, e.g. `test_error`.
            at: the number of evaluations after which it was measured; empty: the end.
        """

        def one(table: str, repetition: int) -> float:
            found = self.runs[table, repetition, method]["selected"][selector]["at"]
            return found[at or max(found, key=int)][what]

        return np.array([[one(table, repetition) for repetition in self.repetitions] for table in self.tables])

    def mixed(self) -> list[str]:
        """Return the methods and selectors whose results were made by more than one version of their code."""
        found: dict[str, set[str]] = {}
        for (_, _, method), run in self.runs.items():
            found.setdefault(method, set()).add(run["code"])
            for selector, one in run["selected"].items():
                found.setdefault(selector, set()).add(one["code"])
        return sorted(name for name, codes in found.items() if len(codes) > 1)

    def figure(self, method: str, key: str) -> Floats:
        """Return a number of every trace, (T, R); for lists, their sum."""
        values = [[self.runs[t, r, method]["trace"][key] for r in self.repetitions] for t in self.tables]
        return np.array([[sum(v) if isinstance(v, list) else v for v in row] for row in values], dtype=np.float64)


def gather(folders: Mapping[str, Path], tables: Sequence[str] | None, methods: Sequence[str] | None) -> Results:
    """Return the results in folders of replays: label -> folder; a label other than "" is added to its methods' names.

    Raises:
        SystemExit: there is nothing to compare.
    """
    runs: dict[tuple[str, int, str], dict[str, Any]] = {}
    for label, folder in folders.items():
        for file in sorted(folder.glob("*/*.json")):
            result = json.loads(file.read_text())
            name = result["method"] + (f"@{label}" if label else "")
            if (tables is None or result["table"] in tables) and (methods is None or name in methods):
                runs[result["table"], result["repetition"], name] = result
    found = list(dict.fromkeys(name for _, _, name in runs))
    names = tuple(methods) if methods else tuple(sorted(found, key=_usual_order))
    blocks = {(table, repetition) for table, repetition, _ in runs}
    whole = {block for block in blocks if all((*block, name) in runs for name in names)}
    kept = tuple(sorted({table for table, _ in whole}))
    shared = [r for r in sorted({r for _, r in whole}) if all((table, r) in whole for table in kept)]
    if not kept or not shared:
        raise SystemExit(f"no table has a repetition of all of {', '.join(names) or 'no methods'}")
    runs = {key: run for key, run in runs.items() if key[0] in kept and key[1] in shared and key[2] in names}
    first = [set(run["selected"]) for run in runs.values()]
    selectors = tuple(name for name in next(iter(runs.values()))["selected"] if all(name in s for s in first))
    metrics = {run["metric"] for run in runs.values()}
    if len(metrics) > 1:
        raise SystemExit(f"results are of several metrics: {', '.join(sorted(metrics))}")
    left_out = len(blocks) - len(kept) * len(shared)
    return Results(kept, tuple(shared), names, selectors, metrics.pop(), runs, left_out)


def _usual_order(name: str) -> tuple[int, str]:
    usual = ("random", "bayes", "rising_bandit", "evolution", "divbo")
    kind = name.split("@")[0]
    return (usual.index(kind) if kind in usual else len(usual)), name


@dataclass(frozen=True)
class Section:
    """One table of the report."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def ranks_of(results: Results, contenders: Sequence[tuple[str, str]], what: str, at: str = "") -> tuple[Floats, Floats]:
    """Return average ranks over tables and repetitions, and over the tables' means of repetitions (as in the paper)."""
    losses_TRM = np.stack([results.losses(*contender, what, at) for contender in contenders], axis=2).round(12)
    return average_ranks(losses_TRM.reshape(-1, len(contenders))), average_ranks(losses_TRM.mean(axis=1).round(12))


def named(contender: tuple[str, str]) -> str:
    """Return the name of a method with a selector."""
    return " + ".join(contender)


def summary(results: Results, contenders: Sequence[tuple[str, str]]) -> Section:
    """Return ranks, means and the gap of each contender, best first, and the cost of its search."""
    what = f"test_{results.metric}"
    over_all, of_means = ranks_of(results, contenders, what)
    found, rows = {}, []
    for place in np.argsort(over_all, kind="stable").tolist():
        method, selector = contender = contenders[place]
        test_TR = results.losses(method, selector, what)
        gap_TR = test_TR - results.losses(method, selector, f"search_{results.metric}")
        cpu = results.figure(method, "propose_cpu").mean()
        found[named(contender)] = {
            "rank": over_all[place],
            "rank_of_means": of_means[place],
            "mean": test_TR.mean(),
            "gap": gap_TR.mean(),
            "search_cpu_seconds": cpu,
        }
        numbers = (f"{over_all[place]:.2f}", f"{of_means[place]:.2f}", f"{test_TR.mean():.4f}", f"{gap_TR.mean():+.4f}")
        rows.append((named(contender), *numbers, f"{cpu:.1f}"))
    losses_TM = np.stack([results.losses(*contender, what).mean(axis=1) for contender in contenders], axis=1)
    note = "Ranks over tables and repetitions; of each table's mean (as in the paper). Gap: test minus search split."
    if len(contenders) > 1 and len(results.tables) > 1:
        value, p = friedman(losses_TM.round(12))
        difference = critical_difference(len(contenders), len(results.tables))
        note += f" Friedman over tables' means: F = {value:.2f}, p = {p:.2g}; critical difference {difference:.2f}."
        found["friedman"] = {"F": value, "p": p, "critical_difference": difference}
    head = ("", "rank", "rank of means", f"test {results.metric}", "gap", "search CPU s")
    return Section("Ranks", head, rows, note, found)


def grid(results: Results) -> Section:
    """Return the average rank of every method with every selector, among all of these."""
    contenders = [(method, selector) for method in results.methods for selector in results.selectors]
    over_all, of_means = ranks_of(results, contenders, f"test_{results.metric}")
    rows, width = [], len(results.selectors)
    for i, method in enumerate(results.methods):
        rows.append((method, *(f"{rank:.2f}" for rank in over_all[i * width : (i + 1) * width])))
    data = {named(c): {"rank": a, "rank_of_means": b} for c, a, b in zip(contenders, over_all, of_means, strict=True)}
    title = f"Average rank among all {len(contenders)} methods with selectors"
    return Section(title, ("", *results.selectors), rows, data=data)


def duels(results: Results, contenders: Sequence[tuple[str, str]]) -> Section:
    """Return comparisons of each contender with each: tables better/same/worse, and Wilcoxon over the tables' means."""
    what = f"test_{results.metric}"
    losses = [results.losses(*contender, what) for contender in contenders]
    pairs = [(i, j) for i in range(len(losses)) for j in range(i + 1, len(losses))]
    p_values = [wilcoxon((losses[i] - losses[j]).mean(axis=1)) for i, j in pairs]
    adjusted = dict(zip(pairs, holm(np.array(p_values)), strict=True))
    single = dict(zip(pairs, p_values, strict=True))
    rows, data = [], {}
    for i, contender in enumerate(contenders):
        cells = []
        for j, other in enumerate(contenders):
            if i == j:
                cells.append("")
                continue
            pair, counts = (min(i, j), max(i, j)), by_table(losses[i], losses[j])
            cells.append(f"{counts}, p {single[pair]:.3f}")
            data[f"{named(contender)} against {named(other)}"] = {
                "tables": str(counts),
                "p": single[pair],
                "p_holm": float(adjusted[pair]),
            }
        rows.append((named(contender), *cells))
    note = (
        f"Tables on which the row is better/same/worse than the column (Wilcoxon over {len(results.repetitions)} "
        "repetitions, 0.05); p of Wilcoxon over the tables' means, two-sided (Holm-corrected in the JSON file)."
    )
    return Section("Against each other", ("", *map(named, contenders)), rows, note, data)


def by_tables(results: Results, contenders: Sequence[tuple[str, str]]) -> Section:
    """Return mean ± standard deviation over repetitions for every table."""
    what, percent = f"test_{results.metric}", results.metric == "error"
    scale, digits = (100, 2) if percent else (1, 4)
    found = [results.losses(*contender, what) * scale for contender in contenders]
    rows = []
    for t, table in enumerate(results.tables):
        spread = [f"{v[t].mean():.{digits}f} ± {_deviation(v[t]):.{digits}f}" for v in found]
        rows.append((table, *spread))
    data = {
        named(c): {t: v[i].tolist() for i, t in enumerate(results.tables)}
        for c, v in zip(contenders, found, strict=True)
    }
    unit = " (%)" if percent else ""
    return Section(
        f"Test {results.metric}{unit}, mean ± standard deviation", ("", *map(named, contenders)), rows, data=data
    )


def _deviation(values: Floats) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def anytime(results: Results, selector: str) -> Section:
    """Return average ranks of the methods with one selector after some evaluations."""
    first = next(iter(results.runs.values()))["selected"][selector]["at"]
    budgets = sorted(first, key=int)
    contenders = [(method, selector) for method in results.methods]
    ranks = [ranks_of(results, contenders, f"test_{results.metric}", at)[0] for at in budgets]
    rows = [(method, *(f"{r[i]:.2f}" for r in ranks)) for i, method in enumerate(results.methods)]
    data = {
        method: {at: float(r[i]) for at, r in zip(budgets, ranks, strict=True)}
        for i, method in enumerate(results.methods)
    }
    return Section(f"Average rank with {selector} by number of evaluations", ("", *budgets), rows, data=data)


def diversity(results: Results) -> Section:
    """Return the diversity of proposals to the pool, over the evaluations."""
    rows, data = [], {}
    for method in results.methods:
        values = np.array(
            [run["trace"]["pool_diversity"] for key, run in results.runs.items() if key[2] == method], float
        )
        mean_E = [float(np.nanmean(column)) if np.isfinite(column).any() else float("nan") for column in values.T]
        phases = [float(np.nanmean(mean_E[low - 1 : high])) for low, high in PHASES if low <= len(mean_E)]
        rows.append((method, *(f"{value:.3f}" for value in phases)))
        data[method] = mean_E
    head = ("", *(f"{low}–{high}" for low, high in PHASES[: len(rows[0]) - 1]))
    note = "Least diversity (eq. 3) of a suggestion to the members that greedy selection of 25 would use by then."
    return Section("Minimum diversity of suggestions", head, rows, note, data)


def costs(results: Results) -> Section:
    """Return CPU seconds of the searches themselves, and the simulated time of the members' training."""
    rows, data = [], {}
    for method in results.methods:
        runs = [run for key, run in results.runs.items() if key[2] == method]
        calls = np.concatenate([run["trace"]["propose_cpu"] for run in runs])
        whole, wall = results.figure(method, "members_seconds"), results.figure(method, "simulated_seconds")
        total = results.figure(method, "propose_cpu").mean()
        flight = runs[0]["in_flight"]
        numbers = {
            "propose_cpu_seconds_total": total,
            "propose_cpu_seconds_median": float(np.median(calls)) if len(calls) else 0.0,
            "members_seconds": whole.mean(),
            "simulated_seconds": wall.mean(),
            "in_flight": flight,
            "speed_up": float(np.median(whole / wall)),
        }
        data[method] = numbers
        cells = (
            f"{numbers['propose_cpu_seconds_median']:.3f}",
            f"{total:.1f}",
            f"{whole.mean():.0f}",
            f"{wall.mean():.0f}",
        )
        rows.append((method, *cells, str(flight), f"{numbers['speed_up']:.2f}"))
    head = ("", "CPU s per proposal", "CPU s in all", "members' s", "simulated wall s", "in flight", "speed-up")
    return Section("Costs", head, rows, "Medians per proposal and of speed-ups; others are means.", data)


def self_tests(results: Results) -> tuple[Section, list[str]]:
    """Return the spreads of the searches' surrogates, and a line for each silent fault."""
    rows, faults, data = [], [], {}
    for method in results.methods:
        runs = [run for key, run in results.runs.items() if key[2] == method]
        seen = {name: _spread(runs, name) for name in ("performance", "performance_std", "diversity", "diversity_std")}
        changed, probed = (sum(run["trace"]["changed"][i] for run in runs) for i in (0, 1))
        data[method] = {**seen, "changed": changed, "probed": probed}
        cells = ["never asked" if value is None else f"{value:.2g}" for value in seen.values()]
        rows.append((method, *cells, f"{changed} of {probed}" if probed else ""))
        faults += _faults(method, runs[0]["spec"], seen, changed, probed)
    head = ("", "performance: spread", "… deviation", "diversity: spread", "… deviation", "picks changed")
    note = (
        "Least, over replays, of the mean spread of predictions and of the mean predicted deviation: 0 is a constant "
        "surrogate, or one that is sure of everything. The last column: picks that the diversity weight changed."
    )
    return Section("Self-tests", head, rows, note, data), faults


def _spread(runs: Sequence[Mapping[str, Any]], name: str) -> float | None:
    found = [run["trace"]["surrogates"][name]["mean"] for run in runs if name in run["trace"]["surrogates"]]
    return min(found) if found else None


def _faults(method: str, spec: Any, seen: Mapping[str, float | None], changed: int, probed: int) -> list[str]:
    kind = spec if isinstance(spec, str) else spec["kind"]
    needs = {"bayes": ("performance",), "rising_bandit": ("performance",), "divbo": ("performance", "diversity")}
    faults = [f"{method}: its {name} surrogate was never asked" for name in needs.get(kind, ()) if seen[name] is None]
    for name in ("performance", "diversity"):
        spread, deviation = seen[name], seen[f"{name}_std"]
        if spread is not None and spread < CONSTANT:
            faults.append(f"{method}: its {name} surrogate is constant")
        if deviation is not None and deviation < CONSTANT:
            faults.append(f"{method}: its {name} surrogate has no variance")
    if probed and not changed:
        faults.append(f"{method}: the diversity weight changed none of {probed} picks")
    return faults
