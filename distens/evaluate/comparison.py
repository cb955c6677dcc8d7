"""Plain sentences that tell if one row of the table is better than another by more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from distens.records import Floats
from distens.targets.protocol import Phrase


def paired_difference(one_N: Floats, other_N: Floats) -> tuple[float, float]:
    """Return the mean difference of the losses of two rows of the table, and its standard error.

    Differences are taken unit by unit, so that units that are hard for both cancel. The standard error, s / sqrt(N) of
    the units' differences, covers the choice of test rows only, not the choice of seeds. With one unit it is infinite.

    Args:
        one_N, other_N: the losses of both, on the same units.
    """
    difference_N = np.asarray(one_N) - np.asarray(other_N)
    return float(difference_N.mean()), _error(difference_N)


def _error(values_N: Floats) -> float:
    return float(values_N.std(ddof=1) / np.sqrt(len(values_N))) if len(values_N) > 1 else float("inf")


COMPARISONS = (
    ("ensemble", "best_single"),
    ("ensemble", "larger_single"),
    ("ensemble", "seed_ensemble"),
    ("refit", "ensemble"),
    ("student", "ensemble"),
    ("student", "student_on_labels"),
)
"""The pairs of rows that are compared, where the table has both."""


def verdict(
    rows: Mapping[str, Mapping[str, float]],
    losses: Mapping[str, Mapping[str, Floats]],
    phrases: Sequence[Phrase],
    units: str = "test rows",
) -> list[str]:
    """Return plain sentences about which rows won and which lost.

    Args:
        rows: the table: row name -> column -> value.
        losses: row name -> measure -> losses on the *test* split, whose means the table shows.
        phrases: the words of the run's target for its measures.
        units: the name of the units, in the plural.
    """
    lines = [" ".join(_best(phrase, rows) for phrase in phrases)]
    for name, other in COMPARISONS:
        if name in losses and other in losses:
            parts = [_part(phrase, rows[name], rows[other], losses[name], losses[other]) for phrase in phrases]
            lines.append(f"{name} against {other}: {', '.join(parts)}.")
    if len(lines) > 1:
        count = len(next(iter(next(iter(losses.values())).values())))
        lines.append(
            f"Each difference is given with one standard error, paired over the {count} {units}; a "
            "difference of less than two counts as not distinguishable. The effect of other seeds is not included."
        )
    return lines


def _best(phrase: Phrase, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return a sentence that names the best row, and every row whose printed value equals the best."""
    printed = {name: phrase.printed(row[phrase.column]) for name, row in rows.items()}
    best = (max if phrase.higher else min)(rows, key=lambda name: rows[name][phrase.column])
    names = [name for name, value in printed.items() if value == printed[best]]
    return f"{'Highest' if phrase.higher else 'Lowest'} {phrase.name}: {' and '.join(names)} ({printed[best]})."


def _part(
    phrase: Phrase,
    one: Mapping[str, float],
    other: Mapping[str, float],
    one_losses: Mapping[str, Floats],
    other_losses: Mapping[str, Floats],
) -> str:
    pair = (one_losses[phrase.loss], other_losses[phrase.loss])
    shown, error = paired_difference(*reversed(pair) if phrase.higher else pair)
    return (
        f"{_outcome(shown if phrase.higher else -shown, error)} on {phrase.name} "
        f"({phrase.printed(one[phrase.column])} against {phrase.printed(other[phrase.column])}: "
        f"{phrase.difference(shown, error)})"
    )


def _outcome(gain: float, error: float) -> str:
    if abs(gain) < 1e-9:  # the same predictions, summed in two ways
        return "level"
    if abs(gain) > 2 * error:
        return "won" if gain > 0 else "lost"
    return "not distinguishable (ahead)" if gain > 0 else "not distinguishable (behind)"
