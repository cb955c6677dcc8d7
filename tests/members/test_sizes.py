"""Sizes that a stored estimator states twice, and numbers that compiled code would believe: refused before they are
used."""

import copy
import io
import json
import zipfile

import numpy as np
import pytest
import skops.io
from forge import in_bounds, parts

from distens.data.dataset import Examples
from distens.members._families import TRUSTED
from distens.members.estimator import Estimator
from distens.members.estimator_regressor import EstimatorRegressor
from distens.records import State
from distens.training.context import Context

OPTIONS = {
    "ada_boost": {"n_estimators": 3, "max_depth": 2},
    "extra_trees": {"n_estimators": 3},
    "histogram_boosting": {"max_iter": 3},
    "k_nearest_neighbours": {"n_neighbors": 5},
    "lightgbm": {"n_estimators": 3},
    "mlp": {"hidden_layer_sizes": [6], "max_iter": 3},
    "random_forest": {"n_estimators": 3},
}
MANY = 10**9


def trained(kind, name, options=None):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(90, 4)).astype(np.float32)
    numbers_N = inputs[:, 0].astype(np.float64) + inputs[:, 1] ** 2
    targets_N = np.digitize(numbers_N, [0.3, 1.2]) if kind is Estimator else numbers_N
    member = kind(name, OPTIONS.get(name, {}) if options is None else options)
    member.fit(Examples(inputs, targets_N, 3 if kind is Estimator else 1), Context(seed=1))
    return member, inputs


def refused(kind, name, change, options=None):
    """Return the words with which a changed state is refused, before anything is predicted."""
    member, inputs = trained(kind, name)
    meta = dict(member.state().meta)
    change(member._fitted)
    state = State({"skops": np.frombuffer(skops.io.dumps(member._fitted), np.uint8)}, meta)
    back = kind(name, OPTIONS.get(name, {}) if options is None else options)

    def predict():
        back.load(state)
        back.predict(inputs)

    text = in_bounds(predict)
    assert text.startswith(f"estimator {name}: the stored state is"), text
    return text


def put(**values):
    """Return what gives attributes of the estimator other values."""

    def change(fitted):
        for key, value in values.items():
            setattr(
                fitted,
                key,
                value(getattr(fitted, key, None)) if callable(value) and not isinstance(value, type) else value,
            )

    return change


def of_tree(**values):
    return lambda fitted: put(**values)(fitted.estimators_[0])


def of_part(**values):
    return lambda fitted: put(**values)(fitted.calibrated_classifiers_[0].estimator)


def of_calibration(**values):
    return lambda fitted: put(**values)(fitted.calibrated_classifiers_[0])


def of_bins(**values):
    return lambda fitted: put(**values)(fitted._bin_mapper)


def of_predictor(**values):
    return lambda fitted: put(**values)(fitted._predictors[0][0])


def drawing_from_elsewhere():
    random = np.random.RandomState(1)
    state = random.get_state(legacy=False)
    state["state"]["pos"] = 2**30
    random.set_state(state)
    return random


