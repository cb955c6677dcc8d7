"""The family exam of members: every kind, and every family of estimators, must pass it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import skops.io
import torch

from distens import registry
from distens.data.dataset import Examples
from distens.errors import ConfigError, Diverged, Refused, StorageError
from distens.members._families import CLASSIFIERS
from distens.members.estimator import Estimator
from distens.members.protocol import LearnsNumbers
from distens.probabilities import negative_log_likelihood
from distens.records import State
from distens.space.space import Space
from distens.storage.checkpoint import Checkpoint
from distens.storage.store import Store
from distens.training.context import Context

SMALL_NETWORK = {"model": {"kind": "mlp", "hidden": [16], "dropout": 0.2}, "epochs": 12, "learning_rate": 0.02}
FEWER_TREES = {
    "ada_boost": {"n_estimators": 10, "max_depth": 2},
    "extra_trees": {"n_estimators": 10},
    "histogram_boosting": {"max_iter": 10},
    "lightgbm": {"n_estimators": 10, "subsample": 0.8},
    "random_forest": {"n_estimators": 10},
}

EXAMPLES = {
    "classifier": [
        {"kind": "classifier", **SMALL_NETWORK},
        {"kind": "classifier", **SMALL_NETWORK, "optimizer": "sgd", "learning_rate": 0.2, "schedule": "cosine"},
    ],
    "estimator": [
        *({"kind": "estimator", "estimator": name, "options": FEWER_TREES.get(name, {})} for name in CLASSIFIERS),
        {"kind": "estimator", "estimator": "mlp", "options": {"solver": "sgd", "learning_rate_init": 0.1}},
        {"kind": "estimator", "estimator": "svm", "options": {"kernel": "poly", "degree": 2}},
    ],
    "module": [
        {"kind": "module", "path": "user_module:Plain", "epochs": 12, "learning_rate": 0.02},
        {"kind": "module", "path": "user_module:Scheduled", "epochs": 8, "options": {"width": 8}},
    ],
}
"""Settings that learn the problem below, for every kind that cannot do so with its default options."""


def _kinds():
    """Return the kinds that learn classes; those that learn numbers have an exam of their own."""
    kinds = registry.names("members")
    return [
        kind
        for kind in kinds
        if not registry.has_capability(registry.find_plugin("members", kind, "members"), LearnsNumbers)
    ]


def _settings():
    for kind in _kinds():
        for settings in EXAMPLES.get(kind, [{"kind": kind}]):
            yield pytest.param(
                settings, id="-".join(str(settings[k]) for k in ("kind", "estimator", "path") if k in settings)
            )


exam = pytest.mark.parametrize("settings", list(_settings()))


def problem(rows: int = 240, seed: int = 1, classes: int = 3) -> Examples:
    """Return three clouds in four dimensions, read-only, as members get them."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, 3, rows)
    centres = np.random.default_rng(0).normal(size=(3, 4)) * 1.5
    inputs = (centres[labels_N] + rng.normal(size=(rows, 4))).astype(np.float32)
    inputs.flags.writeable = labels_N.flags.writeable = False
    return Examples(inputs, labels_N, classes)


def trained(settings, data: Examples, context: Context):
    member = registry.build_member({"family": "a", **settings})
    metrics = member.fit(data, context)
    return member, metrics


class Killed(Checkpoint):
    """Saves each epoch and is killed right after the second save."""

    saves = 0

    def save(self, state) -> None:
        super().save(state)
        self.saves += 1
        if self.saves == 2:
            raise KeyboardInterrupt


