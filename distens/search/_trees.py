"""Predict all pairs of two sets at once with boosted trees over [left; right], without writing the pairs down.

A leaf is reached when all splits on its way say so: those on the left half and those on the right half. With L(leaf, p)
and R(leaf, q) for "p (q) passes all splits on its half", a tree's prediction is the product of matrices
sum over leaves of L(leaf, p) value(leaf) R(leaf, q): exact, and the work grows with P + Q where rows written out
grow with P Q.
"""

from __future__ import annotations

from typing import NamedTuple

import lightgbm
import numpy as np
from numpy.typing import NDArray

from distens.records import Floats


class Tree(NamedTuple):
    """One tree in LightGBM's layout: node k's children are nodes (>= 0) or leaves (~leaf); parents come first."""

    feature: NDArray[np.int64]
    threshold: Floats
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: Floats


def read_trees(booster: lightgbm.Booster) -> list[Tree]:
    """Return a booster's trees (numeric splits, no missing values) from its text form."""
    trees = []
    for block in booster.model_to_string().split("\nTree=")[1:]:
        fields = dict(line.split("=", 1) for line in block.split("\n\n")[0].split("\n") if "=" in line)

        def numbers(name: str, kind: type, fields: dict[str, str] = fields) -> NDArray:
            return np.array(fields.get(name, "").split(), dtype=kind)

        trees.append(
            Tree(
                numbers("split_feature", int),
                numbers("threshold", float),
                numbers("left_child", int),
                numbers("right_child", int),
                numbers("leaf_value", float),
            )
        )
    return trees


class Partners:
    """One half of all pairs to come: what its settings pass on the way to every leaf, in bits, worked out once.

    Args:
        trees: grown on rows [enc; enc] of twice the width of `right_QD`.
    """

    def __init__(self, trees: list[Tree], right_QD: Floats) -> None:
        self._trees, self._count, width = trees, len(right_QD), right_QD.shape[1]
        right_DQ = np.ascontiguousarray(right_QD.T)
        halves = ([_passes(tree, right_DQ, half * width) for half in (1, 0)] for tree in trees)
        self._bits = [np.packbits(np.concatenate(half), axis=1) for half in halves]

    def predict(self, left_PD: Floats) -> Floats:
        """Return, for every pair, the mean of both orders' predictions: (f([p; q]) + f([q; p])) / 2, shape P x Q."""
        width = left_PD.shape[1]
        left_DP = np.ascontiguousarray(left_PD.T)
        total_PQ = np.zeros((len(left_PD), self._count), dtype=np.float32)
        for tree, bits in zip(self._trees, self._bits, strict=True):
            left = np.concatenate([_passes(tree, left_DP, half * width) for half in (0, 1)])
            reached = np.flatnonzero(left.any(axis=1))
            values = np.tile(tree.value, 2)[reached].astype(np.float32)
            right = np.unpackbits(bits[reached], axis=1, count=self._count).astype(np.float32)
            total_PQ += (left[reached] * values[:, None]).T @ right
        return total_PQ.astype(np.float64) / 2.0


def _passes(tree: Tree, features_DQ: Floats, start: int) -> NDArray[np.bool_]:
    """Return (leaf, Q): whether all splits on features start … start + D, on the way to the leaf, are passed."""
    width, columns = features_DQ.shape
    nodes = [np.ones(columns, dtype=bool)] * max(1, len(tree.feature))
    leaves = np.ones((len(tree.value), columns), dtype=bool)
    splits = zip(tree.feature.tolist(), tree.threshold.tolist(), tree.left.tolist(), tree.right.tolist(), strict=True)
    for node, (feature, threshold, left, right) in enumerate(splits):
        here = nodes[node]
        below = above = here
        if start <= feature < start + width:
            passed = features_DQ[feature - start] <= threshold
            below, above = here & passed, here & ~passed
        for child, reached in ((left, below), (right, above)):
            if child < 0:
                leaves[~child] = reached
            else:
                nodes[child] = reached
    return leaves
