"""LightGBM's text: what is written anew is the same model to the bit, and nothing else gets through."""

import re
from functools import cache

import lightgbm
import numpy as np
import pytest

from distens.data.dataset import Examples
from distens.members._boosted import rewrite_text
from distens.members.estimator import Estimator
from distens.members.estimator_regressor import EstimatorRegressor
from distens.space.space import Space
from distens.training.context import Context

ROWS = 400


def rows(scale=1.0):
    return (np.random.default_rng(0).normal(size=(ROWS, 5)) * scale).astype(np.float32)


def fitted(options, classes, scale=1.0, labels=None):
    """Return LightGBM's booster, the member and its rows; 1 class: numbers."""
    inputs = rows(scale)
    score_N = np.abs(inputs[:, 0].astype(np.float64)) / scale + inputs[:, 1] / scale
    if classes == 1:
        member, targets_N = EstimatorRegressor("lightgbm", options), score_N
    else:
        member = Estimator("lightgbm", options)
        targets_N = np.digitize(score_N, np.quantile(score_N, np.linspace(0, 1, classes + 1)[1:-1]))
        targets_N = targets_N if labels is None else np.asarray(labels)[targets_N % len(labels)]
    member.fit(Examples(inputs, targets_N, classes), Context(seed=3))
    return member._fitted.booster_, member, inputs


def corners():
    template = Estimator.default_ranges({"family": "f", "kind": "estimator", "estimator": "lightgbm"})
    space = Space({"f": template})
    rng = np.random.default_rng(1)
    return [settings["options"] for settings in [*list(space.corners())[::9], space.draw(rng), space.draw(rng)]]


SETTINGS = [
    *({**options, "n_estimators": min(options["n_estimators"], 40)} for options in corners()),
    {"n_estimators": 3, "num_leaves": 2},
    {"n_estimators": 3, "min_child_samples": ROWS},
    {"n_estimators": 3, "min_split_gain": 1e9},
    {"n_estimators": 5, "boosting_type": "dart"},
    {"n_estimators": 5, "boosting_type": "rf", "subsample": 0.6},
    {"n_estimators": 5, "max_bin": 15, "extra_trees": True, "path_smooth": 2.0},
    {"n_estimators": 5, "reg_alpha": 1.0, "class_weight": "balanced"},
    {"n_estimators": 5, "learning_rate": 1e-9},
]


@pytest.mark.parametrize("classes", [1, 2, 3, 11])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_the_model_is_the_same_to_the_bit(options, classes):
    if classes == 1:
        options = {key: value for key, value in options.items() if key != "class_weight"}
    booster, member, inputs = fitted(options, classes)
    text = booster.model_to_string()
    written = rewrite_text(text, numbers=classes == 1)
    assert written == text.partition("end of trees\n")[0] + "end of trees\n"
    again = lightgbm.Booster(model_str=written)
    for raw in (False, True):
        np.testing.assert_array_equal(
            again.predict(inputs, raw_score=raw), booster.predict(inputs, raw_score=raw), strict=True
        )
    back = type(member)("lightgbm", options)
    back.load(member.state())
    np.testing.assert_array_equal(back.predict(inputs), member.predict(inputs), strict=True)


@pytest.mark.parametrize("scale", [1e-30, 1e-5, 1e12, 1e30])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_numbers_of_every_size_keep_their_bits(scale, classes):
    booster, _, inputs = fitted({"n_estimators": 5}, classes, scale)
    text = booster.model_to_string()
    written = rewrite_text(text, numbers=classes == 1)
    np.testing.assert_array_equal(lightgbm.Booster(model_str=written).predict(inputs), booster.predict(inputs))


@pytest.mark.parametrize(("classes", "labels"), [(3, [0, 2]), (5, [4, 1, 3])])
def test_classes_without_rows(classes, labels):
    booster, member, inputs = fitted({"n_estimators": 4}, classes, labels=labels)
    back = Estimator("lightgbm", {"n_estimators": 4})
    back.load(member.state())
    np.testing.assert_array_equal(back.predict(inputs), member.predict(inputs))
    assert rewrite_text(booster.model_to_string(), numbers=False) in booster.model_to_string()


@cache
def text_of(classes):
    return fitted({"n_estimators": 2, "num_leaves": 4}, classes)[0].model_to_string()


def keys_of(text):
    return list(dict.fromkeys(re.findall(r"^([a-z_]+)=", text.partition("end of trees")[0], flags=re.M)))


NO_NUMBERS = (
    *("3_0", "+3", "0x3", "03", "3.", ".5", "3 ", " 3", "3  3", "3,3", "3\t3", "\u0663", "\uff13", "3\u00a0", "3\x0c"),
    *(
        "inf",
        "-inf",
        "nan",
        "NAN",
        "1e999",
        "-1e999",
        "1e301",
        "--3",
        "3e",
        "3e5",
        "1e+5000",
        "9" * 25,
        "0." + "1" * 30,
    ),
    *("x", "3 x", "", "-", "1;1", "3\r", "3\0", "true", "3f", "3L", "0b1", "1e+05_0"),
)