def test_every_kind_can_be_examined():
    for kind in _kinds():
        cls = registry.find_plugin("members", kind, "members")
        needed = [
            name
            for name, f in registry.options(cls).items()
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        assert kind in EXAMPLES or not needed, (
            f"the member kind {kind!r} needs the options {needed}: add settings for it to EXAMPLES in {__file__}"
        )


@exam
def test_learns_predicts_and_comes_back_from_storage(settings, tmp_path):
    data, unseen, store = problem(), problem(rows=100, seed=2), Store(str(tmp_path))
    member, metrics = trained(settings, data, Context(3))
    probs_NC = member.predict(unseen.inputs)
    assert probs_NC.dtype == np.float32
    assert probs_NC.shape == (100, 3)
    np.testing.assert_allclose(probs_NC.sum(axis=1), 1, atol=1e-5)
    assert (probs_NC.argmax(axis=1) == unseen.targets).mean() > 0.6, "chance is 1/3"
    assert metrics["parameters"] >= 1
    assert all(np.isfinite(value) for value in metrics.values())
    back = registry.build_member({"family": "a", **settings})
    back.load(store.read_state("s", store.write_state("s", member.state())))
    np.testing.assert_array_equal(back.predict(unseen.inputs), probs_NC)
    np.testing.assert_array_equal(member.predict(unseen.inputs), probs_NC)
    again = registry.build_member({"family": "a", **settings})
    again.load(back.state())
    np.testing.assert_array_equal(again.predict(unseen.inputs), probs_NC)


@exam
def test_the_seed_is_the_only_source_of_chance(settings):
    cls = registry.find_plugin("members", settings["kind"], "members")
    drawn = {**settings, "rows": "bootstrap"} if "rows" in registry.options(cls) else settings
    data = problem()
    torch.manual_seed(0)
    np.random.seed(0)
    first = trained(drawn, data, Context(3))[0].predict(data.inputs)
    again = trained(drawn, data, Context(3))[0].predict(data.inputs)
    other = trained(drawn, data, Context(4))[0].predict(data.inputs)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@exam
def test_an_interrupted_member_goes_on_to_the_same_result(settings, tmp_path):
    data, store = problem(), Store(str(tmp_path))
    whole, _ = trained(settings, data, Context(3))
    checkpoint = Killed(store, "m", every_seconds=0)
    try:
        trained(settings, data, Context(3, checkpoint))
        assert checkpoint.saves == 0, "fewer than two checkpoints: give the example more epochs"
    except KeyboardInterrupt:
        assert Checkpoint(store, "m").load() is not None
    resumed, _ = trained(settings, data, Context(3, Checkpoint(store, "m")))
    np.testing.assert_array_equal(resumed.predict(data.inputs), whole.predict(data.inputs))
    assert (checkpoint.saves == 2) == (settings["kind"] in ("classifier", "module")) or settings["kind"] not in EXAMPLES


@exam
def test_a_class_without_rows_keeps_its_column(settings):
    member, _ = trained(settings, problem(classes=5), Context(3))
    probs_NC = member.predict(problem(rows=20, seed=2).inputs)
    assert probs_NC.shape == (20, 5)
    assert probs_NC[:, :3].sum(axis=1).min() > 0.5
    if settings["kind"] == "estimator":
        assert not probs_NC[:, 3:].any()


@exam
def test_soft_targets_are_learned_or_refused(settings):
    data = problem()
    labels_N = np.asarray(data.targets, dtype=np.int64)
    soft = dataclasses.replace(data, targets=np.eye(3, dtype=np.float32)[labels_N] * 0.7 + np.float32(0.1))
    refused = {"estimator": "a student must be a network", "client": "a client learns the labels of its rows"}
    if settings["kind"] in refused:
        with pytest.raises(Refused, match=refused[settings["kind"]]):
            trained(settings, soft, Context(3))
        return
    member, _ = trained(settings, soft, Context(3))
    mean = member.predict(data.inputs).max(axis=1).mean()
    assert 0.45 < mean < 0.9, "the most a target gives is 0.8"


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "classifier", "optimizer": "sgd", "learning_rate": 1e12},
        {"kind": "module", "path": "user_module:Scheduled", "epochs": 3, "options": {"learning_rate": 1e30}},
    ],
    ids=["classifier", "module"],
)
def test_a_diverging_network_is_named(settings):
    with pytest.raises(Diverged, match=r"loss was (nan|inf) in epoch"):
        trained(settings, problem(), Context(0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "classifier", "momentum": 0.9}, ["momentum", "no effect", "'adamw'", "'sgd'"]),
        ({"kind": "classifier", "learning_rate": 0.0}, ["learning_rate", "greater than 0", "0.0"]),
        ({"kind": "classifier", "rows": "half"}, ["rows", "'all' or 'bootstrap'", "half"]),
        ({"kind": "estimator"}, ["needs the option estimator"]),
        ({"kind": "estimator", "estimator": "random_forrest"}, ["Did you mean 'random_forest'?"]),
        (
            {"kind": "estimator", "estimator": "svm", "options": {"gama": 1.0}},
            ["options.gama", "'svm'", "Did you mean 'gamma'?"],
        ),
        ({"kind": "estimator", "estimator": "svm", "options": {"C": -1}}, ["'C' parameter", "-1"]),
        ({"kind": "estimator", "estimator": "ada_boost", "options": {"max_depth": 0}}, ["'max_depth' parameter", "0"]),
        (
            {"kind": "estimator", "estimator": "random_forest", "options": {"random_state": 1}},
            ["options.random_state", "cannot be set"],
        ),
        ({"kind": "module", "path": "user_module.Plain"}, ["package.module:Class", "'user_module.Plain'"]),
        ({"kind": "module", "path": "no_such_file:Plain"}, ["No module named 'no_such_file'", "PYTHONPATH"]),
        ({"kind": "module", "path": "user_module:Plan"}, ["has no class or function 'Plan'", "Did you mean 'Plain'?"]),
        ({"kind": "module", "path": "user_module:NoNetwork"}, ["subclass of torch.nn.Module", "NoNetwork"]),
        (
            {"kind": "module", "path": "user_module:Plain", "options": {"widht": 3}},
            ["options.widht", "Did you mean 'width'?"],
        ),
        ({"kind": "module", "path": "user_module:Plain", "options": {"classes": 3}}, ["options.classes", "the data"]),
        (
            {"kind": "module", "path": "user_module:Scheduled", "learning_rate": 0.1},
            ["learning_rate: 0.1 has no effect", "configure_optimizers"],
        ),
        ({"kind": "module", "path": "user_module:Plain", "gpus_per_process": 1}, ["gpus_per_process", "no effect"]),
        ({"kind": "module", "path": "user_module:Plain", "processes": 3}, ["batch_size: 64", "3 processes"]),
    ],
)
def test_bad_settings_are_refused_before_work(settings, words):
    with pytest.raises(ConfigError) as caught:
        registry.build_member({"family": "mine", **settings})
    assert all(word in str(caught.value) for word in ["members.mine", *words]), str(caught.value)


