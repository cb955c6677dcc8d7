"""LightGBM's text of a model, checked and written anew before LightGBM reads it.

LightGBM's reader trusts its text: one that it cannot read crashes the process, and one whose numbers it reads otherwise
than we do writes where it must not. So no text from a file is handed over: each entry is read by one strict syntax of
numbers, all sizes are compared, and LightGBM gets a text that is written from the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

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
_NEEDED = ("leaf_value", *_PER_NODE)
_INTEGERS = frozenset(("split_feature", "decision_type", "left_child", "right_child", "leaf_count", "internal_count"))
_EXACT = frozenset(("threshold", "leaf_value", "leaf_weight"))
_KEYS = frozenset(("num_leaves", "num_cat", "is_linear", "shrinkage", *_PER_LEAF, *_PER_NODE, *_INFO_KEYS))
_END = "end of trees"
_NUMBERS_IN_NODE = frozenset((0, 2, 4, 6, 8, 10))
"""The values of `decision_type` without its lowest bit, which marks nodes that compare categories."""

_INTEGER = r"(?:0|-?[1-9][0-9]{0,8})"
_DECIMAL = r"-?(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{1,20})?(?:e[-+][0-9]{2,3})?"
_NO_INTEGER = re.compile(rf"(?:\A|(?<= ))(?!{_INTEGER}(?: |\Z))")
_NO_DECIMAL = re.compile(rf"(?:\A|(?<= ))(?!{_DECIMAL}(?: |\Z))")
"""The beginning of a word that is no such number; a pattern of the whole list would take a hundred times its memory."""

_RANGE_OF_FEATURE = re.compile(rf"none|\[({_DECIMAL}):({_DECIMAL})\]")
_TAIL = re.compile(
    r"\n+feature_importances:\n(?:Column_[0-9]{1,9}=[0-9]{1,9}\n)*"
    r"(?:\nparameters:\n(?:\[[a-z0-9_]{1,60}: [^\n]*\]\n)*\nend of parameters\n)?"
    r"(?:\npandas_categorical:(?:null|\[\])\n?)?"
)
"""What LightGBM writes after the trees. It does not need it to predict, and is not given it."""

MAX_LEAVES = 131_072
"""The most leaves of a tree that LightGBM grows."""

MAX_MAGNITUDE = 1e300
"""The largest number that LightGBM writes, in place of infinity."""


def rewrite_text(text: object, numbers: bool) -> str:
    """Return the text of the same model, written from its numbers alone.

    Args:
        text: a model as LightGBM writes it, from anybody.
        numbers: True for a regressor's model, False for a classifier's.

    Raises:
        ValueError: the text is not a model as LightGBM writes it, with trees that can be walked; the message gives the
            reason.
    """
    # isprintable: a CR ends LightGBM's lines too
    if not (isinstance(text, str) and text.isascii() and text.replace("\n", "").isprintable()):
        raise ValueError("LightGBM's text: it is not a model, or has characters that a model cannot have")
    begin = text.find("\nTree=0\n") + 1
    if not begin:
        raise ValueError("LightGBM's text: it is not a model")
    head = _parse_lines(text[:begin], _HEAD)
    features, sizes_T = _check_head(head, numbers)
    trees = []
    for tree, content in _split_trees(text, begin, sizes_T):
        trees.append(f"Tree={tree}\n{_rewrite_tree(_parse_lines(content, _KEYS), features)}\n\n\n")
    head["tree_sizes"] = " ".join(str(len(tree)) for tree in trees)
    lines = [key if key in ("tree", "average_output") else f"{key}={value}" for key, value in head.items()]
    return "\n".join((*lines, "", "".join(trees))) + f"{_END}\n"


def _check_head(head: dict[str, str], numbers: bool) -> tuple[int, Integers]:
    """Check every entry before the trees; return the number of features and the sizes of the trees."""
    outputs, per_iteration = _integer(head["num_class"]), _integer(head["num_tree_per_iteration"])
    features, sizes_T = _integer(head["max_feature_idx"]) + 1, _integers(head["tree_sizes"])
    if numbers:
        objective = "regression"
    else:
        objective = f"multiclass num_class:{outputs}" if outputs > 1 else "binary sigmoid:1"
    names, infos = head["feature_names"].split(" "), head["feature_infos"].split(" ")
    if not (
        (outputs == 1 if numbers else outputs >= 1)
        and features >= 1
        and per_iteration == outputs
        and head["objective"] == objective
        and len(sizes_T) % outputs == 0
        and len(names) == len(infos) == features
    ):
        raise ValueError("LightGBM's text: the entries before the trees contradict each other")
    fixed = {"tree": "", "average_output": "", "version": "v4", "label_index": "0"}
    for key in fixed.keys() & head.keys():
        if head[key] != fixed[key] and (key, head[key]) != ("version", "v3"):
            raise ValueError(f"LightGBM's text: {key} is {shorten_value(head[key])}, not {fixed[key]!r}")
    for i, (name, info) in enumerate(zip(names, infos, strict=True)):
        found = _RANGE_OF_FEATURE.fullmatch(info)
        if name != f"Column_{i}" or found is None or (info != "none" and not float(found[1]) <= float(found[2])):
            raise ValueError(f"LightGBM's text: feature {i} is {shorten_value(name)} of {shorten_value(info)}")
    return features, sizes_T


def _split_trees(text: str, begin: int, sizes_T: Integers) -> Iterator[tuple[int, str]]:
    """Yield the lines of each tree; then refuse whatever comes after the last one and is not LightGBM's."""
    if sizes_T.min() <= 0:
        raise ValueError("LightGBM's text: tree_sizes must be positive")
    ends_T = (begin + np.cumsum(sizes_T)).tolist()
    for tree, (start, end) in enumerate(pairwise([begin, *ends_T])):
        title = f"Tree={tree}\n"
        if not text.startswith(title, start):
            raise ValueError(f"LightGBM's text: tree {tree} is not where it should be")
        yield tree, text[start + len(title) : end]
    if not text.startswith(f"{_END}\n", ends_T[-1]):
        raise ValueError("LightGBM's text: there is more text after the last tree")
    if not _TAIL.fullmatch(text, ends_T[-1] + len(_END)):
        raise ValueError("LightGBM's text: what follows the last tree is unknown")