CLASSIFIERS = [
    ("k_nearest_neighbours", put(n_samples_fit_=MANY), "n_samples_fit_"),
    ("k_nearest_neighbours", put(n_samples_fit_=3), "n_samples_fit_"),
    ("k_nearest_neighbours", put(n_samples_fit_=90.0), "n_samples_fit_"),
    ("k_nearest_neighbours", put(_fit_method="kd_tree"), "_fit_method"),
    ("k_nearest_neighbours", put(_tree=1), "_tree"),
    ("k_nearest_neighbours", put(effective_metric_="precomputed"), "effective_metric_"),
    ("k_nearest_neighbours", put(effective_metric_="haversine"), "effective_metric_"),
    ("k_nearest_neighbours", put(effective_metric_params_={"p": 3}), "effective_metric_params_"),
    ("k_nearest_neighbours", put(outputs_2d_=True), "outputs_2d_"),
    ("k_nearest_neighbours", put(_fit_X=lambda x: x[:0], _y=lambda y: y[:0]), "stored state"),
    ("k_nearest_neighbours", put(_fit_X=lambda x: x[:30], _y=lambda y: y[:30]), "n_samples_fit_"),
    ("k_nearest_neighbours", put(_fit_X=lambda x: x.astype(np.float16)), "do not fit"),
    ("k_nearest_neighbours", put(_fit_X=lambda x: x * np.float32(np.nan)), "NaN"),
    ("k_nearest_neighbours", put(_fit_X=lambda x: np.asfortranarray(x)[:, ::-1][:, :2]), "do not fit"),
    ("k_nearest_neighbours", put(_y=lambda y: y.astype(np.int8)), "_y"),
    ("k_nearest_neighbours", put(_y=lambda y: y[:, None]), "do not fit"),
    ("k_nearest_neighbours", put(_y=lambda y: y - 1), "do not fit"),
    ("k_nearest_neighbours", put(classes_=np.array([0, 1])), "do not fit"),
    ("k_nearest_neighbours", put(n_features_in_=2), "do not fit"),
    ("k_nearest_neighbours", put(n_features_in_=4.0), "n_features_in_"),
    ("extra_trees", put(n_classes_=MANY), "n_classes_"),
    ("extra_trees", put(n_classes_=[3, 3]), "n_classes_"),
    ("extra_trees", put(n_outputs_=2), "outputs"),
    ("extra_trees", put(n_outputs_=True), "outputs"),
    ("extra_trees", put(n_features_in_=3), "n_features_in_"),
    ("extra_trees", put(n_features_in_=[4]), "n_features_in_"),
    ("extra_trees", put(estimators_=lambda e: []), "estimators_"),
    ("extra_trees", put(estimators_=lambda e: [*e, copy.deepcopy(e[0])]), "estimators_"),
    ("extra_trees", put(estimators_=lambda e: tuple(e)), "estimators_"),
    ("extra_trees", put(estimators_=lambda e: [[one] for one in e]), "damaged"),
    ("extra_trees", put(predict_proba=int), "'predict_proba' of its own"),
    ("extra_trees", put(_validate_X_predict=int), "'_validate_X_predict' of its own"),
    ("extra_trees", of_tree(predict_proba=int), "'predict_proba' of its own"),
    ("extra_trees", of_tree(n_outputs_=10**12), "n_outputs_"),
    ("extra_trees", of_tree(n_classes_=MANY), "n_classes_"),
    ("extra_trees", of_tree(n_classes_=1), "n_classes_"),
    ("extra_trees", of_tree(n_features_in_=1000), "n_features_in_"),
    ("extra_trees", of_tree(classes_=np.arange(1000)), "classes_"),
    ("ada_boost", put(n_classes_=MANY), "n_classes_"),
    ("ada_boost", put(n_classes_=1), "n_classes_"),
    ("ada_boost", put(estimators_=lambda e: []), "estimators_"),
    ("ada_boost", put(estimators_=lambda e: copy.deepcopy(e) * 2), "id"),
    ("ada_boost", put(estimator_weights_=np.ones((3, 10**5))), "estimator_weights_"),
    ("ada_boost", put(estimator_weights_=np.ones(0)), "estimator_weights_"),
    ("ada_boost", put(estimator_weights_=np.ones(10**6)), "estimator_weights_"),
    ("ada_boost", put(estimator_weights_=[1.0, 1.0, 1.0]), "estimator_weights_"),
    ("ada_boost", of_tree(n_outputs_=10**12), "n_outputs_"),
    ("ada_boost", of_tree(n_features_in_=2), "n_features_in_"),
    ("histogram_boosting", put(n_trees_per_iteration_=MANY), "n_trees_per_iteration_"),
    ("histogram_boosting", put(n_trees_per_iteration_=1), "n_trees_per_iteration_"),
    ("histogram_boosting", put(_baseline_prediction=np.zeros((1, 10**6))), "_baseline_prediction"),
    ("histogram_boosting", put(_baseline_prediction=np.zeros((10**6, 3))), "_baseline_prediction"),
    ("histogram_boosting", put(_baseline_prediction=np.zeros((1, 3), dtype=np.int64)), "_baseline_prediction"),
    ("histogram_boosting", put(_predictors=lambda p: [[*p[0], p[0][0]]]), "_predictors"),
    ("histogram_boosting", put(_predictors=lambda p: [p[0][:1]]), "_predictors"),
    ("histogram_boosting", put(_loss=1), "not a HalfMultinomialLoss"),
    ("histogram_boosting", put(_preprocessor=1), "categorical features"),
    ("histogram_boosting", of_bins(is_categorical_=np.zeros(10**6, dtype=np.uint8)), "is_categorical_"),
    ("histogram_boosting", of_bins(is_categorical_=np.zeros(1, dtype=np.uint8)), "is_categorical_"),
    ("histogram_boosting", of_predictor(raw_left_cat_bitsets=np.zeros((0, 1), dtype=np.uint32)), "raw_left_cat"),
    ("histogram_boosting", of_predictor(raw_left_cat_bitsets=np.zeros((9, 8), dtype=np.uint32)), "raw_left_cat"),
    ("histogram_boosting", of_predictor(nodes=lambda n: n[:0]), "out of itself"),
    ("histogram_boosting", of_predictor(nodes=lambda n: n[:1]), "out of itself"),
    ("histogram_boosting", put(n_features_in_=1), "is_categorical_"),
    ("svm", of_part(_sparse=True), "contradicts its parameters"),
    ("svm", of_part(_sparse=0), "contradicts its parameters"),
    ("svm", of_part(_intercept_=np.zeros(0)), "_intercept_"),
    ("svm", of_part(_intercept_=np.zeros(1)), "_intercept_"),
    ("svm", of_part(_n_support=np.array([10**8, -(10**8)], dtype=np.int32)), "_n_support"),
    ("svm", of_part(_n_support=lambda n: n.astype(np.float64)), "_n_support"),
    ("svm", of_part(support_=lambda s: s[:1]), "support_"),
    ("svm", of_part(support_vectors_=lambda v: v[:, :1]), "support_vectors_"),
    ("svm", of_part(support_vectors_=lambda v: v[:3]), "support_"),
    ("svm", of_part(_probA=np.zeros(2)), "do not add up"),
    ("svm", of_part(classes_=np.arange(2)), "other classes"),
    ("svm", of_part(classes_=np.arange(4000)), "other classes"),
    ("svm", of_part(decision_function=int), "'decision_function' of its own"),
    ("svm", of_part(n_features_in_=2), "support_vectors_"),
    ("svm", of_calibration(classes=np.arange(10**6)), "other classes"),
    ("svm", of_calibration(calibrators=lambda c: c[:1]), "other classes"),
    ("svm", of_calibration(calibrators=lambda c: c * 20), "other classes"),
    ("svm", of_calibration(method="temperature"), "method"),
    ("svm", lambda f: put(a_=np.ones(10**6))(f.calibrated_classifiers_[0].calibrators[0]), "slopes"),
    ("svm", put(calibrated_classifiers_=lambda c: c * 100), "at most"),
    ("linear_svm", of_part(coef_=np.ones((10**6, 4))), "coef_"),
    ("linear_svm", of_part(intercept_=np.ones(10**6)), "intercept_"),
    ("logistic_regression", put(coef_=np.ones((10**6, 4))), "coef_"),
    ("logistic_regression", put(coef_=np.ones((3, 4), dtype=np.int64)), "coef_"),
    ("logistic_regression", put(coef_=[[1.0] * 4] * 3), "coef_"),
    ("logistic_regression", put(intercept_=np.ones((10**6, 1))), "intercept_"),
    ("logistic_regression", put(n_features_in_=10**9), "coef_"),
    ("logistic_regression", put(n_features_in_=-4), "n_features_in_"),
    ("logistic_regression", put(predict_proba=int), "'predict_proba' of its own"),
    ("logistic_regression", put(classes_=[0, 1, 2]), "classes"),
    ("lda", put(coef_=np.ones((10**6, 4))), "coef_"),
    ("lda", put(intercept_=np.ones(10**6)), "intercept_"),
    ("qda", put(means_=np.ones((3, 1))), "means_"),
    ("qda", put(priors_=np.ones((3, 10**5))), "priors_"),
    ("qda", put(rotations_=lambda r: [one[:, :2] for one in r]), "rotations_"),
    (
        "qda",
        put(rotations_=lambda r: [np.ones((4, 10**6))] * 3, scalings_=lambda s: [np.ones(10**6)] * 3),
        "rotations_",
    ),
    ("qda", put(scalings_=lambda s: [np.ones((4, 10**5))] * 3), "scalings_"),
    ("qda", put(scalings_=lambda s: s * 100), "scalings_"),
    ("mlp", put(n_layers_=MANY), "n_layers_"),
    ("mlp", put(n_layers_=2), "n_layers_"),
    ("mlp", put(n_outputs_=1), "n_outputs_"),
    ("mlp", put(out_activation_="identity"), "out_activation_"),
    ("mlp", put(coefs_=lambda c: [c[0], np.ones((6, 10**6))]), "coefs_"),
    ("mlp", put(coefs_=lambda c: [np.ones((4, 10**6)), np.ones((10**6, 3))]), "coefs_"),
    ("mlp", put(intercepts_=lambda i: [i[0], np.ones((10**6, 3))]), "intercepts_"),
    ("mlp", put(intercepts_=lambda i: i[:1]), "intercepts_"),
    ("lightgbm", put(_n_classes=MANY), "_n_classes"),
    ("lightgbm", put(_n_classes=2), "_n_classes"),
    ("lightgbm", put(_objective="multiclass num_threads=100000"), "it asks LightGBM for"),
    ("lightgbm", put(_objective=int), "it asks LightGBM for"),
    ("lightgbm", put(_eval_at="1 predict_disable_shape_check=true"), "it asks LightGBM for"),
    ("lightgbm", put(random_state="1 predict_disable_shape_check=true"), "random_state"),
    ("lightgbm", put(random_state=drawing_from_elsewhere()), "random_state"),
    ("lightgbm", put(random_state=np.random.default_rng(0)), "random_state"),
    ("lightgbm", put(_other_params={"num_threads": 10**6}), "num_threads"),
    ("lightgbm", put(_n_features_in=2, _n_features=2), "another number of features"),
    ("lightgbm", put(predict=int), "'predict' of its own"),
    ("lightgbm", put(_Booster=None), "not a Booster"),
    ("mlp", put(random_state=drawing_from_elsewhere()), "random_state"),
    ("random_forest", put(random_state=drawing_from_elsewhere()), "random_state"),
]


