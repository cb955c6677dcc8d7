"""What a prediction is: the exam that every target sits, and numbers by hand."""

import numpy as np
import pandas as pd
import pytest

from distens import registry
from distens.config.sections import DataSection
from distens.data import source
from distens.data.load import load_data
from distens.errors import ConfigError, DataError
from distens.targets.classes import Classes
from distens.targets.values import Values

KINDS = registry.names("targets")
SELECTORS = registry.names("select")


def problem(kind, members=6, rows=60, seed=0):
    """Return a target, its targets, and predictions_MNK of members that are right, each with noise of its own."""
    rng = np.random.default_rng(seed)
    cls = registry.find_plugin("targets", kind, "here")
    raw = rng.integers(0, 3, rows) if cls is Classes else rng.gamma(2.0, 3.0, rows)
    target, targets_N = cls.encode(raw, "here")
    if cls is Classes:
        logits_MNK = 1.5 * np.eye(3)[targets_N] + rng.normal(size=(members, rows, 3))
        exp = np.exp(logits_MNK)
        return target, targets_N, (exp / exp.sum(axis=2, keepdims=True)).astype(np.float32)
    return target, targets_N, (targets_N + rng.normal(size=(members, rows)))[..., None].astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_says_what_the_metric_of_the_mean_is(kind):
    """With each member added, on all rows and on rows that count several times."""
    target, targets_N, predictions_MNK = problem(kind)
    counts_N = np.random.default_rng(1).integers(0, 3, len(targets_N))
    for metric in target.minimised:
        for importance_N, rows in ((None, np.arange(len(targets_N))), (counts_N, np.repeat(np.arange(60), counts_N))):
            pool, added = target.pools(predictions_MNK, targets_N, metric).on(importance_N), []
            for chosen in (2, 4, 4):
                expected = [
                    target.metrics(
                        np.mean([predictions_MNK[m][rows].astype(float) for m in [*added, new]], axis=0),
                        targets_N[rows],
                    )[metric]
                    for new in range(len(predictions_MNK))
                ]
                np.testing.assert_allclose(pool.with_each(), expected, rtol=1e-6, atol=1e-9)
                pool.add(chosen)
                added.append(chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_fits_together(kind):
    target, targets_N, predictions_MNK = problem(kind)
    one_NK = predictions_MNK[0]
    assert set(target.minimised) <= set(target.metrics(one_NK, targets_N))
    table, losses = target.table(one_NK, targets_N), target.losses(one_NK, targets_N)
    assert set(target.headings) <= set(table) and set(target.higher_is_better) <= set(target.headings)
    for phrase in target.phrases:
        assert losses[phrase.loss].shape == targets_N.shape and phrase.column in table
    assert len(target.column_names) == one_NK.shape[1]
    assert len(target.decisions(one_NK)) == len(targets_N)
    assert target.strata(targets_N).min() == 0 and target.summary
    target.check(one_NK, len(targets_N))
    for wrong_NK in (one_NK[:-1], one_NK[:, :0], np.full_like(one_NK, np.nan)):
        with pytest.raises(ValueError, match="finite"):
            target.check(wrong_NK, len(targets_N))
    assert registry.make_plugin("targets", registry.resolve_options(target), "here") == target


@pytest.mark.parametrize("kind", KINDS)
def test_sums_and_changes_move_as_the_metric_does(kind):
    """`summed` orders two predictions as the metric does; `change` is the slope of the usual one, or of one that is
    least where it is, for a small weight."""
    target, targets_N, predictions_MNK = problem(kind)
    for metric in target.minimised:
        summed = [target.sum_loss(one.astype(float), targets_N, metric) for one in predictions_MNK]
        measured = [target.metrics(one, targets_N)[metric] for one in predictions_MNK]
        assert np.argsort(summed, kind="stable").tolist() == np.argsort(measured, kind="stable").tolist()
    weights_M = np.array([0.5, 0.5, 0, 0, 0, 0])
    change_M = target.change(list(predictions_MNK), targets_N, weights_M, 1e-4)
    before = target.metrics(target.mean(predictions_MNK, weights_M), targets_N)[target.minimised[0]]
    for m, change in enumerate(change_M):
        mixed_M = (1 - 1e-4) * weights_M + 1e-4 * np.eye(6)[m]
        after = target.metrics(target.mean(predictions_MNK, mixed_M), targets_N)[target.minimised[0]]
        assert abs(after - before) < 1e-9 or np.sign(after - before) == np.sign(change)


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_selector_selects_for_every_target(kind, selector):
    target, targets_N, predictions_MNK = problem(kind)
    metric = target.minimised[0]
    weights_M = registry.make_plugin("select", selector, "select").select(predictions_MNK, targets_N, metric, target)
    assert weights_M.min() >= 0 and weights_M.sum() == pytest.approx(1)
    alone = [target.metrics(one, targets_N)[metric] for one in predictions_MNK]
    assert target.metrics(target.mean(predictions_MNK, weights_M), targets_N)[metric] < min(alone)


# Numbers --------------------------------------------------------------------------------------------------------------


def test_numbers_by_hand():
    """Targets 1, 2, 6, mean 3, squared spread 4 + 1 + 9 = 14. Predictions 2, 2, 4 err by 1, 0, -2: RMSE sqrt(5/3), MAE
    1, R² 1 - 5/14."""
    target, targets_N = Values.encode(pd.Series([1, 2, 6], name="y"), "here")
    predictions_N1 = np.array([[2.0], [2.0], [4.0]])
    assert target.table(predictions_N1, targets_N) == pytest.approx(
        {"rmse": np.sqrt(5 / 3), "mae": 1.0, "r2": 1 - 5 / 14}
    )
    assert target.losses(predictions_N1, targets_N)["squared_error"].tolist() == [1.0, 0.0, 4.0]
    assert (target.column_names, target.trivial(targets_N)) == (("y",), pytest.approx(14 / 3))


def test_per_row_losses_of_members_would_select_another():
    """Members err by +4, -4 and 3 in every row. By the losses of its own rows the third is best, and a mean of losses
    is never below the least of them; but the mean of the first two errs by nothing. Both selectors look at the mean."""
    target, targets_N = Values(), np.arange(10.0, 50.0)
    predictions_MN1 = np.stack([targets_N + error for error in (4.0, -4.0, 3.0)])[..., None]
    losses_M = [target.losses(one, targets_N)["squared_error"].mean() for one in predictions_MN1]
    assert int(np.argmin(losses_M)) == 2 and min(losses_M) == pytest.approx(9.0)
    for spec in ({"kind": "greedy", "size": 20, "bags": 1}, {"kind": "quadratic", "size": 1, "omega": 0.5}):
        weights_M = registry.make_plugin("select", spec, "select").select(predictions_MN1, targets_N, "rmse", target)
        mean_NK = target.mean(predictions_MN1, weights_M)
        assert target.metrics(mean_NK, targets_N)["rmse"] < 0.2 and weights_M[1] > 0.4, spec


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.Series([1.0, None, 2.0]), "the target is missing in 1 rows, from 0: 1"),
        (pd.Series(["1", "x"]), "the target must be a number in every row, found 'x'"),
        (pd.Series([1.0, np.inf]), "the target must be a number in every row, found 'inf'"),
        (pd.Series([True, False]), "the target must be a number in every row, found 'True'"),
    ],
)
def test_what_is_no_number_is_said_by_row(column, words):
    with pytest.raises(DataError, match=words):
        Values.encode(column, "here")


