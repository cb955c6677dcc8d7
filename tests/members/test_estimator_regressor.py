"""Regressors of every family: what they learn, keep, refuse, and do not believe."""

from __future__ import annotations

import io
import json
import re
import zipfile
from functools import cache

import numpy as np
import pytest
import skops.io
from forge import parts
from sklearn.datasets import load_diabetes

from distens import registry
from distens.data.dataset import Examples
from distens.errors import ConfigError, Diverged, Refused, StorageError
from distens.members._families import REGRESSORS, TRUSTED
from distens.members.estimator import Estimator
from distens.members.estimator_regressor import EstimatorRegressor
from distens.records import State
from distens.space.space import Space
from distens.training.context import Context

OPTIONS = {
    "extra_trees": {"n_estimators": 10},
    "lightgbm": {"n_estimators": 20, "num_leaves": 8, "subsample": 0.8},
    "random_forest": {"n_estimators": 10},
}

families = pytest.mark.parametrize("name", REGRESSORS)


@cache
def diabetes() -> tuple[Examples, Examples]:
    """Return rows to learn from and rows held out, read-only, features of unit variance as the data's encoding makes
    them; the target goes from 25 to 346."""
    inputs, targets_N = load_diabetes(return_X_y=True)
    order_N = np.random.default_rng(0).permutation(len(inputs))
    inputs, targets_N = (inputs / inputs.std(axis=0)).astype(np.float32)[order_N], targets_N[order_N]
    inputs.flags.writeable = targets_N.flags.writeable = False
    return examples(inputs[:300], targets_N[:300]), examples(inputs[300:], targets_N[300:])


def examples(inputs, targets_N) -> Examples:
    return Examples(np.asarray(inputs, dtype=np.float32), np.asarray(targets_N, dtype=np.float64), classes=1)


def trained(name, data=None, options=None, rows="all", seed=3):
    member = EstimatorRegressor(name, OPTIONS.get(name, {}) if options is None else options, rows)
    return member, member.fit(data or diabetes()[0], Context(seed))


def untrained(name):
    return EstimatorRegressor(name, OPTIONS.get(name, {}))


def error(predictions_N1, targets_N):
    assert predictions_N1.shape == (len(targets_N), 1)
    return np.sqrt(np.mean((predictions_N1[:, 0] - targets_N) ** 2))


@families
def test_learns_better_than_the_mean(name):
    data, unseen = diabetes()
    member, metrics = trained(name)
    predictions_N1 = member.predict(unseen.inputs)
    assert predictions_N1.dtype == np.float32
    mean = np.full((len(unseen.inputs), 1), data.targets.mean())
    assert error(predictions_N1, unseen.targets) < 0.9 * error(mean, unseen.targets)
    assert metrics["parameters"] >= 1
    assert metrics["seconds"] > 0


@families
def test_the_unit_of_the_target_is_no_matter(name):
    """Targets in thousands, and far from zero: predictions are the same, in thousands."""
    data, unseen = diabetes()
    plain = trained(name)[0].predict(unseen.inputs)
    moved = trained(name, examples(data.inputs, data.targets * 1024 + 4096))[0].predict(unseen.inputs)
    spread = data.targets.std()
    assert np.median(np.abs((moved - 4096) / 1024 - plain)) < 0.01 * spread


@families
def test_images_are_rows_of_numbers(name):
    data, unseen = diabetes()
    shaped = Examples(data.inputs.reshape(-1, 1, 2, 5), data.targets, 1)
    found = trained(name, shaped)[0].predict(unseen.inputs.reshape(-1, 1, 2, 5))
    np.testing.assert_array_equal(found, trained(name)[0].predict(unseen.inputs))