def test_outputs_that_are_no_logits_are_refused():
    with pytest.raises(Refused, match=r"Wrong: forward must return logits of shape .* 3 classes\), found \(1, 7\)"):
        trained({"kind": "module", "path": "user_module:Wrong", "epochs": 1}, problem(), Context(0))


def test_a_state_of_another_network_is_refused():
    member, _ = trained({"kind": "classifier", **SMALL_NETWORK}, problem(), Context(0))
    other = registry.build_member({"kind": "classifier", "model": {"kind": "mlp", "hidden": [5]}})
    with pytest.raises(StorageError, match="do not fit the network"):
        other.load(member.state())


def test_a_network_of_images_is_refused_on_rows():
    with pytest.raises(Refused, match=r"lenet: needs images .* found inputs of shape \(4,\)"):
        trained({"kind": "classifier", "model": "lenet"}, problem(), Context(0))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_default_ranges_hold_only_what_the_estimator_takes(name):
    template = Estimator.default_ranges({"kind": "estimator", "estimator": name})
    space = Space({name: template})
    assert space.count > 1
    for settings in space.corners():
        registry.build_member(settings)
    drawn = space.draw(np.random.default_rng(5))
    member, _ = trained(drawn, problem(rows=120), Context(0))
    assert np.isfinite(member.predict(problem().inputs)).all()
    assert json.loads(json.dumps(template)) == template


def test_default_ranges_are_many_and_leave_given_options_alone():
    ranges = [Estimator.default_ranges({"estimator": name})["options"] for name in CLASSIFIERS]
    searched = sum(len({key for part in r.get("choices", [r]) for key in part}) for r in ranges)
    assert len(ranges) >= 8
    assert searched >= 40
    given = {"kind": "estimator", "estimator": "svm", "options": {}}
    assert Estimator.default_ranges(given) == given