def fixed(text):
    """Return a text whose `tree_sizes` are those of its trees."""
    trees = re.split(r"(?=Tree=\d)", text.partition("end of trees")[0])[1:]
    return re.sub(r"tree_sizes=.*", f"tree_sizes={' '.join(str(len(tree)) for tree in trees)}", text, count=1)


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("wrong", NO_NUMBERS, ids=ascii)
def test_every_value_of_every_key_is_a_number_by_one_syntax(classes, wrong):
    """Whatever Python's `int` and `float` read, and LightGBM's reader reads otherwise or not at all."""
    text = text_of(classes)
    assert len(keys_of(text)) >= 24
    for key in keys_of(text):
        value = re.search(rf"^{key}=(.*)$", text, flags=re.M)[1]
        tokens = value.split(" ")
        for changed in {wrong, " ".join([wrong, *tokens[1:]]), " ".join([*tokens[:-1], wrong])}:
            other = re.sub(rf"^{key}=.*$", lambda _, k=key, c=changed: f"{k}={c}", text, count=1, flags=re.M)
            if other == text or (changed == "" and key in ("split_gain", "leaf_weight", "leaf_count")):
                continue
            if changed == "" and key in ("internal_value", "internal_weight", "internal_count"):
                continue  # LightGBM may leave them out
            for candidate in (other, fixed(other)) if key != "tree_sizes" else (other,):
                if candidate != text:
                    with pytest.raises(ValueError, match="LightGBM's text"):
                        rewrite_text(candidate, numbers=classes == 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version=v4", "version=v9"),
        ("version=v4", "version="),
        ("label_index=0", "label_index=1"),
        ("label_index=0", "label_index=-1"),
        ("num_class=3", "num_class=1"),
        ("num_class=3\nnum_tree_per_iteration=3", "num_class=30\nnum_tree_per_iteration=30"),
        ("num_class=3\nnum_tree_per_iteration=3", "num_class=3_0\nnum_tree_per_iteration=3_0"),
        ("num_class=3", "num_class=3\nnum_class=3"),
        ("num_class:3", "num_class:3 sigmoid:1"),
        ("num_class:3", "num_class: 3"),
        ("objective=multiclass ", "objective=multiclassova "),
        ("Column_1", "Column_2"),
        ("Column_1", "Column_1=1"),
        ("Column_1", "a"),
        ("feature_infos=[", "feature_infos=[1:"),
        ("feature_infos=[", "feature_infos=none ["),
        ("tree\n", "tree=1\n"),
        ("tree\n", "tree\naverage_output=1\n"),
        ("tree\n", "tree\nmonotone_constraints=1\n"),
        ("decision_type=2", "decision_type=3"),
        ("decision_type=2", "decision_type=9"),
        ("decision_type=2", "decision_type=258"),
        ("leaf_count=", "leaf_count=-"),
        ("num_leaves=4", "num_leaves=0"),
        ("num_leaves=4", "num_leaves=-4"),
        ("num_leaves=4", "num_leaves=131073"),
        ("is_linear=0", "is_linear=00"),
        ("shrinkage=1", "shrinkage=1 1"),
        ("Tree=1\n", "Tree=01\n"),
        ("feature_importances:", "feature_importances"),
        ("Column_0=", "Column_0=x"),
        ("[boosting: gbdt]", "boosting: gbdt"),
        ("[boosting: gbdt]", "[Boosting: gbdt]"),
        ("end of parameters", "end of parameters\nTree=9"),
        ("pandas_categorical:null", "pandas_categorical:[[1]]"),
        ("pandas_categorical:null", "more"),
    ],
)
def test_every_entry_is_checked(old, new):
    text = text_of(3)
    assert old in text
    for changed in (text.replace(old, new, 1), fixed(text.replace(old, new, 1))):
        with pytest.raises(ValueError, match="LightGBM's text"):
            rewrite_text(changed, numbers=False)


@pytest.mark.parametrize("found", [None, 3, ["tree"], b"tree", "", "tree", "tree\n", "Tree=0\n", "x" * 10**6])
def test_what_is_no_text_of_a_model(found):
    with pytest.raises(ValueError, match="LightGBM's text: it is not a model"):
        rewrite_text(found, numbers=False)


def test_a_long_list_takes_no_more_memory_than_its_size_justifies():
    """A list of two million numbers, in a tree that has as many leaves, is refused before it is read."""
    many = "0 " * 1_999_999 + "0"
    text = re.sub(r"^leaf_value=.*$", f"leaf_value={many}", text_of(1), count=1, flags=re.M)
    text = fixed(text.replace("num_leaves=4", "num_leaves=2000000", 1))
    with pytest.raises(ValueError, match="a tree without leaves, of too many"):
        rewrite_text(text, numbers=True)
