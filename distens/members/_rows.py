"""The choice of the rows that a member learns from."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from distens.data.dataset import Examples
from distens.records import Integers
from distens.seeding import generator

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