@families
def test_comes_back_from_its_state_to_the_bit(name):
    unseen = diabetes()[1].inputs
    member, _ = trained(name)
    state = member.state()
    assert list(state.arrays) == ["skops"]
    assert state.arrays["skops"].dtype == np.uint8
    assert state.meta == {"outputs": 1}
    back = untrained(name)
    back.load(state)
    np.testing.assert_array_equal(back.predict(unseen), member.predict(unseen))
    again = untrained(name)
    again.load(back.state())
    np.testing.assert_array_equal(again.predict(unseen), member.predict(unseen))


@families
def test_a_bootstrap_is_by_the_seed_alone(name):
    unseen = diabetes()[1].inputs
    first, again, other = (trained(name, rows="bootstrap", seed=seed)[0].predict(unseen) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_ridge_by_hand():
    """Inputs 0, 1, 2 and targets 1, 3, 8: their means are 1 and 4. The slope with alpha 1 is the sum of products of
    deviations, (-1)(-3) + 0(-1) + 1·4 = 7, over that of squares and alpha, 2 + 1: 7/3. At 4 that predicts
    4 + 7/3 · (4 - 1) = 11. Two numbers are stored, a slope and an intercept."""
    member, metrics = trained("ridge", examples([[0], [1], [2]], [1, 3, 8]), {"alpha": 1.0})
    np.testing.assert_allclose(member.predict(np.array([[4.0], [1.0]])), [[11.0], [4.0]], rtol=1e-6)
    assert metrics["parameters"] == 2


def test_nearest_neighbours_by_hand():
    """Inputs 0, 1, 4 and targets 10, 20, 60. The two next to 0.5 are 0 and 1, whose mean is 15; those next to 3 are 4
    and 1: 40. By distance, 3 is 1 from 4 and 2 from 1: (60/1 + 20/2) / (1/1 + 1/2) = 46.67."""
    data, asked = examples([[0], [1], [4]], [10, 20, 60]), np.array([[0.5], [3.0]], dtype=np.float32)
    member, metrics = trained("k_nearest_neighbours", data, {"n_neighbors": 2})
    np.testing.assert_allclose(member.predict(asked), [[15.0], [40.0]], rtol=1e-6)
    assert metrics["parameters"] == 3
    member, _ = trained("k_nearest_neighbours", data, {"n_neighbors": 2, "weights": "distance"})
    np.testing.assert_allclose(member.predict(asked), [[15.0], [140 / 3]], rtol=1e-6)


def test_parameters_by_hand():
    """A forest of two trees that split once: two roots of two leaves, 6 nodes; so is LightGBM's. A support vector
    machine that errs by a tenth of a deviation at most on 2 rows needs both: 2 vectors of 1 number, 2 coefficients, an
    intercept, and the mean and deviation of the targets: 7."""
    for name, options in {
        "extra_trees": {"n_estimators": 2, "max_depth": 1},
        "lightgbm": {"n_estimators": 2, "num_leaves": 2},
        "random_forest": {"n_estimators": 2, "max_depth": 1},
    }.items():
        assert trained(name, options=options)[1]["parameters"] == 6, name
    assert trained("svm", examples([[0], [1]], [0, 1]), {"epsilon": 0.1})[1]["parameters"] == 7


@families
def test_a_constant_target_is_predicted(name):
    data, unseen = diabetes()
    member, _ = trained(name, examples(data.inputs, np.full(len(data.inputs), 7.5)))
    np.testing.assert_allclose(member.predict(unseen.inputs), 7.5, rtol=1e-5)
    back = untrained(name)
    back.load(member.state())
    np.testing.assert_array_equal(back.predict(unseen.inputs), member.predict(unseen.inputs))


@families
def test_two_rows_are_learned_or_refused(name):
    data = examples([[0.0, 1.0], [1.0, 0.0]], [10, 20])
    if name == "k_nearest_neighbours":
        with pytest.raises(Refused, match=r"estimator k_nearest_neighbours \{\} on 2 rows of 2 numbers: .*n_neighbors"):
            trained(name, data)
        return
    member, _ = trained(name, data)
    found = member.predict(data.inputs)
    assert ((found >= 10 - 1e-5) & (found <= 20 + 1e-5)).all()
    back = untrained(name)
    back.load(member.state())
    np.testing.assert_array_equal(back.predict(data.inputs), found)


@families
def test_targets_that_are_no_numbers_are_refused(name):
    data = diabetes()[0]
    for value in (np.nan, np.inf):
        targets_N = data.targets.copy()
        targets_N[5] = value
        with pytest.raises(Refused, match=rf"estimator {name} .* on 300 rows of 10 numbers: (?s:.)*(NaN|nan|infinity)"):
            trained(name, examples(data.inputs, targets_N))
    with pytest.raises(Refused, match=rf"estimator {name}: learns one number a row, found targets of shape \(300, 1\)"):
        trained(name, Examples(data.inputs, data.targets[:, None], 1))


def test_predictions_beyond_float32_are_named():
    data = diabetes()[0]
    with pytest.raises(Diverged, match="estimator k_nearest_neighbours: its predictions are not finite"):
        trained("k_nearest_neighbours", examples(data.inputs, data.targets * 1e40))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ["needs the option estimator"]),
        ({"estimator": "random_forrest"}, ["unknown 'random_forrest'", "Did you mean 'random_forest'?"]),
        ({"estimator": "lda"}, ["unknown 'lda'", "Allowed: extra_trees, k_nearest_neighbours, lightgbm"]),
        ({"estimator": "svm", "options": {"gama": 1.0}}, ["options.gama", "'svm'", "Did you mean 'gamma'?"]),
        ({"estimator": "svm", "options": {"C": -1}}, ["'C' parameter", "-1"]),
        ({"estimator": "ridge", "options": {"alpha": -1.0}}, ["'alpha' parameter", "-1.0"]),
        ({"estimator": "ridge", "options": {"random_state": 1}}, ["options.random_state", "cannot be set"]),
        ({"estimator": "lightgbm", "options": {"objective": "l1"}}, ["options.objective", "cannot be set"]),
    ],
)
def test_bad_settings_are_refused_before_work(settings, words):
    with pytest.raises(ConfigError) as caught:
        registry.build_member({"family": "mine", "kind": "estimator_regressor", **settings})
    assert all(word in str(caught.value) for word in ["members.mine", *words]), str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("k_nearest_neighbours", {"n_neighbors": 500}, "n_neighbors.*300"),
        ("lightgbm", {"num_leaves": 1}, "num_leaves"),
    ],
)
def test_what_the_library_cannot_fit_is_refused_with_its_reason(name, options, message):
    with pytest.raises(Refused, match=rf"estimator {name} .* on 300 rows of 10 numbers: (?s:.)*{message}"):
        trained(name, options=options)


