"""A report on live runs: ranks, errors relative to a reference, CPU seconds really used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _search_report import Section
from _search_stats import average_ranks, wilcoxon

from distens.records import Floats

Found = Mapping[tuple[str, int, str], Mapping[str, Any]]
"""(table, repetition, method) -> a result of `_search_live`."""


def values(found: Found, method: str, what: str) -> Floats:
    """Return (tables, repetitions) of one figure."""
    tables = list(dict.fromkeys(table for table, _, _ in found))
    repetitions = sorted({repetition for _, repetition, _ in found})
    return np.array([[found[table, r, method][what] for r in repetitions] for table in tables], dtype=np.float64)


def relative(losses_TR: Floats, reference_TR: Floats) -> Floats:
    """Return (mean of the first - mean of the reference) / mean of the reference, by table: (T,).

    With a reference without errors, any error would be infinitely worse: such tables are NaN.
    """
    mean_T, reference_T = losses_TR.mean(axis=1), reference_TR.mean(axis=1)
    return np.where(reference_T > 0, (mean_T - reference_T) / np.where(reference_T > 0, reference_T, 1.0), np.nan)


def sections(found: Found, methods: Sequence[str], reference: str) -> list[Section]:
    """Return a table of ranks and costs for each metric, and one of test errors by table."""
    made = [_ranks(found, methods, reference, metric) for metric in ("error", "nll")]
    tables = list(dict.fromkeys(table for table, _, _ in found))
    cells = {method: values(found, method, "error") * 100 for method in methods}
    rows = [
        (table, *(f"{cells[m][t].mean():.2f} ± {_deviation(cells[m][t]):.2f}" for m in methods))
        for t, table in enumerate(tables)
    ]
    data = {m: {table: cells[m][t].tolist() for t, table in enumerate(tables)} for m in methods}
    title = "Test error (%), mean ± standard deviation"
    return [*made, Section(title, ("", *methods), rows, data=data)]


def _ranks(found: Found, methods: Sequence[str], reference: str, metric: str) -> Section:
    losses = {method: values(found, method, metric) for method in methods}
    stacked_TRM = np.stack(list(losses.values()), axis=2).round(12)
    ranks_M = average_ranks(stacked_TRM.reshape(-1, len(methods)))
    rows, data = [], {}
    for method, rank in zip(methods, ranks_M, strict=True):
        differs_T = relative(losses[method], losses[reference])
        cpu, members = (values(found, method, what) for what in ("cpu_seconds", "members"))
        p = wilcoxon((losses[method] - losses[reference]).mean(axis=1)) if method != reference else float("nan")
        numbers = {
            "rank": float(rank),
            "mean": float(losses[method].mean()),
            "relative": float(np.nanmean(differs_T)) if np.isfinite(differs_T).any() else float("nan"),
            "p": p,
            "cpu_seconds": float(cpu.mean()),
            "members": float(members.mean()),
        }
        data[method] = numbers
        cells = (f"{rank:.2f}", f"{numbers['mean']:.4f}", f"{numbers['relative']:+.1%}", f"{p:.3f}")
        rows.append((method, *cells, f"{cpu.mean():.0f} ({cpu.min():.0f}–{cpu.max():.0f})", f"{members.mean():.0f}"))
    head = ("", "rank", f"test {metric}", f"relative to {reference}", "p", "CPU s used", "members")
    note = "Ranks over tables and repetitions; p: Wilcoxon over the tables' means against the reference."
    return Section(f"Ranks by test {metric}", head, rows, note, data)


def _deviation(values_R: Floats) -> float:
    return float(values_R.std(ddof=1)) if len(values_R) > 1 else float("nan")