@pytest.mark.parametrize(("name", "change", "words"), CLASSIFIERS)
def test_a_classifier_that_contradicts_itself_is_refused(name, change, words):
    assert words in refused(Estimator, name, change)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("k_nearest_neighbours", put(n_samples_fit_=MANY), "n_samples_fit_"),
        ("k_nearest_neighbours", put(_y=lambda y: np.stack([y] * 1000, axis=1)), "do not fit"),
        ("k_nearest_neighbours", put(_y=lambda y: y * np.nan), "NaN"),
        ("k_nearest_neighbours", put(classes_=np.arange(3)), "do not fit"),
        ("random_forest", put(n_outputs_=10**6), "outputs"),
        ("random_forest", of_tree(n_outputs_=10**12), "n_outputs_"),
        ("random_forest", of_tree(n_features_in_=1), "n_features_in_"),
        ("ridge", put(coef_=np.ones((10**6, 4))), "coef_"),
        ("ridge", put(coef_=np.ones(4, dtype=np.int8)), "coef_"),
        ("ridge", put(intercept_=np.ones(10**6)), "intercepts"),
        ("svm", lambda f: put(_sparse=True)(f.regressor_), "contradicts its parameters"),
        ("svm", lambda f: put(_intercept_=np.zeros(0))(f.regressor_), "_intercept_"),
        ("svm", lambda f: put(scale_=np.ones((10**6, 1)))(f.transformer_), "scale_"),
        ("svm", lambda f: put(mean_=np.ones(10**6))(f.transformer_), "mean_"),
        ("lightgbm", put(_objective="regression num_threads=100000"), "it asks LightGBM for"),
    ],
)
def test_a_regressor_that_contradicts_itself_is_refused(name, change, words):
    assert words in refused(EstimatorRegressor, name, change)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_more_neighbours_than_rows(weights):
    """The settings may say so, too: then every number agrees, except with the rows."""
    options = {"n_neighbors": 2_000_000, "weights": weights}
    change = put(n_neighbors=2_000_000, weights=weights, n_samples_fit_=MANY)
    assert "fewer than n_neighbors: 2000000" in refused(Estimator, "k_nearest_neighbours", change, options)
    assert "fewer than n_neighbors: 2000000" in refused(EstimatorRegressor, "k_nearest_neighbours", change, options)


