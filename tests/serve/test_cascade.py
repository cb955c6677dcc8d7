"""Cascades: clear rows ask few members, unclear ones all; and a budget is kept."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter
from sklearn.datasets import load_iris
from typer.testing import CliRunner

from distens import registry
from distens.cli import main as cli
from distens.config.sections import DataSection
from distens.data.dataset import Examples
from distens.data.preprocessing import Preprocessing
from distens.errors import BundleError, ConfigError
from distens.probabilities import accuracy, apply_temperature, mix, softmax
from distens.serve import bundle, cascade, predictor
from distens.serve.cascade import Cascade, Stage, learn, predict_in_stages, reachable, spread
from distens.storage.store import Store
from distens.targets.classes import Classes
from distens.training.context import Context

EQUAL_3 = np.full(3, 1 / 3)
HAND_MN = np.array([[0.9, 0.6, 0.45, 0.2], [0.9, 0.7, 0.3, 0.1], [0.9, 0.8, 0.9, 0.3]])
HAND_MNC = np.stack([HAND_MN, 1 - HAND_MN], axis=2)
HAND_LABELS_N = np.array([0, 0, 0, 1])
HAND_STAGES = (
    Stage((0,), math.sqrt(2 / 3), 1.0),
    Stage((1,), math.sqrt(1 / 6), 1.0),
    Stage((2,), 0.0, 1.0),
)


def through(stages, window, weights_M, probs_MNC, finish=None):
    """Walk over stored predictions: a row's input is its own number."""
    finish = finish or (lambda asked_MNC: mix(asked_MNC, weights_M))
    rows_N = np.arange(probs_MNC.shape[1])
    return predict_in_stages(
        stages, window, weights_M, lambda k, some_N: probs_MNC[list(stages[k].members)][:, some_N], finish, rows_N
    )


@pytest.mark.parametrize(
    ("window", "first_class_N", "members_N"),
    [
        (0.0, [0.9, 0.6, 0.45, 0.2], [1, 1, 1, 1]),
        (0.5, [0.9, 0.65, 0.375, 0.2], [1, 2, 2, 1]),
        (0.65, [0.9, 0.65, 0.55, 0.2], [1, 2, 3, 1]),
        (math.inf, [0.9, 0.7, 0.55, 0.2], [3, 3, 3, 3]),
    ],
)
def test_rows_stop_where_they_should(window, first_class_N, members_N):
    """Three members of equal weight; margins |2p - 1| after one are 0.8, 0.2, 0.1, 0.6, after two 0.8, 0.3, 0.25, 0.7.

    Window 0.5 puts the thresholds at 0.5 sqrt(2/3) = 0.408 and 0.5 sqrt(1/6) = 0.204: rows 1 and 4 stop after one
    member, the others after two. Window 0.65: 0.531 and 0.265, so that row 3 (0.25) asks the third as well.
    """
    found_NC, found_N = through(HAND_STAGES, window, EQUAL_3, HAND_MNC)
    np.testing.assert_allclose(found_NC[:, 0], first_class_N, atol=1e-12)
    np.testing.assert_allclose(found_NC.sum(axis=1), 1.0, atol=1e-12)
    assert list(found_N) == members_N


def test_an_infinite_window_is_the_full_ensemble_bit_for_bit():
    rng = np.random.default_rng(0)
    probs_MNC = softmax(3 * rng.normal(size=(7, 50, 4))).astype(np.float32)
    weights_M = rng.dirichlet(np.ones(7))
    stages = learn(probs_MNC, rng.integers(4, size=50), mix(probs_MNC, weights_M), weights_M, np.ones(7)).stages
    found_NC, members_N = through(stages, math.inf, weights_M, probs_MNC)
    assert np.array_equal(found_NC, mix(probs_MNC, weights_M))
    assert set(members_N) == {7}


