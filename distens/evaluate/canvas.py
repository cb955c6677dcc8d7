"""Colours, axes and files of all pictures. matplotlib takes half a second to load, so it is loaded only to draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distens.records import Floats
from distens.storage.filesystem import report_failure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette, which colour-blind readers tell apart; without its yellow, too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vPX*<>ph"
GREY, INK = "#9a9a9a", "#333333"
LINE_INCHES = 0.13
"""Height of a line of text; where rows are lower, only every second, fifth, … row is named."""
_LONGEST = 18

METRIC_NAMES = {"nll": "negative log-likelihood (nats)", "error": "error (share of rows)", "rmse": "RMSE", "mae": "MAE"}


def blank(size: tuple[float, float]) -> Figure:
    """Return an empty picture of a size in inches, which is not in matplotlib's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(rows: int = 1, heights: Sequence[float] | None = None, size: tuple[float, float] = (6.4, 4.4)) -> Any:
    """Return a picture, and its panels from top to bottom."""
    figure = blank(size)
    found = figure.subplots(rows, 1, squeeze=False, sharex=rows > 1, height_ratios=heights)[:, 0]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9)
    return figure, found


def write_picture(figure: Figure, path: Path) -> None:
    """Write the picture to a file; equal pictures give equal files.

    Raises:
        StorageFailed: the file cannot be written.
    """
    with report_failure(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None})  # else matplotlib's version is in the file


def ticks(most: int = 10, **options: Any) -> MaxNLocator:
    """Return a locator that puts ticks between at most `most` steps."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, **options)


def shades(*colours: str) -> Colormap:
    """Return a colour map that goes evenly through the colours."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shades", colours)


def tame_axis(axes: Axes, values: Floats) -> None:
    """Make the axis logarithmic if a few values are far larger, which would press the others into a line."""
    good = values[np.isfinite(values) & (values > 0)]
    if len(good) and len(good) == len(values) and good.max() > 8 * np.median(good):
        axes.set_yscale("log")


def legend_outside(axes: Axes) -> None:
    """Put the legend above the picture, where it covers no point."""
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2)


def round_up_step(least: float) -> int:
    """Return the first of 1, 2, 5, 10, 20, … that is at least `least`."""
    return next(step * 10**power for power in range(9) for step in (1, 2, 5) if step * 10**power >= least)


def short(name: str) -> str:
    """Return a long name without its middle: ends tell names apart at least as often as beginnings."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2 - 1]}…{name[-_LONGEST // 2 :]}"