@families
def test_default_ranges_hold_only_what_the_regressor_takes(name):
    template = EstimatorRegressor.default_ranges({"kind": "estimator_regressor", "estimator": name})
    space = Space({name: template})
    assert space.count > 1
    for settings in [*space.corners(), space.draw(np.random.default_rng(5))]:
        registry.build_member(settings)
    assert json.loads(json.dumps(template)) == template
    given = {"kind": "estimator_regressor", "estimator": name, "options": {}}
    assert EstimatorRegressor.default_ranges(given) == given


# States that are not what they say --------------------------------------------------------------------------------


def stored(content, outputs=1):
    return State({"skops": np.frombuffer(bytes(content), dtype=np.uint8)}, {"outputs": outputs})


def refit(name, change):
    """Return the state of a regressor that was changed after it was fitted."""
    member, _ = trained(name)
    change(member._fitted)
    return member.state()


def rezip(state, change):
    """Return a state whose skops file describes something else: every part goes through `change`."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(state.arrays["skops"].tobytes())) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename == "schema.json":
                schema = json.loads(content)
                changed = sum(map(bool, map(change, parts(schema))))
                assert changed, "nothing was changed"
                content = json.dumps(schema).encode()
            new.writestr(info.filename, content)
    return stored(out.getvalue())


def retext(old, new):
    """Return a LightGBM state with another text of its model."""

    def change(part):
        if part.get("__loader__") != "JsonNode" or "tree_sizes" not in str(part["content"]):
            return False
        changed = re.sub(old, new, json.loads(part["content"]))
        found, part["content"] = part["content"], json.dumps(changed)
        return found != part["content"]

    return rezip(trained("lightgbm")[0].state(), change)


def refused(name, state, words):
    """The state is refused with these words; what the member had learned before stays."""
    member, _ = trained(name)
    before = member.predict(diabetes()[1].inputs)
    with pytest.raises(StorageError, match=rf"estimator {name}: the stored state is (?s:.)*{words}"):
        member.load(state)
    np.testing.assert_array_equal(member.predict(diabetes()[1].inputs), before)


@families
def test_states_of_all_others_are_refused(name):
    for other in REGRESSORS:
        if other != name:
            refused(name, trained(other)[0].state(), "it is a .*, not a")


def test_a_classifier_and_a_regressor_do_not_take_each_other_s_state():
    data = diabetes()[0]
    for name in ("lightgbm", "random_forest", "k_nearest_neighbours", "svm"):
        classifier = Estimator(name, OPTIONS.get(name, {}))
        classifier.fit(Examples(data.inputs, (data.targets > 150).astype(np.int64), 2), Context(0))
        refused(name, classifier.state(), "damaged")
        refused(name, State(classifier.state().arrays, {"outputs": 1}), "")
        regressor = trained(name)[0].state()
        with pytest.raises(StorageError, match=rf"estimator {name}: the stored state is"):
            classifier.load(State(regressor.arrays, {"classes": 2}))


@families
def test_damaged_bytes_are_refused(name):
    content = trained(name)[0].state().arrays["skops"]
    for cut in (content[: len(content) // 2], content[:-1], content[:0], content[10:]):
        refused(name, stored(cut), "damaged")
    refused(name, State({"skops": content}, {}), "damaged")
    refused(name, State({"skops": content}, {"outputs": 2}), "2 outputs, not 1")
    refused(name, State({}, {"outputs": 1}), "damaged")


@families
def test_another_type_is_not_trusted(name):
    cls = REGRESSORS[name].load().__name__

    def change(part):
        if part.get("__class__") == cls:
            part.update(__module__="subprocess", __class__="Popen")
            return True
        return False

    refused(name, rezip(trained(name)[0].state(), change), r"not trusted: .*subprocess\.Popen")


class Unlisted:
    """A type that no regressor holds; being made again from a file would show."""

    made = 0

    def __init__(self) -> None:
        self.value = 1

    def __setstate__(self, state) -> None:
        type(self).made += 1


@families
def test_an_unlisted_type_is_not_made(name):
    state = refit(name, lambda fitted: setattr(fitted, "extra", Unlisted()))
    refused(name, state, r"not trusted: .*Unlisted")
    assert Unlisted.made == 0
    skops.io.loads(state.arrays["skops"].tobytes(), trusted=[*TRUSTED, f"{__name__}.Unlisted"])
    assert Unlisted.made == 1, "or else the refusal above shows nothing"
    Unlisted.made = 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"tree_sizes=\d+ ", "tree_sizes=", "'Tree' is unknown, or appears twice|missing, or in another place"),
        (r"tree_sizes=(.*) \d+\n", r"tree_sizes=\1\n", "there is more text after the last tree"),
        (r"tree_sizes=(.*)\n", r"tree_sizes=\1 500\n", "tree 20 is not where it should be"),
        (r"max_feature_idx=9", "max_feature_idx=90", "the entries before the trees contradict each other"),
        (r"max_feature_idx=9", "max_feature_idx=1", "the entries before the trees contradict each other"),
        (r"num_class=1", "num_class=2", "the entries before the trees contradict each other"),
        (r"num_tree_per_iteration=1", "num_tree_per_iteration=5", "the entries before the trees contradict each other"),
        (r"objective=regression", "objective=binary sigmoid:1", "the entries before the trees contradict each other"),
        (r"objective=regression", "objective=poisson", "the entries before the trees contradict each other"),
        (r"(?<=split_feature=)\d", "-", "expected whole numbers"),
        (r"num_leaves=8\n", "num_leaves=9\n", "a tree of 9 leaves needs"),
        (r"(?<=left_child=)\d", "0", "leads in circles"),
        (r"end of trees", "end of treez", "there is more"),
    ],
)
def test_lightgbm_s_text_is_read_before_lightgbm_reads_it(old, new, words):
    refused("lightgbm", retext(old, new), f"({words})")


def test_lightgbm_s_features_are_as_many_as_the_regressor_says():
    def change(fitted):
        fitted._n_features = fitted._n_features_in = 3

    refused("lightgbm", refit("lightgbm", change), "another number of features")


def _rooted(fitted, **numbers):
    """Change the numbers of the first tree's root."""
    tree = fitted.estimators_[0].tree_
    values = tree.__getstate__()
    values["nodes"] = values["nodes"].copy()
    for key, value in numbers.items():
        values["nodes"][key][0] = value
    tree.__setstate__(values)