def test_a_stage_has_its_temperature_and_the_last_one_its_combiner():
    """Row 2 stops at (0.6, 0.4) with temperature 0.5: squares, (0.36, 0.16) / 0.52 = (0.6923, 0.3077)."""
    stages = (Stage((0,), 0.4, 0.5), Stage((1, 2), 0.0, 1.0))
    found_NC, _ = through(stages, 0.4, EQUAL_3, HAND_MNC, finish=lambda asked_MNC: np.full((1, 2), len(asked_MNC)))
    np.testing.assert_allclose(found_NC[1], [0.36 / 0.52, 0.16 / 0.52])
    assert list(found_NC[2]) == [3, 3]  # the one row inside the window, 0.1 < 0.16


def test_a_tie_stops_only_where_the_window_is_zero():
    tie_MNC = np.full((3, 1, 2), 0.5)
    assert through(HAND_STAGES, 0.0, EQUAL_3, tie_MNC)[1][0] == 1
    assert through(HAND_STAGES, 1e-9, EQUAL_3, tie_MNC)[1][0] == 3


def test_stages_where_nobody_can_stop_are_asked_with_the_next():
    """Window 2: 2 sqrt(2/3) = 1.63 is more than any margin, 2 sqrt(1/6) = 0.82 is not: members 1 and 2 come together.

    The answers stay the same.
    """
    found = reachable(HAND_STAGES, 2.0)
    assert found == [Stage((0, 1), math.sqrt(1 / 6), 1.0), HAND_STAGES[2]]
    assert reachable(HAND_STAGES, 0.5) == list(HAND_STAGES)
    assert reachable(HAND_STAGES, math.inf) == [Stage((0, 1, 2), 0.0, 1.0)]
    fewer_NC, fewer_N = through(found, 2.0, EQUAL_3, HAND_MNC)
    all_NC, all_N = through(HAND_STAGES, 2.0, EQUAL_3, HAND_MNC)
    np.testing.assert_allclose(fewer_NC, all_NC, atol=1e-15)
    assert list(fewer_N) == list(all_N)


def test_spread_with_weights_is_the_standard_deviation_by_draws():
    """Weights 0.5, 0.3 asked, 0.2 left: W = 0.8, so 0.125, 0.075 and -0.2: sqrt(0.015625 + 0.005625 + 0.04) = 0.2475.

    Equal ones, 2 of 8: sqrt(1/2 - 1/8) = 0.6124.
    """
    assert spread(np.array([0.5, 0.3]), np.array([0.2])) == pytest.approx(math.sqrt(0.06125))
    assert spread(np.ones(2), np.ones(6)) == pytest.approx(math.sqrt(3 / 8))
    values = np.random.default_rng(0).normal(size=(100_000, 3))
    away_N = values[:, :2] @ [0.625, 0.375] - values @ [0.5, 0.3, 0.2]
    assert away_N.std() == pytest.approx(spread(np.array([0.5, 0.3]), np.array([0.2])), rel=0.02)


@pytest.mark.parametrize(("costs_M", "order"), [((1, 1, 1), [2, 1, 0]), ((1, 1, 10), [0, 2, 1])])
def test_the_best_for_its_cost_comes_first(costs_M, order):
    """Mean log-likelihoods alone are -0.4095, -0.4427, -0.1976; to say nothing is -0.6931.

    Equal costs: member 3 first; beside it member 2 reaches -0.2818 and member 1 -0.2857: both lose, 2 less.
    If 3 costs ten times as much, its gain of 0.4955 is worth 0.0496, and member 1 with 0.2836 is first; then member 2
    would lose (-0.4199) while 3 gains 0.1238 / 10.
    """
    found = learn(HAND_MNC, HAND_LABELS_N, mix(HAND_MNC, EQUAL_3), EQUAL_3, np.array(costs_M, dtype=float))
    assert [m for stage in found.stages for m in stage.members] == order
    assert [stage.spread for stage in found.stages] == pytest.approx([math.sqrt(2 / 3), math.sqrt(1 / 6), 0.0])