def test_a_few_more_neighbours_than_rows_are_as_they_were():
    """scikit-learn fits that, so such members may be in use."""
    member, inputs = trained(Estimator, "k_nearest_neighbours", {"n_neighbors": 100, "p": 1})
    back = Estimator("k_nearest_neighbours", {"n_neighbors": 100, "p": 1})
    back.load(member.state())
    np.testing.assert_array_equal(back.predict(inputs), member.predict(inputs))


# Trees, as their file describes them ---------------------------------------------------------------------------------


def described(change, name="random_forest"):
    """Return the words with which a forest is refused, whose description was changed."""
    member, inputs = trained(Estimator, name)
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(member.state().arrays["skops"].tobytes())) as old,
        zipfile.ZipFile(out, "w") as new,
    ):
        for entry in old.infolist():
            found = old.read(entry)
            if entry.filename == "schema.json":
                schema = json.loads(found)
                change(next(part for part in parts(schema) if part.get("__loader__") == "TreeNode"))
                found = json.dumps(schema).encode()
            new.writestr(entry.filename, found)
    state = State({"skops": np.frombuffer(out.getvalue(), np.uint8)}, {"classes": 3})
    back = Estimator(name, OPTIONS[name])

    def predict():
        back.load(state)
        back.predict(inputs)

    return in_bounds(predict)