def put(part, **values):
    """Return what gives attributes other values, of the regressor itself or of a part of it."""

    def change(fitted):
        for key, value in values.items():
            place = vars(getattr(fitted, part) if part else fitted)
            place[key] = value(place.get(key)) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("random_forest", lambda f: _rooted(f, left_child=0), "leads in circles"),
        ("random_forest", lambda f: _rooted(f, right_child=10**6), "out of itself"),
        ("extra_trees", lambda f: _rooted(f, feature=10), "missing features"),
        ("extra_trees", put("", n_outputs_=10**12), "outputs, not 1"),
        ("extra_trees", put("", n_estimators=3), "its n_estimators is 3, expected 10"),
        ("k_nearest_neighbours", put("", _y=lambda y: y[:5]), "do not fit together"),
        ("k_nearest_neighbours", put("", _y=lambda y: y.astype(str)), "holds more than numbers"),
        ("k_nearest_neighbours", put("", _fit_X=lambda x: x[:, :3]), "do not fit together"),
        ("ridge", put("", coef_=lambda c: c[:3]), r"its coef_ is of shape \(3,\), not \(10,\)"),
        ("ridge", put("", coef_=lambda c: np.stack([c, c])), r"its coef_ is of shape \(2, 10\)"),
        ("ridge", put("", intercept_=np.zeros(2)), "several intercepts"),
        ("ridge", put("", alpha=5.0), "its alpha is 5.0, expected 1.0"),
        ("svm", put("regressor_", _dual_coef_=lambda d: d[:, :3]), r"its _dual_coef_ is of shape \(1, 3\)"),
        ("svm", put("regressor_", support_vectors_=lambda v: v[:, :3].copy()), "its support_vectors_ is of shape"),
        ("svm", put("regressor_", _n_support=np.ones(9, dtype=np.int32)), r"its _n_support is of shape \(9,\)"),
        ("svm", put("regressor_", _intercept_=np.zeros(0)), "its _intercept_ is of shape"),
        ("svm", put("regressor_", _probA=np.zeros(3)), "do not add up"),
        ("svm", put("regressor_", _impl="c_svc"), "a SVR has a '_impl' of its own"),
        ("svm", put("regressor_", C=5.0), "its C is 5.0"),
        ("svm", put("transformer_", scale_=np.ones(3)), r"its scale_ is of shape \(3,\), not \(1,\)"),
        ("svm", put("transformer_", with_mean=False), "its with_mean is False"),
        ("svm", put("", _training_dim=2), "2 axes, not 1"),
        ("svm", put("", regressor_=lambda r: r.support_vectors_), "it is a ndarray, not a SVR"),
        ("svm", put("", transformer_=lambda t: t.mean_), "it is a ndarray, not a StandardScaler"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(name, change, words):
    refused(name, refit(name, change), words)
