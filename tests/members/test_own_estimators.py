"""Estimators by their import path: of scikit-learn, of a user's own, and pipelines; other names of families."""

import subprocess
import sys

import numpy as np
import pytest
import small_run

import distens
from distens import registry
from distens.data.dataset import Examples
from distens.data.load import load_data
from distens.errors import BundleError, ConfigError, Refused, StorageError
from distens.members import _own_estimators
from distens.members.estimator import Estimator
from distens.members.estimator_regressor import EstimatorRegressor
from distens.records import State
from distens.roles.ensemble.plan import build_plan
from distens.training.context import Context

OWN = "plugins.estimators:"


def examples(rows=90, features=4, seed=0):
    rng = np.random.default_rng(seed)
    labels_N = np.arange(rows) % 3
    inputs = rng.normal(size=(rows, features)) + 2 * np.eye(3, features)[labels_N]
    return Examples(inputs.astype(np.float32), labels_N, classes=3)


def numbers(rows=90):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(rows, 3)).astype(np.float32)
    return Examples(inputs, inputs[:, 0] * 3.0 + rng.normal(size=rows), classes=1)


def make(estimator, kind="estimator", **options):
    return registry.build_member({"kind": kind, "estimator": estimator, "options": options}, "members.a")


@pytest.fixture
def uninspected(monkeypatch):
    monkeypatch.setattr(_own_estimators, "_INSPECTED", set())


# What can be one --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        ("sklearn.naive_bayes:GaussianNB", {}),
        ("sklearn.svm:SVC", {"probability": True, "C": 2.0}),
        ("sklearn.ensemble:GradientBoostingClassifier", {"n_estimators": 5}),
        ("sklearn.gaussian_process:GaussianProcessClassifier", {}),
        (f"{OWN}Centroid", {"sharpness": 0.5}),
        (f"{OWN}pipeline", {"components": 3}),
        (f"{OWN}forest", {}),
        (f"{OWN}calibrated", {}),
    ],
)
def test_it_learns_and_comes_back_from_its_state_to_the_bit(estimator, options):
    data = examples()
    member = make(estimator, **options)
    metrics = member.fit(data, Context(seed=1))
    probs_NC = member.predict(data.inputs)
    assert (probs_NC.argmax(axis=1) == data.targets).mean() > 0.7 and metrics["parameters"] >= 6
    restored = make(estimator, **options)
    restored.load(member.state())
    np.testing.assert_array_equal(restored.predict(data.inputs), probs_NC)
    again = make(estimator, **options)
    again.fit(data, Context(seed=1))
    np.testing.assert_array_equal(again.predict(data.inputs), probs_NC)


@pytest.mark.parametrize(
    ("estimator", "options"), [("sklearn.linear_model:HuberRegressor", {"max_iter": 50}), (f"{OWN}Mean", {})]
)
def test_numbers(estimator, options):
    data = numbers()
    member = make(estimator, "estimator_regressor", **options)
    member.fit(data, Context(seed=1))
    found_NK = member.predict(data.inputs)
    assert found_NK.shape == (90, 1)
    restored = make(estimator, "estimator_regressor", **options)
    restored.load(member.state())
    np.testing.assert_array_equal(restored.predict(data.inputs), found_NK)


def test_the_member_s_seed_reaches_every_part_of_a_pipeline():
    data = examples()
    one, two, three = (make(f"{OWN}forest") for _ in range(3))
    for member, seed in ((one, 1), (two, 2), (three, 1)):
        member.fit(data, Context(seed=seed))
    assert (one.predict(data.inputs) != two.predict(data.inputs)).any()
    np.testing.assert_array_equal(one.predict(data.inputs), three.predict(data.inputs))


def test_a_class_that_is_missing_from_the_rows_has_probability_zero():
    data = examples()
    kept = data.targets != 1
    member = make(f"{OWN}Centroid")
    member.fit(Examples(data.inputs[kept], data.targets[kept], 3), Context(seed=0))
    probs_NC = member.predict(data.inputs)
    assert (probs_NC[:, 1] == 0).all() and probs_NC[:, 2].max() > 0.5