def test_the_curve_by_hand():
    """In the order 3, 2, 1 nothing ever changes class: window 0 asks one member of each row, a third of the cost.

    With four rows and none changed the bound is (1 + 1.645) / 5 = 0.529, so 0.53 is a tolerance that can be promised
    and 0.52 is not.
    """
    found = learn(HAND_MNC, HAND_LABELS_N, mix(HAND_MNC, EQUAL_3), EQUAL_3, np.ones(3))
    first = found.points[0]
    assert (first.window, first.members, first.accuracy_change) == (0.0, 1.0, 0.0)
    assert first.share == pytest.approx(1 / 3)
    assert first.loss_bound == pytest.approx(2.645 / 5)
    assert found.window(tolerance=0.53) == 0.0
    assert found.window(tolerance=0.52) == math.inf
    assert found.window(mean_members=1) == 0.0
    assert found.window(mean_members=3) == math.inf
    assert found.window(mean_members=50) == math.inf


def test_stages_double_and_hold_every_member_once():
    rng = np.random.default_rng(1)
    probs_MNC = softmax(rng.normal(size=(11, 30, 3)))
    weights_M = np.full(11, 1 / 11)
    found = learn(probs_MNC, rng.integers(3, size=30), mix(probs_MNC, weights_M), weights_M, np.ones(11))
    assert [len(stage.members) for stage in found.stages] == [1, 1, 2, 4, 3]
    assert sorted(m for stage in found.stages for m in stage.members) == list(range(11))


def population(rows, seed, members=8, classes=5):
    """Members around one truth, and labels drawn from their mean: the full ensemble is calibrated."""
    rng = np.random.default_rng(seed)
    truth_NC = 2.5 * rng.normal(size=(rows, classes))
    probs_MNC = softmax(truth_NC + 0.8 * rng.normal(size=(members, rows, classes)))
    full_NC = probs_MNC.mean(axis=0)
    labels_N = (full_NC.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1)
    return probs_MNC, full_NC, labels_N


def test_a_budget_of_members_is_kept_where_it_was_learned_and_near_elsewhere():
    probs_MNC, full_NC, labels_N = population(1000, 0)
    weights_M = np.full(8, 1 / 8)
    found = learn(probs_MNC, labels_N, full_NC, weights_M, np.ones(8))
    elsewhere_MNC, _, _ = population(4000, 1)
    for budget in (1, 1.5, 2, 3, 5, 7):
        window = found.window(mean_members=budget)
        point = next(p for p in found.points if p.window == window)
        probs_NC, members_N = through(found.stages, window, weights_M, probs_MNC)
        assert members_N.mean() == pytest.approx(point.members)
        assert budget - 0.5 <= point.members <= budget
        assert point.share == pytest.approx(point.members / 8)
        assert point.accuracy_change == pytest.approx(accuracy(probs_NC, labels_N) - accuracy(full_NC, labels_N))
        assert through(found.stages, window, weights_M, elsewhere_MNC)[1].mean() == pytest.approx(budget, rel=0.15)


def test_a_tolerance_is_kept_on_other_rows():
    """60 cascades, each learned from 400 rows, tolerance 1 point: at most one in twenty may lose more, on average.

    And they must be worth having: less than half of the members are asked.
    """
    everybody_MNC, full_NC, labels_N = population(20_000, 2)
    weights_M, rows = np.full(8, 1 / 8), np.arange(20_000)
    best_N = full_NC.argmax(axis=1)
    losses, asked = [], []
    for seed in range(60):
        some = np.random.default_rng(seed).choice(20_000, 400, replace=False)
        found = learn(everybody_MNC[:, some], labels_N[some], full_NC[some], weights_M, np.ones(8))
        probs_NC, members_N = through(found.stages, found.window(tolerance=0.01), weights_M, everybody_MNC)
        # Labels are drawn from full_NC, so this is the expectation of the loss, without their noise.
        losses.append(np.mean(full_NC[rows, best_N] - full_NC[rows, probs_NC.argmax(axis=1)]))
        asked.append(members_N.mean())
    assert np.mean(np.array(losses) > 0.01) <= 0.05
    assert np.mean(asked) < 4


def test_few_rows_promise_nothing():
    probs_MNC, full_NC, labels_N = population(100, 3)
    found = learn(probs_MNC, labels_N, full_NC, np.full(8, 1 / 8), np.ones(8))
    assert found.window(tolerance=0.001) == math.inf
    assert found.window(tolerance=0.1) < math.inf