def _parse_lines(text: str, allowed: frozenset[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in filter(None, text.split("\n")):
        key, _, value = line.partition("=")
        if key not in allowed or key in found:
            raise ValueError(f"LightGBM's text: {shorten_value(key)} is unknown, or appears twice")
        found[key] = value
    return found


def _rewrite_tree(tree: dict[str, str], features: int) -> str:
    leaves = _integer(tree["num_leaves"])
    if not 1 <= leaves <= MAX_LEAVES or tree["num_cat"] != "0" or tree.get("is_linear", "0") != "0":
        raise ValueError("LightGBM's text: a tree without leaves, of too many, of categories, or of linear models")
    written = {"num_leaves": str(leaves), "num_cat": "0"}
    found: dict[str, Integers | Floats] = {}
    for keys, count in ((_PER_LEAF, leaves), (_PER_NODE + _INFO_KEYS, leaves - 1)):
        for key in keys:
            read = _integers if key in _INTEGERS else _decimals
            text = tree.get(key, "")
            length = text.count(" ") + 1 if text else 0
            if length not in ((count,) if key in _NEEDED else (0, count)):
                raise ValueError(f"LightGBM's text: a tree of {leaves} leaves needs {count} numbers {key}")
            if text or key in tree:
                found[key] = read(text) if text else np.empty(0)
                written[key] = " ".join(_write(value, key in _EXACT) for value in found[key].tolist())
    if leaves > 1:
        _check_splits(found, leaves, features)
    shrinkages = _decimals(tree.get("shrinkage", "1"))
    if len(shrinkages) != 1:
        raise ValueError("LightGBM's text: a tree has several shrinkages")
    written |= {"is_linear": "0", "shrinkage": _write(float(shrinkages[0]), exact=False)}
    return "\n".join(f"{key}={written[key]}" for key in tree)


def _check_splits(tree: dict[str, Integers | Floats], leaves: int, features: int) -> None:
    places = np.arange(leaves - 1)
    for key in ("left_child", "right_child"):
        child_N = tree[key]
        deeper = (child_N > places) & (child_N < leaves - 1)
        leaf = (child_N < 0) & (-child_N - 1 < leaves)
        if not (deeper | leaf).all():
            raise ValueError("LightGBM's text: a tree leads in circles or out of itself")
    feature_N, kinds = tree["split_feature"], set(tree["decision_type"].tolist())
    if feature_N.min() < 0 or feature_N.max() >= features or not kinds <= _NUMBERS_IN_NODE:
        raise ValueError("LightGBM's text: a tree has a split on a missing feature, or of an unknown type")
    if any((tree[key] < 0).any() for key in ("leaf_count", "internal_count") if key in tree):
        raise ValueError("LightGBM's text: a tree has a negative count")


def _integer(text: str) -> int:
    if len(values := _integers(text)) != 1:
        raise ValueError(f"LightGBM's text: expected one whole number, found {shorten_value(text)}")
    return int(values[0])


def _integers(text: str) -> Integers:
    if _NO_INTEGER.search(text):
        raise ValueError(f"LightGBM's text: expected whole numbers, found {shorten_value(text)}")
    return np.array(text.split(" "), dtype=np.int64)


def _decimals(text: str) -> Floats:
    if _NO_DECIMAL.search(text):
        raise ValueError(f"LightGBM's text: expected numbers, found {shorten_value(text)}")
    values = np.fromstring(text, dtype=np.float64, sep=" ")
    if len(values) != text.count(" ") + 1 or not (np.abs(values) <= MAX_MAGNITUDE).all():
        raise ValueError(f"LightGBM's text: expected finite numbers, found {shorten_value(text)}")
    return values


def _write(value: float, exact: bool) -> str:
    """Return a number as LightGBM writes it: with 17 digits, which give the same bits, or with 6 if these suffice."""
    if isinstance(value, int):
        return str(value)
    short = f"{value:g}"
    return short if not exact and float(short) == value else f"{value:.17g}"
