"""Figures of a federation: its rounds, its clients' shares in them, and the images that a server made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distens.evaluate.canvas import (
    COLOURS,
    INK,
    LINE_INCHES,
    MARKERS,
    METRIC_NAMES,
    blank,
    legend_outside,
    panels,
    round_up_step,
    shades,
    short,
    tame_axis,
    ticks,
    write_picture,
)
from distens.records import Floats, Integers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

NOT_ASKED, MERGED, REFUSED, FAILED = range(4)
"""The outcome of a client in a round."""

_OUTCOMES = {MERGED: "merged", REFUSED: "refused", FAILED: "failed"}
_COLOUR_OF = {MERGED: "#9cc5e3", REFUSED: COLOURS[1], FAILED: "#3b3b3b"}
_SIGN_OF = {REFUSED: "×", FAILED: "–"}

# The least share is not white: white is the cell of a client that was not drawn.
_SHADES = ("#d6e6f2", "#8dbbdc", COLOURS[0], "#07304d")
_SIGNED_INCHES = 0.1
"""Cells smaller than this have a colour but no sign for what went wrong."""

_NAMES = {
    **METRIC_NAMES,
    "loss": "clients' mean loss (nats)",
    "generator_loss": "generator's loss",
    "student_loss": "student's loss",
    "effective_members": "effective members",
}
_ACROSS, _DOWN, _PIXELS = 8, 8, 960
"""The made-up images in a row and in a column of their figure, and the figure's width, about, in pixels."""


def rounds(values: Mapping[str, Floats], outcomes_KT: Integers, path: Path) -> None:
    """Draw one panel per metric; and below them, if any update is missing, the outcomes of the clients that were drawn.

    Args:
        values: metric (`nll`, `error`, …) -> values_T, one number a round; NaN where it was not measured.
        outcomes_KT: the outcome of every client in every round: `NOT_ASKED`, `MERGED`, `REFUSED` or `FAILED`.
        path: the PNG file.
    """
    missing = bool((outcomes_KT > MERGED).any())
    heights = [2.9 if len(values) == 1 else 2.2] * len(values) + [1.4] * missing
    figure, found = panels(len(heights), heights, (6.4, 0.9 + sum(heights)))
    round_T = np.arange(1, outcomes_KT.shape[1] + 1)
    for axes, (name, values_T) in zip(found, values.items(), strict=False):
        marker = "o" if len(round_T) <= 40 else None
        axes.plot(round_T, values_T, color=COLOURS[0], marker=marker, markersize=4, linewidth=1.6)
        tame_axis(axes, values_T[np.isfinite(values_T)])
        axes.set_ylabel(_NAMES.get(name, name))
    if missing:
        _count(found[-1], outcomes_KT, round_T)
    _number_rounds(found[-1], len(round_T))
    write_picture(figure, path)


def _count(axes: Axes, outcomes_KT: Integers, round_T: Integers) -> None:
    below_T = np.zeros(len(round_T))
    for outcome, name in _OUTCOMES.items():
        count_T = (outcomes_KT == outcome).sum(axis=0)
        if count_T.any():
            few = len(round_T) <= 60
            axes.bar(round_T, count_T, 0.72 if few else 1.0, below_T, color=_COLOUR_OF[outcome], label=name, lw=0)
            below_T = below_T + count_T
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_locator(ticks(4, integer=True))
    axes.set(ylabel="clients", ylim=(0, 1.06 * below_T.max()))
    legend_outside(axes)


def _number_rounds(axes: Axes, count: int) -> None:
    axes.xaxis.set_major_locator(ticks(integer=True, min_n_ticks=1))
    axes.set(xlabel="round", xlim=(0.4 if count <= 60 else 1, count + (0.6 if count <= 60 else 0)))


