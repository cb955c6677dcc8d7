"""Pictures of a run as PNG files. Every function takes arrays and a path, and touches no global state of matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from distens.evaluate.canvas import (
    COLOURS,
    GREY,
    INK,
    MARKERS,
    METRIC_NAMES,
    legend_outside,
    panels,
    tame_axis,
    ticks,
    write_picture,
)
from distens.records import Floats, Integers
from distens.targets._class_measures import BINS, mass_bins

_LABELLED_BARS = 30
"""The largest number of bars that have room for names."""


def reliability(curves: Mapping[str, Floats], labels_N: Integers, path: Path) -> None:
    """Draw confidence against accuracy in 15 bins of equal count, and below it a histogram of the rows' confidence.

    Args:
        curves: name -> probs_NC, in the order of the legend.
        labels_N: labels of the same rows.
    """
    figure, (upper, lower) = panels(2, (3, 1), (6.0, 6.2))
    lowest = np.floor(10 * min(0.99, *(np.max(p, axis=1).min() for p in curves.values()))) / 10
    edges = np.linspace(lowest, 1, 26)
    for number, (name, probs_NC) in enumerate(curves.items()):
        bins = mass_bins(probs_NC, labels_N)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        x, y = [b.confidence for b in bins], [b.accuracy for b in bins]
        upper.plot(x, y, marker=marker, color=colour, label=name, linewidth=1.4, markersize=5, clip_on=False, zorder=3)
        counts, _ = np.histogram(np.max(probs_NC, axis=1), bins=edges)
        lower.stairs(counts, edges, color=colour, linewidth=1.4)
    upper.plot([lowest, 1], [lowest, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    upper.set(
        xlim=(lowest, 1),
        ylim=(None, 1),
        ylabel=f"accuracy (share of correct rows, in bins of {_bin_size(len(labels_N))})",
    )
    legend_outside(upper)
    lower.set_yscale("symlog", linthresh=1)
    lower.set(ylabel=f"rows (of {len(labels_N):,})", xlabel="confidence (highest class probability)", ylim=(0, None))
    write_picture(figure, path)


def predictions(curves: Mapping[str, Floats], targets_N: Floats, path: Path) -> None:
    """Draw predictions against targets, a mark for each row.

    Args:
        curves: name -> predictions_N1, in the order of the legend.
        targets_N: targets of the same rows.
    """
    figure, (axes,) = panels(size=(6.0, 5.4))
    for number, (name, predictions_NK) in enumerate(curves.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.scatter(targets_N, predictions_NK[:, 0], s=14, marker=marker, color=colour, alpha=0.6, label=name)
    ends = [float(targets_N.min()), float(targets_N.max())]
    axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, label="right")
    axes.set(xlabel="target", ylabel="prediction")
    legend_outside(axes)
    write_picture(figure, path)


def _bin_size(rows: int) -> str:
    small, more = max(1, rows // BINS), rows % BINS if rows > BINS else 0
    return f"{small:,}{f' or {small + 1:,}' if more else ''} row{'s' * (small + more > 1)}"


def draw_diversity(
    values_M: Floats, diversity_M: Floats, weights_M: Floats, families: Sequence[str], metric: str, path: Path
) -> None:
    """Draw every member's metric against its diversity, with a marker for each family.

    Selected members are in colour, with an area by weight.

    Args:
        values_M: the metric on the *search* split.
        diversity_M: mean diversity to the selection; a member without one is NaN and is left out.
        weights_M: 0 for members that were not selected.
        families: the family of each member.
        metric: the name of the metric, e.g. `nll`.
    """
    figure, (axes,) = panels()
    values_M, diversity_M, weights_M = (np.asarray(v, dtype=np.float64) for v in (values_M, diversity_M, weights_M))
    largest = max(float(weights_M.max(initial=0)), 1e-12)
    selected_M = weights_M > 0
    for number, family in enumerate(sorted(set(families))):
        of_M = np.array([f == family for f in families], dtype=bool)
        marker = MARKERS[number % len(MARKERS)]
        rest, chosen = of_M & ~selected_M, of_M & selected_M
        axes.scatter(diversity_M[rest], values_M[rest], s=26, marker=marker, color=GREY, alpha=0.6, linewidths=0)
        sizes = 30 + 190 * weights_M[chosen] / largest
        axes.scatter(
            diversity_M[chosen],
            values_M[chosen],
            s=sizes,
            marker=marker,
            facecolor=COLOURS[0] + "b0",
            edgecolor=INK,
            linewidths=0.7,
            zorder=3,
        )
        axes.scatter([], [], s=36, marker=marker, color=INK, label=family)
    axes.scatter([], [], s=60, marker="o", facecolor=COLOURS[0] + "b0", edgecolor=INK, label="selected (area: weight)")
    if not selected_M.all():
        axes.scatter([], [], s=26, marker="o", color=GREY, alpha=0.6, linewidths=0, label="not selected")
    tame_axis(axes, values_M)
    axes.xaxis.set_major_locator(ticks(6))
    axes.set(xlabel="mean diversity to the selection", ylabel=METRIC_NAMES.get(metric, metric) + ", search split")
    legend_outside(axes)
    write_picture(figure, path)


def weights(weights: Mapping[str, float], path: Path) -> None:
    """Draw the selected members' weights, largest first.

    Args:
        weights: member's id -> weight.
    """
    names = sorted(weights, key=lambda name: (-weights[name], name))
    values = [weights[name] for name in names]
    labelled = len(names) <= _LABELLED_BARS
    height = max(2.2, 1.2 + 0.26 * len(names)) if labelled else 4.4
    figure, (axes,) = panels(size=(6.4, height))
    if labelled:
        axes.barh(names, values, color=COLOURS[0], height=0.62)
        axes.set_ylim(len(names) - 0.3, -0.7)  # the largest on top; a single bar does not fill the picture
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel="weight (share of one)", xlim=(0, 1.12 * values[0]))
        for place, value in enumerate(values):
            axes.annotate(f"{value:.3f}", (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    else:
        axes.bar(np.arange(1, len(names) + 1), values, color=COLOURS[0], width=1.0)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel=f"selected members ({len(names)}), largest weight first", ylabel="weight (share of one)")
        axes.set_xlim(0.4, len(names) + 0.6)
    write_picture(figure, path)


def progress(values_T: Floats, ensemble_T: Floats, metric: str, path: Path, higher: bool = False) -> None:
    """Draw the search: each finished member in order of arrival, the best so far, the ensemble so far.

    Args:
        values_T: the metric on the *search* split, in order of arrival.
        ensemble_T: the metric of the ensemble of the members so far; NaN where it was not measured.
        metric: the name of the metric, e.g. `nll`.
        higher: True if a higher value is better.
    """
    figure, (axes,) = panels()
    values_T, ensemble_T = np.asarray(values_T, dtype=np.float64), np.asarray(ensemble_T, dtype=np.float64)
    step_T = np.arange(1, len(values_T) + 1)
    small = len(values_T) < 60
    axes.scatter(step_T, values_T, s=18 if small else 9, color=GREY, alpha=0.8, linewidths=0, label="member")
    best_T = (np.maximum if higher else np.minimum).accumulate(values_T)
    marker = "o" if len(values_T) == 1 else None
    axes.step(step_T, best_T, where="post", color=COLOURS[1], linewidth=1.6, marker=marker, label="best single so far")
    measured = np.isfinite(ensemble_T)
    if measured.any():
        marker = "s" if measured.sum() < 30 else None
        axes.step(
            step_T[measured],
            ensemble_T[measured],
            where="post",
            color=COLOURS[0],
            linewidth=1.8,
            marker=marker,
            markersize=3.5,
            label="ensemble so far",
        )
    tame_axis(axes, np.concatenate([values_T, ensemble_T[measured]]))
    axes.set(xlabel="finished members, in order of arrival", ylabel=METRIC_NAMES.get(metric, metric) + ", search split")
    axes.xaxis.set_major_locator(ticks(integer=True, min_n_ticks=1))
    axes.set_xlim(min(0.5, 1 - 0.02 * len(values_T)), len(values_T) + max(0.5, 0.02 * len(values_T)))
    legend_outside(axes)
    write_picture(figure, path)
