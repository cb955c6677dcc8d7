"""The pictures of the search benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from _search_stats import cliques

from distens.records import Floats


def critical_differences(path: Path, names: Sequence[str], ranks_M: Floats, difference: float, title: str) -> None:
    """Draw average ranks on a line, best on the left; bars join methods that Nemenyi's test does not separate."""
    from matplotlib.figure import Figure

    order = np.argsort(ranks_M, kind="stable")
    ranks, labels = np.asarray(ranks_M)[order], [names[i] for i in order]
    groups, half = cliques(ranks, difference), (len(ranks) + 1) // 2
    low, high = np.floor(ranks.min()), np.ceil(ranks.max())
    high = max(high, low + 1)
    span = high - low
    bottom = 0.45 + 0.16 * len(groups)
    depth = bottom + 0.32 * half
    figure = Figure(figsize=(9, 1.1 + 0.62 * (depth + 0.9)), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(low - 0.42 * span, high + 0.42 * span)
    axes.set_ylim(-depth, 1.0)
    axes.plot([low, high], [0, 0], color="black", lw=1.2)
    steps = 4 if span <= 3 else 2
    for tick in np.linspace(low, high, int(span) * steps + 1):
        whole = float(tick).is_integer()
        axes.plot([tick, tick], [0, 0.12 if whole else 0.06], color="black", lw=1)
        if whole:
            axes.text(tick, 0.16, f"{tick:.0f}", ha="center", va="bottom", fontsize=10)
    shown = min(difference, span)
    axes.plot([low, low + shown], [0.62, 0.62], color="black", lw=1.6)
    for end in (low, low + shown):
        axes.plot([end, end], [0.56, 0.68], color="black", lw=1.6)
    text = f"critical difference {difference:.2f}" + ("" if difference <= span else " (longer than this line)")
    axes.text(low + shown / 2, 0.72, text, ha="center", va="bottom", fontsize=10)
    for place, (first, last) in enumerate(groups):
        y = -0.22 - 0.16 * place
        margin = 0.006 * span
        axes.plot(
            [float(ranks[first]) - margin, float(ranks[last]) + margin],
            [y, y],
            color="black",
            lw=4,
            solid_capstyle="butt",
        )
    for place, (rank, label) in enumerate(zip(ranks, labels, strict=True)):
        left = place < half
        row = place if left else len(ranks) - 1 - place
        y = -bottom - 0.32 * row
        edge = low - 0.03 * span if left else high + 0.03 * span
        axes.plot([rank, rank, edge], [0, y, y], color="#555555", lw=0.9)
        axes.text(
            edge, y, f"{label}  {rank:.2f} " if left else f" {rank:.2f}  {label}",
            ha="right" if left else "left", va="center", fontsize=10,
        )  # fmt: skip
    axes.set_title(title, fontsize=11)
    figure.savefig(path, dpi=150)


def diversity_over_time(path: Path, mean_E: Mapping[str, Sequence[float]], smooth: int = 10) -> None:
    """Draw the minimum diversity of suggestions, a running mean over `smooth` evaluations, one line per method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, values in mean_E.items():
        known = np.asarray(values, dtype=np.float64)
        windows = [known[max(0, e - smooth + 1) : e + 1] for e in range(len(known))]
        line = np.array([np.nanmean(w) if np.isfinite(w).any() else np.nan for w in windows])
        axes.plot(np.arange(1, len(line) + 1), line, label=name, lw=1.6)
    axes.set_xlabel("evaluation")
    axes.set_ylabel("minimum diversity to the pool")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