def test_parameters_by_hand():
    """Logistic regression on 4 numbers and 3 classes: 3*4 coefficients and 3 intercepts, 15. Nearest neighbours keep
    240 rows of 4 numbers: 960. One stump of AdaBoost: a root and two leaves, 3 nodes; so does one step of LightGBM with
    2 leaves, for each of 3 classes: 9. LightGBM's own neighbour, histogram boosting, the same: 9. A linear support
    vector machine has the 15 numbers of logistic regression and 2 for each class's scale: 21."""
    expected = {
        "logistic_regression": ({}, 15),
        "k_nearest_neighbours": ({}, 960),
        "ada_boost": ({"n_estimators": 1}, 3),
        "lightgbm": ({"n_estimators": 1, "num_leaves": 2}, 9),
        "histogram_boosting": ({"max_iter": 1, "max_leaf_nodes": 2}, 9),
        "linear_svm": ({}, 21),
    }
    for name, (options, count) in expected.items():
        _, metrics = trained({"kind": "estimator", "estimator": name, "options": options}, problem(), Context(0))
        assert metrics["parameters"] == count, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "k_nearest_neighbours", "options": {"n_neighbors": 500}}, "n_neighbors.*240"),
        ({"estimator": "qda"}, "only 1 sample in class 1"),
        ({"estimator": "lightgbm", "options": {"num_leaves": 1}}, "num_leaves"),
    ],
    ids=["neighbours", "qda", "lightgbm"],
)
def test_what_the_library_cannot_fit_is_refused_with_its_reason(settings, message):
    data = problem()
    if settings["estimator"] == "qda":  # one row of a class has no covariance
        labels_N = np.zeros(240, dtype=np.int64)
        labels_N[0] = 1
        data = dataclasses.replace(data, targets=labels_N)
    with pytest.raises(
        Refused, match=rf"estimator {settings['estimator']} .* on 240 rows of 4 numbers: (?s:.)*{message}"
    ):
        trained({"kind": "estimator", **settings}, data, Context(0))


def test_a_class_too_rare_to_calibrate_is_refused():
    labels_N = np.array([0, 1] * 119 + [2, 2])
    data = dataclasses.replace(problem(), targets=labels_N)
    with pytest.raises(Refused, match=r"needs 3 different rows of each class to calibrate, found 2 of class 2"):
        trained({"kind": "estimator", "estimator": "svm"}, data, Context(0))


class Unlisted:
    """A type that no estimator holds; being made again from a file would show."""

    made = 0

    def __init__(self) -> None:
        self.value = 1

    def __setstate__(self, state) -> None:
        type(self).made += 1


def test_an_unlisted_type_is_refused_and_not_made():
    member = Estimator("lda")
    hostile, _ = trained({"kind": "estimator", "estimator": "lda"}, problem(), Context(0))
    hostile._fitted.extra = Unlisted()
    state = hostile.state()
    with pytest.raises(StorageError, match=r"lda: the stored state is not trusted: .*Unlisted"):
        member.load(state)
    assert Unlisted.made == 0
    skops.io.loads(state.arrays["skops"].tobytes(), trusted=["test_members.Unlisted"])
    assert Unlisted.made == 1, "or else the refusal above shows nothing"


def test_a_state_of_another_family_or_a_damaged_one_is_refused():
    fitted, _ = trained({"kind": "estimator", "estimator": "lda"}, problem(), Context(0))
    with pytest.raises(StorageError, match=r"qda: .* is a LinearDiscriminantAnalysis, not a QuadraticDiscriminant"):
        Estimator("qda").load(fitted.state())
    content = fitted.state().arrays["skops"]
    with pytest.raises(StorageError, match="damaged"):
        Estimator("lda").load(State({"skops": content[: len(content) // 2]}, {"classes": 3}))


def test_copies_of_a_row_share_a_fold_when_calibrating():
    """Labels of pure chance: the best that can be said about unseen rows is 1/2, which costs ln 2 = 0.693. A support
    vector machine knows the label of a row whose copy it saw; were copies spread over folds, a bootstrap would make it
    look sure of itself (about 1.0 is what that costs here)."""
    rng = np.random.default_rng(0)
    data = Examples(rng.normal(size=(200, 4)).astype(np.float32), rng.integers(0, 2, 200), 2)
    unseen, labels_N = rng.normal(size=(500, 4)).astype(np.float32), rng.integers(0, 2, 500)
    settings = {"kind": "estimator", "estimator": "svm", "options": {"gamma": 1.0, "C": 100.0}, "rows": "bootstrap"}
    member, _ = trained(settings, data, Context(0))
    assert negative_log_likelihood(member.predict(unseen), labels_N) < 0.75


def test_networks_move_between_devices():
    member, _ = trained({"kind": "classifier", **SMALL_NETWORK}, problem(), Context(0))
    before = member.predict(problem().inputs)
    member.to("cpu")
    np.testing.assert_array_equal(member.predict(problem().inputs), before)