# What cannot ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"estimator": "sklearn.svm:SVC"}, "has no predict_proba; `estimator: svm` is the same with calibrated"),
        ({"estimator": "sklearn.linear_model:RidgeClassifier"}, "return it in sklearn.calibration.CalibratedClassif"),
        ({"estimator": "sklearn.svm:SVR"}, "has no predict_proba"),
        ({"estimator": "sklearn.svm:SCV"}, "has no class or function 'SCV'. Did you mean 'SVR'"),
        ({"estimator": "sklearn.swm:SVC"}, "importing 'sklearn.swm' failed"),
        ({"estimator": f"{OWN}NUMBER"}, "must be a class or a function"),
        ({"estimator": f"{OWN}fails"}, r"KeyError: 'nothing there' \(.*estimators.py, line \d+\)"),
        ({"estimator": f"{OWN}Centroid", "options": {"sharpnes": 1}}, "Did you mean 'sharpness'"),
        ({"estimator": "sklearn.naive_bayes:GaussianNB", "options": {"random_state": 1}}, "the member sets it"),
        (
            {"estimator": "sklearn.svm:SVC", "probability": True},
            "probability: is an argument of sklearn.svm:SVC; write",
        ),
        (
            {"estimator": "random_forest", "n_estimators": 9},
            "n_estimators: is an argument of random_forest; write it un",
        ),
        ({"estimator": "xgboost"}, "if its package is installed, `estimator: xgboost:XGBClassifier`"),
        ({"estimator": "random_florest"}, r"Did you mean 'random_forest'\?.*or a class of a library or of your own"),
    ],
)
def test_what_cannot_be_one_is_refused_with_the_plan(settings, words, tmp_path):
    members = {"a": {"kind": "estimator", **settings}}
    with pytest.raises(ConfigError, match=f"members.a.*{words}"):
        build_plan(small_run.config(tmp_path, members=members, distill=None, baselines=[]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Closure", "its state can be stored, but not be loaded: .*lambda"),
        ("Elsewhere", "loaded from its state, it predicts something else"),
        ("Stranger", r"it has fractions.Fraction in it, and only types of plugins, sklearn"),
        ("Faulty", r"RuntimeError: no luck today \(.*estimators.py, line \d+\)"),
        ("Narrow", r"predict_proba gave the shape \(1, 1\), not \(1, 3\)"),
    ],
)
def test_what_cannot_be_stored_or_fails_is_refused_at_its_first_fit(name, words, uninspected):
    with pytest.raises(Refused, match=words):
        make(OWN + name).fit(examples(), Context(seed=0))


def test_a_state_with_other_types_is_refused():
    data, member = examples(), make(f"{OWN}Centroid")
    member.fit(data, Context(seed=0))
    content = _own_estimators.archive_estimator({"a": __import__("fractions").Fraction(1, 3)}).dump()
    state = State({"skops": np.frombuffer(content, dtype=np.uint8)}, {"classes": 3})
    with pytest.raises(StorageError, match=r"not trusted: it has fractions.Fraction in it"):
        member.load(state)
    with pytest.raises(StorageError, match="damaged"):
        member.load(State({"skops": state.arrays["skops"][:-30]}, {"classes": 3}))


# Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("svc", "svm"),
        ("SVC", "svm"),
        ("rf", "random_forest"),
        ("hist_gradient_boosting", "histogram_boosting"),
        ("knn", "k_nearest_neighbours"),
        ("LGBMClassifier", "lightgbm"),
        ("logistic", "logistic_regression"),
    ],
)
def test_another_name_of_a_family_is_resolved(name, family, tmp_path):
    plan = build_plan(
        small_run.config(tmp_path, members={"a": {"kind": "estimator", "estimator": name}}, distill=None, baselines=[])
    )
    assert plan.config.members["a"] == Estimator.default_ranges({"kind": "estimator", "estimator": family})
    assert make(name).estimator == family


def test_another_name_of_a_regressor():
    assert EstimatorRegressor.default_ranges({"estimator": "SVR"})["estimator"] == "svm"
    with pytest.raises(ValueError, match="`estimator: xgboost:XGBRegressor`"):
        EstimatorRegressor.default_ranges({"estimator": "xgboost"})


# Runs and bundles -------------------------------------------------------------------------------------------------


def test_a_run_and_its_bundle_which_needs_trust(tmp_path):
    members = {
        "centroid": {
            "kind": "estimator",
            "estimator": f"{OWN}Centroid",
            "options": {"sharpness": {"low": 0.1, "high": 3.0}},
        },
        "bayes": {"kind": "estimator", "estimator": "sklearn.naive_bayes:GaussianNB"},
        "tree": {"kind": "estimator", "estimator": f"{OWN}forest", "options": {"trees": {"low": 2, "high": 5}}},
    }
    select = {"kind": "top", "size": 9}
    config = small_run.config(tmp_path, members=members, distill=None, baselines=["seed_ensemble"], select=select)
    result = distens.run(config)
    assert result.rows["ensemble"]["accuracy"] > 0.8
    rows = load_data(config.data, 0).example_rows
    wanted_NC = distens.load(result.path, imports=True).predict_proba(rows)
    assert wanted_NC.shape == (5, 3)
    with pytest.raises(BundleError, match=r"refused: .* names a class .* trust it: load\(path, imports=True\)"):
        distens.load(result.path)
    load = f"import distens; distens.load({result.path!r}"
    new = subprocess.run([sys.executable, "-c", f"{load})"], capture_output=True, text=True)
    assert "refused" in new.stderr and "plugins" in new.stderr
    trusted = f"{load}, imports=True).predict_proba(__import__(\"numpy\").ones((1, 4))); print('predicted')"
    path = ":".join(sys.path)
    done = subprocess.run([sys.executable, "-c", trusted], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert "predicted" in done.stdout, done.stderr
