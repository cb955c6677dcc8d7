"""A check of LightGBM's text of a model before LightGBM reads it: a text that it cannot read crashes the process."""

from __future__ import annotations

import re

import numpy as np

from distens.errors import shorten_value
from distens.records import Floats, Integers

_HEAD = frozenset(
    (
        *("tree", "version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "objective"),
        *("average_output", "feature_names", "feature_infos", "tree_sizes"),
    )
)
_PER_LEAF = ("leaf_value", "leaf_weight", "leaf_count")
_PER_NODE = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
_INFO_KEYS = ("split_gain", "internal_value", "internal_weight", "internal_count")
_KEYS = frozenset(("num_leaves", "num_cat", "is_linear", "shrinkage", *_PER_LEAF, *_PER_NODE, *_INFO_KEYS))
_END = "end of trees"
_NUMBERS_IN_NODE = frozenset((0, 2, 4, 6, 8, 10))
"""The values of `decision_type` without its lowest bit, which marks nodes that compare categories."""


def check_text(text: str, numbers: bool) -> None:
    """Refuse a text that is not a model as LightGBM writes it, with trees that can be walked.

    Args:
        numbers: True for a regressor's model, False for a classifier's.

    Raises:
        ValueError: the text is not such a model; the message gives the reason.
    """
    plain = isinstance(text, str) and text.isascii() and text.replace("\n", "").isprintable()  # a CR ends lines too
    begin = text.find("Tree=0") if plain else -1
    if begin < 0:
        raise ValueError("LightGBM's text: it is not a model, or has characters that a model cannot have")
    head = _parse_lines(text[:begin], _HEAD)
    outputs, features = int(head["num_class"]), int(head["max_feature_idx"]) + 1
    if numbers:
        objective = "regression"
    else:
        objective = f"multiclass num_class:{outputs}" if outputs > 1 else "binary sigmoid:1"
    sizes_T = [int(size) for size in head["tree_sizes"].split()]
    if not (
        (outputs == 1 if numbers else outputs >= 1)
        and int(head["num_tree_per_iteration"]) == outputs
        and head["objective"] == objective
        and len(sizes_T) % outputs == 0
        and len(head["feature_names"].split()) == len(head["feature_infos"].split()) == features
    ):
        raise ValueError("LightGBM's text: the entries before the trees contradict each other")
    for i, size in enumerate(sizes_T):
        if size <= 0 or not text.startswith(f"Tree={i}\n", begin):
            raise ValueError(f"LightGBM's text: tree {i} is not where it should be")
        _check_tree(_parse_lines(text[begin : begin + size].partition("\n")[2], _KEYS), features)
        begin += size
    if not text.startswith(_END, begin):
        raise ValueError("LightGBM's text: there is more text after the last tree")


def _parse_lines(text: str, allowed: frozenset[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in filter(None, text.split("\n")):
        key, _, value = line.partition("=")
        if key not in allowed or key in found:
            raise ValueError(f"LightGBM's text: {shorten_value(key)} is unknown, or appears twice")
        found[key] = value
    return found


def _check_tree(tree: dict[str, str], features: int) -> None:
    leaves = int(tree["num_leaves"])
    if leaves < 1 or tree["num_cat"] != "0" or tree.get("is_linear", "0") != "0":
        raise ValueError("LightGBM's text: a tree without leaves, of categories, or of linear models")
    for keys, count in ((_PER_LEAF, leaves), (_PER_NODE + _INFO_KEYS, leaves - 1)):
        for key in keys:
            if len(_floats(tree.get(key, ""))) not in ((count,) if key in ("leaf_value", *_PER_NODE) else (0, count)):
                raise ValueError(f"LightGBM's text: a tree of {leaves} leaves needs {count} numbers {key}")
    if leaves == 1:
        return
    places = np.arange(leaves - 1)
    for key in ("left_child", "right_child"):
        child_N = _whole(tree[key])
        deeper = (child_N > places) & (child_N < leaves - 1)
        leaf = (child_N < 0) & (~child_N < leaves)
        if not (deeper | leaf).all():
            raise ValueError("LightGBM's text: a tree leads in circles or out of itself")
    feature_N = _whole(tree["split_feature"])
    kinds = set(_whole(tree["decision_type"]).tolist())
    if feature_N.min() < 0 or feature_N.max() >= features or not kinds <= _NUMBERS_IN_NODE:
        raise ValueError("LightGBM's text: a tree has a split on a missing feature, or of an unknown type")


def _floats(text: str) -> Floats:
    return np.array(text.split(), dtype=np.float64)


def _whole(text: str) -> Integers:
    if not re.fullmatch(r"-?\d{1,9}( -?\d{1,9})*", text):
        raise ValueError(f"LightGBM's text: expected whole numbers, found {shorten_value(text)}")
    return np.array(text.split(), dtype=np.int64)