def shares(shares_KT: Floats, outcomes_KT: Integers, names: Sequence[str], path: Path) -> None:
    """Draw the share of every client's update in every round; white where the client was not drawn.

    Args:
        shares_KT: read where an update was merged; NaN there if the rule merges number by number.
        outcomes_KT: as in `rounds`.
        names: the clients' names, from the top.
        path: the PNG file.
    """
    from matplotlib.colors import Normalize, to_rgb

    clients, count = outcomes_KT.shape
    row, column = min(0.28, 6.4 / clients), min(0.42, 7.2 / count)
    width, height = max(4.4, count * column), max(1.0, clients * row)
    figure = blank((width + 1.4, height + 1.2))
    axes = figure.subplots()
    counted_KT = (outcomes_KT == MERGED) & np.isfinite(shares_KT)
    norm = Normalize(0, max(1e-12, float(shares_KT[counted_KT].max(initial=0))))
    cells_KT3 = np.ones((clients, count, 3))
    for outcome, colour in _COLOUR_OF.items():
        cells_KT3[outcomes_KT == outcome] = to_rgb(colour)
    colours = shades(*_SHADES)
    cells_KT3[counted_KT] = colours(norm(shares_KT[counted_KT]))[:, :3]
    extent = (0.5, count + 0.5, clients - 0.5, -0.5)
    axes.imshow(cells_KT3, aspect="auto", interpolation="nearest", extent=extent)
    if min(height / clients, width / count) >= _SIGNED_INCHES:
        axes.set_yticks(np.arange(1, clients) - 0.5, minor=True)
        axes.set_xticks(np.arange(1, count) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        for outcome, sign in _SIGN_OF.items():
            for client, number in np.argwhere(outcomes_KT == outcome):
                axes.text(number + 1, client, sign, ha="center", va="center", fontsize=8, color="white")
    _explain(figure, axes, colours, norm if counted_KT.any() else None, outcomes_KT)
    shown_K = range(0, clients, round_up_step(LINE_INCHES / row))
    axes.set_yticks(shown_K, [short(names[k]) for k in shown_K])
    axes.xaxis.set_major_locator(ticks(max(3, int(width / 0.45)), integer=True, min_n_ticks=1))
    axes.tick_params(which="both", colors=INK, labelsize=8, length=0)
    axes.set(xlabel="round", ylabel=f"client ({clients} in all)")
    axes.spines[:].set_color("#e6e6e6")
    write_picture(figure, path)


def _explain(figure: Figure, axes: Axes, colours: Colormap, norm: Normalize | None, outcomes_KT: Integers) -> None:
    """Explain the colours: a scale of shades, and patches for what went wrong."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.patches import Patch

    told = [outcome for outcome in _OUTCOMES if (outcome != MERGED or norm is None) and (outcomes_KT == outcome).any()]
    if told:
        patches = [Patch(color=_COLOUR_OF[outcome], label=_OUTCOMES[outcome]) for outcome in told]
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
        axes.legend(handles=patches, frameon=False, fontsize=8, ncols=3, handlelength=1.0, **place)
    if norm is not None:
        scale = figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.02, aspect=30, fraction=0.05)
        scale.locator = ticks(5)
        scale.outline.set_visible(False)
        scale.ax.tick_params(labelsize=8, colors=INK, length=0)
        scale.set_label("share of the round", fontsize=9)


def curves(values: Mapping[str, Mapping[str, Floats]], path: Path) -> None:
    """Draw one panel per quantity, with a line for each distiller that has it.

    Args:
        values: distiller -> quantity -> one number an epoch.
        path: the PNG file.
    """
    there = {name for own in values.values() for name in own}
    order = [*(name for name in _NAMES if name in there), *sorted(there - set(_NAMES))]
    figure, found = panels(len(order), None, (6.4, 0.9 + 2.3 * len(order)))
    for axes, name in zip(found, order, strict=True):
        for number, (distiller, own) in enumerate(values.items()):
            if name in own:
                look = {"color": COLOURS[number % len(COLOURS)], "label": distiller, "linewidth": 1.5}
                few = MARKERS[number % len(MARKERS)] if len(own[name]) <= 30 else None
                axes.plot(np.arange(1, len(own[name]) + 1), own[name], marker=few, markersize=4, **look)
        axes.set_ylabel(_NAMES.get(name, name.replace("_", " ")))
    handles = {line.get_label(): line for axes in found for line in axes.lines}
    found[0].legend(
        handles=[handles[name] for name in values if name in handles],
        frameon=False,
        fontsize=9,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        borderaxespad=0.2,
    )
    found[-1].xaxis.set_major_locator(ticks(integer=True, min_n_ticks=1))
    found[-1].set_xlabel("epoch")
    write_picture(figure, path)


def pool(images: Floats, low: Floats, high: Floats, path: Path) -> None:
    """Draw the first 64 images as they are, side by side: in colour if they have three channels, else their mean.

    Args:
        images: (n, channels, height, width).
        low, high: the numbers drawn black and white; broadcast to an image.
        path: the PNG file.
    """
    from matplotlib.image import imsave

    span = np.maximum(np.asarray(high, dtype=np.float64) - low, 1e-12)
    shown = np.clip((images[: _ACROSS * _DOWN].astype(np.float64) - low) / span, 0, 1)
    if shown.shape[1] != 3:
        shown = np.repeat(shown.mean(axis=1, keepdims=True), 3, axis=1)
    count, wide_pixels = len(shown), shown.shape[3]
    columns, size = min(count, _ACROSS), max(1, _PIXELS // (_ACROSS * wide_pixels))
    large = shown.repeat(size, axis=2).repeat(size, axis=3)
    gap = max(2, wide_pixels * size // 20)
    lines = -(-count // columns)
    step_y, step_x = large.shape[2] + gap, large.shape[3] + gap
    sheet = np.ones((lines * step_y + gap, columns * step_x + gap, 3))
    for place, image in enumerate(large):
        y, x = gap + place // columns * step_y, gap + place % columns * step_x
        sheet[y : y + large.shape[2], x : x + large.shape[3]] = image.transpose(1, 2, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    no_version: Any = {"Software": None}
    imsave(path, sheet, metadata=no_version)
