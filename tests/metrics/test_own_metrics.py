"""A user's own function as the metric of search and selection."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_run

import distens
from distens import registry
from distens.config.config import parse_config
from distens.errors import ConfigError
from distens.evaluate import report
from distens.lifecycle.ledger import Ledger
from distens.metrics.protocol import loss_key, measure, with_metric
from distens.records import Finished
from distens.roles.ensemble.plan import build_plan
from distens.storage.store import Store
from distens.targets.classes import Classes
from distens.tracking._records import measures
from distens.tune.sweep import _objective

SCORES = "plugins.scores:"
CLASSES = Classes(("a", "b", "c"))


def make(spec):
    return registry.make_plugin("metrics", spec, "metric")


def members_and_labels(members=12, rows=60, seed=0):
    rng = np.random.default_rng(seed)
    labels_N = np.arange(rows) % 3
    logits_MNC = rng.normal(size=(members, rows, 3)) + rng.uniform(0, 2, size=(members, 1, 1)) * np.eye(3)[labels_N]
    return np.exp(logits_MNC) / np.exp(logits_MNC).sum(axis=2, keepdims=True), labels_N


def finished(path):
    return {task.id: told.report for task, told in Ledger(Store(path)).outcomes() if isinstance(told, Finished)}


# What it is -------------------------------------------------------------------------------------------------------


def test_the_short_form_is_the_long_one():
    long = {"kind": "function", "path": f"{SCORES}f1_score", "mode": "max", "options": {}}
    assert registry.resolve_options(make(f"{SCORES}f1_score")) == long == registry.resolve_options(make(long))


@pytest.mark.parametrize(
    ("function", "mode"), [("f1_score", "max"), ("log_loss", "min"), ("median_error", "min"), ("log_likelihood", "max")]
)
def test_the_mode_follows_from_an_attribute_or_the_name(function, mode):
    assert make(SCORES + function).mode == mode


def test_members_that_are_equals_to_an_own_metric_are_told_apart_by_the_usual_one():
    """Thirty members name the right class in every row; only the last two, which stand behind all that are tried, are
    sure of it, one in the first half and one in the second."""
    labels_N = np.arange(12) % 3
    right_MN = np.full((30, 12), 0.5)
    right_MN[28, :6], right_MN[29, 6:] = 0.9, 0.9
    right_MN[28, 6:], right_MN[29, :6] = 0.7, 0.7
    truth_NC = np.eye(3)[labels_N]
    probs_MNC = right_MN[:, :, None] * truth_NC + (1 - right_MN[:, :, None]) * (1 - truth_NC) / 2
    metric = make(f"{SCORES}f1_score")
    for kind in ({"kind": "top", "size": 2}, {"kind": "greedy", "bags": 1}, "greedy"):
        selector = registry.make_plugin("select", kind, "select")
        weights_M = selector.select(probs_MNC, labels_N, loss_key(metric), with_metric(CLASSES, metric))
        assert np.flatnonzero(weights_M).tolist() == [28, 29]


def test_values_by_hand():
    """Labels 0, 0, 1, predicted 0, 1, 1: F1 is 2/3 for both classes; p(label) is 1/2, 1/4, 1/2."""
    probs_NC, labels_N = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.5, 0.25]]), np.array([0, 0, 1])
    assert measure(make(f"{SCORES}f1_score"), probs_NC, labels_N) == pytest.approx(
        {"f1_score": 2 / 3, "-f1_score": -2 / 3}
    )
    loss = measure(make(f"{SCORES}log_loss"), probs_NC, labels_N)
    assert loss == pytest.approx({"log_loss": np.log(2 * 4 * 2) / 3})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (f"{SCORES}odd", "mode: missing: is more of plugins.scores:odd better"),
        ({"kind": f"{SCORES}odd", "mode": "most"}, "metric.mode"),
        ({"kind": f"{SCORES}f1_score", "options": {"averge": "micro"}}, "Did you mean 'average'"),
        ({"kind": f"{SCORES}f1_score", "average": "micro"}, "metric.average: unknown option"),
        (f"{SCORES}f2_score", "has no class or function 'f2_score'"),
        (f"{SCORES}alone", "must take two arguments"),
        ("sklearn.metrics:f1_score", r"takes the targets first.*def f1_score\(probs_NC, labels_N\)"),
        ("stranger_of_mine:loss", "importing 'stranger_of_mine' failed"),
        (f"{SCORES}accuracy", "mode: missing"),
        ({"path": f"{SCORES}accuracy", "mode": "max"}, "'accuracy' means something else"),
        ("f1", "Allowed: nll, error, or a function of your own, package.module:function"),
    ],
)
def test_what_it_cannot_be_is_refused_with_the_plan(spec, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        build_plan(small_run.config(tmp_path, metric=spec))


def test_a_federation_has_no_metric_of_a_user(tmp_path):
    values = {"name": "f", "role": "federated", "data": {"source": "sklearn:digits"}, "metric": f"{SCORES}f1_score"}
    values |= {"federated": {"clients": 2, "partition": "iid"}, "members": {"c": {"kind": "client", "model": "mlp"}}}
    from distens.roles.federated.plan import build_plan as federated

    with pytest.raises(ConfigError, match=r"is not measured in a federation\. Allowed: nll, error"):
        federated(parse_config(values))


# Selection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["log_loss", "log_likelihood"])
@pytest.mark.parametrize("select", [{"kind": "greedy", "bags": 1}, {"kind": "greedy", "bags": 5}, "top", "quadratic"])
def test_one_that_is_the_likelihood_selects_as_the_likelihood_does(function, select):
    probs_MNC, labels_N = members_and_labels()
    metric, selector = make(SCORES + function), registry.make_plugin("select", select, "select")
    target = with_metric(CLASSES, metric)
    own_M = selector.select(probs_MNC, labels_N, loss_key(metric), target=target)
    np.testing.assert_allclose(own_M, selector.select(probs_MNC, labels_N, "nll"), atol=1e-9)


def test_later_additions_are_chosen_among_the_best_members():
    probs_MNC, labels_N = members_and_labels(members=80)
    metric = make(f"{SCORES}log_loss")
    pool = with_metric(CLASSES, metric).pools(probs_MNC, labels_N, "log_loss").on()
    first_M = pool.with_each()
    pool.add(int(first_M.argmin()))
    later_M = pool.with_each()
    assert np.isfinite(first_M).all()
    assert set(np.flatnonzero(np.isfinite(later_M))) == set(np.argsort(first_M, kind="stable")[:25])


def test_a_sample_without_a_value_is_replaced_by_all_rows():
    probs_MNC, labels_N = members_and_labels()
    metric = make({"kind": f"{SCORES}of_all_classes", "mode": "min"})
    pools = with_metric(CLASSES, metric).pools(probs_MNC, labels_N, "of_all_classes")
    without_c_N = np.where(labels_N == 2, 0, 1)
    np.testing.assert_array_equal(pools.on(without_c_N).with_each(), pools.on().with_each())
    twice_N = np.full(len(labels_N), 2)
    np.testing.assert_allclose(pools.on(twice_N).with_each(), pools.on().with_each())


# Runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    seen = []
    config = small_run.config(folder, metric=f"{SCORES}f1_score", baselines=["seed_ensemble"])
    return distens.run(config, seen.append), seen


def test_it_is_maximised_and_shown_by_its_name(scored):
    result, seen = scored
    own = {name: (made.metrics["f1_score"], made.metrics["-f1_score"]) for name, made in finished(result.path).items()}
    assert all(0 < value <= 1 and loss == -value for value, loss in own.values())
    search = {name: value for name, (value, _) in own.items() if name.startswith("m0")}
    assert len(search) == 9 and len(set(search.values())) > 1
    last = [update for update in seen if update.best is not None][-1]
    assert last.metric == "f1_score" and last.best == max(search.values()) and last.ensemble <= 1
    assert any("f1_score 0.9" in update.text for update in seen)
    stored = json.loads((Path(result.path) / "results.json").read_text())
    assert stored["members"] == search
    assert {*result.rows} >= {"ensemble", "best_single", "student", "seed_ensemble"}
    assert all(0.5 < row["f1_score"] <= 1 for row in [*result.rows.values(), *stored["combine"].values()])


def test_it_stands_in_the_table_and_on_the_page(scored):
    result, _ = scored
    lines = report.table_lines(result.rows, {})
    assert lines[0].index("f1_score") == lines[0].index("AURC") + 1
    page = (Path(result.path) / "report.html").read_text()
    assert "higher is better for accuracy and f1_score" in page


def test_the_resolved_config_says_its_mode(scored):
    text = (Path(scored[0].path) / "config.yaml").read_text()
    assert "path: plugins.scores:f1_score" in text and "mode: max" in text


def test_a_bundle_needs_no_metric(scored):
    path = f"{scored[0].path}/final/ensemble"
    assert "scores" not in json.loads(Path(path, "bundle.json").read_text())["extra"].get("sources", {})
    code = f"import distens, sys; distens.load({path!r}); assert 'plugins.scores' not in sys.modules; print('loaded')"
    assert "loaded" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout


def test_mlflow_is_told_its_value_alone(scored):
    told = next(told for _, told in Ledger(Store(scored[0].path)).outcomes())
    found = measures(told)
    assert found["f1_score"] == told.report.metrics["f1_score"] and not any("-" in name for name in found)


@pytest.mark.parametrize("search", ["gain", "bayes", "rising_bandit", "evolution"])
def test_every_search_goes_by_it(search, tmp_path):
    members = {
        "forest": {
            "kind": "estimator",
            "estimator": "extra_trees",
            "options": {"n_estimators": 3, "max_depth": {"low": 1, "high": 6}},
        }
    }
    changes = {"members": members, "distill": None, "baselines": [], "search": {"kind": search, "members": 8}}
    result = distens.run(small_run.config(tmp_path, metric=f"{SCORES}f1_score", select="quadratic", **changes))
    assert 0.5 < result.rows["ensemble"]["f1_score"] <= 1


def test_numbers_and_a_schedule(tmp_path):
    members = {
        "net": {
            "kind": "regressor",
            "model": {"kind": "mlp", "hidden": [8]},
            "epochs": 4,
            "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
        }
    }
    config = {"data": {"source": "sklearn:diabetes"}, "members": members, "distill": None, "baselines": []}
    config |= {"search": {"kind": "random", "members": 4}, "schedule": {"kind": "halving", "eta": 2, "minimum": 2}}
    result = distens.run(small_run.config(tmp_path, metric=f"{SCORES}median_error", **config))
    assert 10 < result.rows["ensemble"]["median_error"] < 200
    assert "rmse" in result.rows["ensemble"]


# Faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": f"{SCORES}faulty", "mode": "max"}, r"ZeroDivisionError: .*scores.py, line \d+\) \(tried on 24 rows"),
        (f"{SCORES}each_row_error", "must return one number, found array"),
        (f"{SCORES}nan_loss", "is nan for 24 rows"),
    ],
)
def test_a_faulty_one_ends_the_run_before_anything_is_trained(spec, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        distens.run(small_run.config(tmp_path, metric=spec))
    assert not list(tmp_path.glob("*/members"))


def test_a_member_for_which_it_is_not_finite_is_left_out(tmp_path):
    members = {
        "knn": {
            "kind": "estimator",
            "estimator": "k_nearest_neighbours",
            "options": {"n_neighbors": {"choices": [1, 9]}},
        }
    }
    changes = {"members": members, "distill": None, "baselines": [], "search": {"kind": "random", "members": 2}}
    result = distens.run(small_run.config(tmp_path, metric=f"{SCORES}unsure_loss", **changes))
    assert len(finished(result.path)) == 1
    stored = json.loads((Path(result.path) / "results.json").read_text())
    assert [(f["reason"], f["message"]) for f in stored["failures"]] == [("diverged", "unsure_loss is nan")]


# Sweeps and Tune --------------------------------------------------------------------------------------------------


def test_a_sweep_may_choose_by_it(tmp_path):
    sweep = {"over": {"seed": {"low": 0, "high": 3}}, "samples": 2, "metric": "ensemble.f1_score"}
    assert _objective(small_run.config(tmp_path, metric=f"{SCORES}f1_score", sweep=sweep)) == (
        "ensemble",
        "f1_score",
        "max",
    )
    with pytest.raises(ConfigError, match=r"sweep.mode: would choose the worst run by f1_score"):
        _objective(small_run.config(tmp_path, metric=f"{SCORES}f1_score", sweep={**sweep, "mode": "min"}))
    with pytest.raises(ConfigError, match=r"found 'ensemble.f1_score'"):
        _objective(small_run.config(tmp_path, sweep=sweep))


def test_tune_gets_its_name_and_mode(tmp_path):
    from distens.tune import DivBOSearch

    search = DivBOSearch.of(small_run.config(tmp_path, metric=f"{SCORES}f1_score"))
    assert (search.metric, search.mode) == ("f1_score", "max")
