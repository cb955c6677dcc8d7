"""The choice of the rows that a member learns from."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from distens.data.dataset import Examples
from distens.errors import Refused
from distens.records import Integers
from distens.seeding import generator
from distens.training.context import Context

VALIDATION_FRACTION = 10
"""One in so many rows of *train* is held back from a module that validates."""

Rows = Literal["all", "bootstrap"]
"""The choices of rows: `all`, or `bootstrap`: N of the N rows, drawn with replacement by the member's seed (Breiman
1996, "Bagging Predictors", section 1); a rare class may be missing from a bootstrap."""


def choose_rows(rows: Rows, count: int, seed: int) -> Integers:
    """Return the chosen rows' numbers, as many as `count`."""
    if rows == "all":
        return np.arange(count)
    return generator(seed, "bootstrap").integers(0, count, count)


def select_examples(examples: Examples, rows: Rows, seed: int) -> Examples:
    """Return the examples of the chosen rows; for `all`, the given examples without a copy."""
    if rows == "all":
        return examples
    picked_N = choose_rows(rows, len(examples.inputs), seed)
    return replace(examples, inputs=examples.inputs[picked_N], targets=examples.targets[picked_N])


def of_fold(examples: Examples, context: Context) -> Examples:
    """Return the examples of the context's fold, on their own scale; without a fold, the given examples."""
    return examples if context.fold is None else examples.of_fold(context.fold)


def hold_back_rows(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """Return examples in two parts: to learn from, and to validate on; labels have the same shares in both.

    Raises:
        Refused: there are fewer than two rows.
    """
    rows = len(examples.inputs)
    if rows < 2:
        raise Refused(f"{rows} row is too few to hold back rows for validation_step")
    order_N = generator(seed, "validation").permutation(rows)
    if examples.targets.ndim == 1 and np.issubdtype(examples.targets.dtype, np.integer):
        order_N = order_N[np.argsort(examples.targets[order_N], kind="stable")]
    held = np.zeros(rows, dtype=bool)
    held[order_N[min(VALIDATION_FRACTION, rows) // 2 :: VALIDATION_FRACTION]] = True
    learned, validation = (
        replace(examples, inputs=examples.inputs[part], targets=examples.targets[part]) for part in (~held, held)
    )
    return learned, validation
