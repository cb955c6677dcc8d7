"""A figure of a partition: the rows of each class that every client has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distens.evaluate.canvas import COLOURS, INK, LINE_INCHES, blank, round_up_step, shades, short, ticks, write_picture
from distens.records import Integers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import PowerNorm

_WRITTEN = (30, 16)
"""The most clients and classes for which numbers are written into the cells; beyond, a scale of shades stands above."""


def draw_partition(counts_KC: Integers, names: Sequence[str], class_names: Sequence[str], path: Path) -> None:
    """Draw the numbers of rows of each class that every client has, and their sums.

    Args:
        counts_KC: the numbers of rows.
        names: the clients' names, from the top.
        class_names: the classes' names, from the left.
        path: the PNG file.
    """
    from matplotlib.colors import PowerNorm

    clients, classes = counts_KC.shape
    row, column = (min(most, room / n) for most, room, n in ((0.28, 8.0, clients), (0.5, 6.0, classes)))
    width, height = max(2.0, classes * column), max(1.2, clients * row)
    figure = blank((width + 2.6, height + 0.9))
    cells, bars = figure.subplots(1, 2, sharey=True, width_ratios=(width, 1.5))
    # Shades go by the square root: a few rows of a class, beside thousands of another, still differ from none.
    norm = PowerNorm(0.5, vmin=0, vmax=max(1, int(counts_KC.max())))
    colours = shades("#ffffff", "#cfe2f1", "#7fb3d9", COLOURS[0], "#07304d")
    image = cells.imshow(counts_KC, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    if clients <= _WRITTEN[0] and classes <= _WRITTEN[1]:
        _write_counts(cells, counts_KC, norm)
    else:
        scale = figure.colorbar(image, ax=cells, location="top", aspect=50, pad=0.01, shrink=0.7)
        scale.locator = ticks(5, integer=True)
        scale.ax.tick_params(labelsize=8, colors=INK)
        scale.set_label("rows of a class", fontsize=9)
    _name(cells, names, class_names, row, column)
    _draw_sizes(bars, counts_KC.sum(axis=1), row >= LINE_INCHES)
    write_picture(figure, path)


def _write_counts(axes: Axes, counts_KC: Integers, norm: PowerNorm) -> None:
    for (client, label), count in np.ndenumerate(counts_KC):
        if count:
            colour = "white" if float(norm(count)) > 0.6 else INK
            axes.text(label, client, f"{count:,}", ha="center", va="center", fontsize=7, color=colour)


def _name(axes: Axes, names: Sequence[str], class_names: Sequence[str], row: float, column: float) -> None:
    """Label as many rows and columns as there is room for."""
    shown_K = range(0, len(names), round_up_step(LINE_INCHES / row))
    axes.set_yticks(shown_K, [short(names[k]) for k in shown_K])
    labels = [short(name) for name in class_names]
    upright = max(map(len, labels)) * 0.08 > column
    shown_C = range(0, len(labels), round_up_step(LINE_INCHES / column) if upright else 1)
    axes.set_xticks(shown_C, [labels[c] for c in shown_C], rotation=90 if upright else 0)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.set(xlabel="class", ylabel=f"client ({len(names)} in all)")
    axes.spines[:].set_color("#e6e6e6")


def _draw_sizes(axes: Axes, sizes_K: Integers, written: bool) -> None:
    axes.barh(np.arange(len(sizes_K)), sizes_K, color=COLOURS[0], height=0.7 if written else 1.0, linewidth=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.xaxis.set_major_locator(ticks(2, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="rows", xlim=(0, (1.6 if written else 1.05) * sizes_K.max()))
    if written:
        for client, size in enumerate(sizes_K.tolist()):
            axes.annotate(f"{size:,}", (size, client), (3, 0), textcoords="offset points", va="center", fontsize=7)