def says(key, value):
    def change(tree):
        tree["content"]["content"][key]["content"] = json.dumps(value)

    return change


def argument(place, value):
    def change(tree):
        tree["__reduce__"]["args"]["content"][place]["content"] = json.dumps(value)

    return change


def same_array(key, other):
    def change(tree):
        tree["content"]["content"][key]["file"] = tree["content"]["content"][other]["file"]

    return change


def no_classes(tree):
    tree["__reduce__"]["args"]["content"][1]["file"] = tree["content"]["content"]["values"]["file"]


@pytest.mark.parametrize("name", ["random_forest", "ada_boost"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (says("node_count", 10**9), "and says 1000000000"),
        (says("node_count", 1), "and says 1"),
        (says("node_count", 0), "and says 0"),
        (says("node_count", -1), "and says -1"),
        (says("node_count", 2**63 - 1), "and says"),
        (says("node_count", 2**70), "and says"),
        (says("node_count", "7"), "invalid literal"),
        (says("node_count", [7]), "damaged"),
        (argument(0, 10**9), "n_features"),
        (argument(0, 1), "n_features"),
        (argument(0, -1), "n_features"),
        (argument(0, 2**70), "damaged"),
        (argument(2, 2), "one output"),
        (argument(2, 1.0), "one output"),
        (argument(2, True), "one output"),
        (same_array("nodes", "values"), "damaged"),
        (same_array("values", "nodes"), "damaged"),
        (no_classes, "one number of classes"),
        (lambda tree: tree["__reduce__"]["args"]["content"].pop(), "damaged"),
        (lambda tree: tree["content"]["content"].pop("nodes"), "'nodes'"),
    ],
)
def test_a_tree_that_is_not_as_long_as_it_says(name, change, words):
    text = described(change, name)
    assert text.startswith(f"estimator {name}: the stored state is damaged, or hostile: "), text
    assert words in text


def test_what_is_not_changed_is_read():
    assert described(lambda tree: None) == "done"
    assert "sklearn.tree._tree.Tree" in TRUSTED
