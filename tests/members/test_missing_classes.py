"""Rows without one of the classes, as a bootstrap of few rows of a class draws them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distens import registry
from distens.data.dataset import Examples
from distens.errors import Refused, StorageError
from distens.members._families import CLASSIFIERS
from distens.members._rows import choose_rows
from distens.members.estimator import ONLY_CLASS, Estimator
from distens.records import State
from distens.storage.store import Store
from distens.training.context import Context

FEW = {"ada_boost": 5, "extra_trees": 5, "lightgbm": 5, "random_forest": 5}
LABELS = {  # the classes that are left, of how many
    "two, one missing": ([0], 2),
    "two, the other missing": ([1], 2),
    "three, the first missing": ([1, 2], 3),
    "three, the middle missing": ([0, 2], 3),
    "three, the last missing": ([0, 1], 3),
    "three, one left": ([1], 3),
    "five, two missing": ([0, 2, 4], 5),
}


def problem(labels: list[int], classes: int, rows: int = 90) -> Examples:
    rng = np.random.default_rng(1)
    labels_N = np.array(labels)[rng.integers(0, len(labels), rows)]
    inputs = (np.random.default_rng(0).normal(size=(classes, 4))[labels_N] * 2 + rng.normal(size=(rows, 4))).astype("f")
    return Examples(inputs, labels_N, classes)


def settings(name: str) -> dict:
    options = {"n_estimators": FEW[name]} if name in FEW else {}
    return {"kind": "estimator", "estimator": name, "options": options}


@pytest.mark.parametrize(("left", "classes"), LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_missing_class_has_probability_zero(name, left, classes, tmp_path):
    data, store = problem(left, classes), Store(str(tmp_path))
    member = registry.build_member(settings(name))
    metrics = member.fit(data, Context(3))
    probs_NC = member.predict(data.inputs)
    missing = [label for label in range(classes) if label not in left]
    assert probs_NC.shape == (90, classes)
    assert not probs_NC[:, missing].any()
    np.testing.assert_allclose(probs_NC.sum(axis=1), 1, atol=1e-5)
    assert (probs_NC.argmax(axis=1) == data.targets).mean() > 0.6
    assert metrics["parameters"] >= 1
    back = registry.build_member(settings(name))
    back.load(store.read_state("s", store.write_state("s", member.state())))
    np.testing.assert_array_equal(back.predict(data.inputs), probs_NC)
    assert back.state().arrays.keys() == member.state().arrays.keys()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_bootstrap_without_a_rare_class_is_learned(name):
    """Four of 404 rows are of the second class; e^-4 of all bootstraps draw none of them."""
    data = problem([0], 2, rows=404)
    labels_N = np.zeros(404, dtype=np.int64)
    labels_N[:4] = 1
    seed = next(s for s in range(1000) if not labels_N[choose_rows("bootstrap", 404, s)].any())
    member = registry.build_member({**settings(name), "rows": "bootstrap"})
    member.fit(replace(data, targets=labels_N), Context(seed))
    np.testing.assert_array_equal(member.predict(data.inputs), np.tile([[1.0, 0.0]], (404, 1)))


@pytest.mark.parametrize("kind", [{"kind": "classifier", "epochs": 2}, {"kind": "module", "path": "user_module:Plain"}])
def test_a_network_learns_without_a_class(kind):
    data = problem([1], 3)
    member = registry.build_member({**kind, "epochs": 2, "rows": "bootstrap"})
    member.fit(data, Context(0))
    probs_NC = member.predict(data.inputs)
    assert probs_NC.shape == (90, 3)
    assert np.isfinite(probs_NC).all()


def test_a_member_that_is_fitted_again_forgets_its_only_class():
    member = Estimator("lda")
    member.fit(problem([1], 2), Context(0))
    member.fit(problem([0, 1], 2), Context(0))
    assert 0 < member.predict(problem([0, 1], 2).inputs)[:, 0].mean() < 1


@pytest.mark.parametrize(
    ("array", "meta"),
    [([2], {"classes": 2}), ([-1], {"classes": 2}), ([0, 1], {"classes": 2}), ([0.5], {"classes": 2}), ([0], {})],
)
def test_a_damaged_state_of_one_class_is_refused(array, meta):
    with pytest.raises(StorageError, match="lda: the stored state is damaged"):
        Estimator("lda").load(State({ONLY_CLASS: np.array(array)}, meta))


def test_a_class_with_too_few_rows_is_refused_by_name():
    labels_N = np.zeros(90, dtype=np.int64)
    labels_N[0] = 1
    with pytest.raises(Refused, match="different rows of each class to calibrate, found 1 of class 1"):
        Estimator("svm").fit(replace(problem([0], 2), targets=labels_N), Context(0))