def test_strata_of_numbers_are_tenths_and_no_split_lacks_one():
    loaded = load_data(DataSection(source="sklearn:diabetes"), 0)
    dataset = loaded.dataset
    assert loaded.summary.endswith("target is a number") and dataset.targets["train"].dtype == np.float64
    every = np.concatenate(list(dataset.targets.values()))
    edges = np.quantile(every, np.linspace(0, 1, 11))[1:-1]
    for targets_N in dataset.targets.values():
        share = np.bincount(np.searchsorted(edges, targets_N), minlength=10) / len(targets_N)
        assert np.abs(share - 0.1).max() < 0.05
    assert load_data(DataSection(source="sklearn:diabetes"), 1).fingerprint != loaded.fingerprint


def test_a_table_of_fractions_asks_what_is_to_be_predicted(tmp_path):
    rng = np.random.default_rng(0)
    pd.DataFrame({"x": rng.normal(size=100), "y": rng.normal(size=100)}).to_csv(tmp_path / "t.csv", index=False)
    section = {"source": str(tmp_path / "t.csv"), "target": "y"}
    with pytest.raises(
        DataError, match=r"column 'y': the target has 100 different numbers; say .*data.task: regression"
    ):
        source.read_source(DataSection(**section))
    assert isinstance(source.read_source(DataSection(**section, task="regression")).target, Values)
    with pytest.raises(DataError, match=r"class .* has 1 row"):
        load_data(DataSection(**section, task="classification"), 0)
    with pytest.raises(ConfigError, match=r"data.task: unknown task 'regresion'. Did you mean 'regression'"):
        source.read_source(DataSection(**section, task="regresion"))
