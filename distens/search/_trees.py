"""Predictions of boosted trees over [left; right] for all pairs of two sets at once, without a row for each pair.

A leaf is reached if all splits on the path to it are passed: those on the left half and those on the right half. With
L(leaf, p) and R(leaf, q) for "p (q) passes all splits on its half", a tree's prediction is the product of matrices
sum over leaves of L(leaf, p) value(leaf) R(leaf, q). This is exact, and splits are evaluated for P + Q settings, where
rows written out would need P Q.
"""

from __future__ import annotations

from collections.abc import Iterator
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


LEAVES_PER_BLOCK = 256
"""The number of leaves whose bits are unpacked at a time."""


class Partners:
    """The Q settings on one side of all pairs, with the leaves whose splits on their half they pass, computed once.

    Args:
        trees: trees grown on rows [enc; enc], of twice the width of `right_QD`.
        right_QD: the encoded settings.
    """

    def __init__(self, trees: list[Tree], right_QD: Floats) -> None:
        self._trees, self._count = trees, len(right_QD)
        self._values = np.tile(np.concatenate([tree.value for tree in trees]), 2).astype(np.float32)
        right_DQ = np.ascontiguousarray(right_QD.T)
        self._bits = np.concatenate([np.packbits(leaves, axis=1) for leaves in self._leaves(right_DQ, (1, 0))])

    def _leaves(self, features_DQ: Floats, halves: tuple[int, int]) -> Iterator[NDArray[np.bool_]]:
        """Yield `_passes` of each tree, with the settings as one half of a pair and then as the other."""
        return (_passes(tree, features_DQ, half * len(features_DQ)) for half in halves for tree in self._trees)

    def predict(self, left_PD: Floats) -> Floats:
        """Return, for every pair, the mean of both orders' predictions: (f([p; q]) + f([q; p])) / 2, shape P x Q."""
        return self._sum(np.concatenate(list(self._leaves(np.ascontiguousarray(left_PD.T), (0, 1)))))

    def predict_one(self, place: int) -> Floats:
        """Return the same predictions, 1 x Q, for one of the partners; the splits that it passes are known."""
        byte, bit = divmod(place, 8)
        passed = self._bits[:, byte] & (128 >> bit) != 0
        return self._sum(np.roll(passed, len(passed) // 2)[:, None])

    def _sum(self, left_LP: NDArray[np.bool_]) -> Floats:
        """Return half the sum over leaves of L(leaf, p) value(leaf) R(leaf, q), with `left_LP` as L: shape P x Q."""
        total_PQ = np.zeros((left_LP.shape[1], self._count), dtype=np.float32)
        reached = np.flatnonzero(left_LP.any(axis=1))
        for leaves in np.split(reached, range(LEAVES_PER_BLOCK, len(reached), LEAVES_PER_BLOCK)):
            right = np.unpackbits(self._bits[leaves], axis=1, count=self._count).astype(np.float32)
            total_PQ += (left_LP[leaves] * self._values[leaves, None]).T @ right
        return total_PQ.astype(np.float64) / 2.0


def _passes(tree: Tree, features_DQ: Floats, start: int) -> NDArray[np.bool_]:
    """Return (leaf, Q), True if all splits on the D features from `start` on are passed on the path to the leaf."""
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