@pytest.mark.parametrize(
    ("mean_members", "tolerance", "message"),
    [
        (0.5, None, "at least 1 is allowed, found 0.5"),
        (math.nan, None, "at least one member"),
        (None, -0.1, "found -0.1"),
        (None, 1.0, "found 1.0"),
        (None, math.nan, "found nan"),
        (2.0, 0.1, "not both"),
    ],
)
def test_budgets_that_say_nothing_are_refused(mean_members, tolerance, message):
    with pytest.raises(ConfigError, match=message):
        cascade.check_budget(mean_members, tolerance)


@pytest.mark.parametrize("calibrate", [True, False])
def test_json_and_back(calibrate):
    probs_MNC, full_NC, labels_N = population(200, 4)
    found = learn(probs_MNC, labels_N, full_NC, np.full(8, 1 / 8), np.linspace(1, 2, 8), calibrate)
    assert (found.stages[0].temperature == 1.0) != calibrate
    again = TypeAdapter(Cascade).validate_json(json.dumps(found.to_json(), allow_nan=False), strict=True)
    assert again == found
    again.check(8)


SETTINGS = {
    "m0": {"family": "net", "kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 20},
    "m1": {"family": "trees", "kind": "estimator", "estimator": "extra_trees", "options": {"n_estimators": 5}},
    "m2": {"family": "net", "kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 20},
    "m3": {"family": "knn", "kind": "estimator", "estimator": "k_nearest_neighbours"},
}
WEIGHTS_M = np.array([0.4, 0.3, 0.2, 0.1])


@pytest.fixture(scope="module", params=["average", "stack"])
def served(request, tmp_path_factory):
    """A bundle of two networks of one architecture and two estimators; raw rows; members' and combined predictions."""
    found = load_iris(as_frame=True)
    rows, labels_N = found.data, found.target.to_numpy()
    store = Store(str(tmp_path_factory.mktemp("cascade")))
    preprocessing = Preprocessing.fit(rows, np.arange(0, 150, 3), DataSection(source="sklearn:iris"))
    inputs = preprocessing.transform(rows)
    members, probs_MNC = [], []
    for seed, ((name, settings), weight) in enumerate(zip(SETTINGS.items(), WEIGHTS_M, strict=True)):
        member = registry.build_member(settings)
        member.fit(Examples(inputs[::3], labels_N[::3], 3), Context(seed=seed))
        address = store.write_state(f"{name}.safetensors", member.state())
        members.append(bundle.BundleMember(name, settings, float(weight), address))
        probs_MNC.append(member.predict(inputs))
    combiner = registry.make_plugin("combine", request.param, "combine")
    state = combiner.fit(np.stack(probs_MNC), labels_N, WEIGHTS_M)
    full_NC = apply_temperature(combiner.combine(np.stack(probs_MNC), state), 0.8)
    bundle.write_bundle(
        store,
        "bundle",
        name="iris",
        target=Classes(tuple(map(str, found.target_names))),
        preprocessing=preprocessing.to_json(),
        members=members,
        combine=request.param,
        combine_state=state,
        temperature=0.8,
        metrics={},
        cascade=learn(probs_MNC, labels_N, full_NC, WEIGHTS_M, np.ones(4)),
    )
    rows.to_csv(store.path("rows.csv"), index=False)
    return store, rows, np.stack(probs_MNC), full_NC


def test_a_bundle_without_a_budget_asks_everybody(served):
    store, rows, _, full_NC = served
    probs_NC, members_N = predictor.load(store.path("bundle")).predict_and_count(rows)
    np.testing.assert_allclose(probs_NC, full_NC, atol=1e-6)
    assert set(members_N) == {4}


def test_a_bundle_with_a_budget_walks_its_cascade(served):
    store, rows, probs_MNC, _ = served
    found = predictor.load(store.path("bundle"))
    learned = found.bundle.cascade
    probs_NC, members_N = found.predict_and_count(rows, mean_members=2)
    assert 1 < members_N.mean() <= 2
    first = learned.stages[0]
    alone_NC = apply_temperature(probs_MNC[first.members[0]], first.temperature)
    np.testing.assert_allclose(probs_NC[members_N == 1], alone_NC[members_N == 1], atol=1e-6)
    np.testing.assert_array_equal(found.predict_proba(rows, mean_members=2), probs_NC)
    assert list(found.predict(rows, mean_members=2)) == [found.classes[i] for i in probs_NC.argmax(axis=1)]


def test_rows_that_ask_everybody_get_the_full_answer(served):
    store, rows, _, full_NC = served
    found = predictor.load(store.path("bundle"))
    probs_NC, members_N = found.predict_and_count(rows, mean_members=2)
    assert (members_N == 4).any()
    np.testing.assert_allclose(probs_NC[members_N == 4], full_NC[members_N == 4], atol=1e-6)


def test_steps_and_order_of_rows_do_not_show(served, monkeypatch):
    store, rows, _, _ = served
    found = predictor.load(store.path("bundle"))
    probs_NC, members_N = found.predict_and_count(rows, mean_members=2.5)
    monkeypatch.setattr(predictor, "ROWS_AT_ONCE", 7)
    again_NC, again_N = found.predict_and_count(rows[::-1], mean_members=2.5)
    np.testing.assert_allclose(again_NC[::-1], probs_NC, atol=1e-6)
    assert list(again_N[::-1]) == list(members_N)


def test_a_bundle_older_than_cascades_predicts_but_keeps_no_budget(served, tmp_path):
    store, rows, _, full_NC = served
    folder = shutil.copytree(store.path("bundle"), tmp_path / "old")
    values = json.loads((folder / "bundle.json").read_text())
    del values["cascade"]
    (folder / "bundle.json").write_text(json.dumps(values))
    found = predictor.load(str(folder))
    np.testing.assert_allclose(found.predict_proba(rows), full_NC, atol=1e-6)
    with pytest.raises(BundleError, match="has none"):
        found.predict_proba(rows, tolerance=0.01)


def break_stages(found):
    found["stages"][0]["members"] = [1, 1]


def break_points(found):
    found["points"] = found["points"][1:]


def break_temperature(found):
    found["stages"][0]["temperature"] = 0.0


@pytest.mark.parametrize("change", [break_stages, break_points, break_temperature, lambda found: found.clear()])
def test_a_damaged_cascade_is_named(served, tmp_path, change):
    folder = shutil.copytree(served[0].path("bundle"), tmp_path / "broken")
    values = json.loads((folder / "bundle.json").read_text())
    change(values["cascade"])
    (folder / "bundle.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match="damaged"):
        predictor.load(str(folder))


def test_the_command_line_says_how_many_were_asked(served):
    store, rows, _, _ = served
    words = ["predict", store.path("bundle"), store.path("rows.csv")]
    found = CliRunner().invoke(cli.app, [*words, "--mean-members", "2"])
    asked_N = predictor.load(store.path("bundle")).predict_and_count(rows, mean_members=2)[1]
    assert found.exit_code == 0, found.output
    assert f"mean members per row: {asked_N.mean():.2f} of 4" in found.output
    assert "members asked" not in CliRunner().invoke(cli.app, words).output
    both = CliRunner().invoke(cli.app, [*words, "--mean-members", "2", "--tolerance", "0.01"])
    assert isinstance(both.exception, ConfigError)


def test_mlflow_passes_a_budget_on(served, tmp_path):
    import mlflow.pyfunc
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import ParamSchema, ParamSpec

    store, rows, _, full_NC = served
    inputs = infer_signature(rows, pd.DataFrame(full_NC))
    params = ParamSchema([ParamSpec("mean_members", "double", None), ParamSpec("tolerance", "double", None)])
    mlflow.pyfunc.save_model(
        str(tmp_path / "model"),
        python_model=str(predictor.__file__).replace("predictor.py", "pyfunc.py"),
        artifacts={"bundle": store.path("bundle")},
        signature=ModelSignature(inputs.inputs, inputs.outputs, params),
        pip_requirements=[],
    )
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    np.testing.assert_allclose(model.predict(rows).to_numpy(), full_NC, atol=1e-6)
    expected_NC = predictor.load(store.path("bundle")).predict_proba(rows, mean_members=2)
    found = model.predict(rows, params={"mean_members": 2.0})
    np.testing.assert_array_equal(found.to_numpy(), expected_NC)
    assert np.abs(expected_NC - full_NC).max() > 0.01
