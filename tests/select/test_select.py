"""Selectors: the exam that every one of them sits, and what each is for."""

from __future__ import annotations

import numpy as np
import pytest

from distens import registry
from distens.probabilities import class_metrics, mix
from distens.select.greedy import Greedy
from distens.select.top import Top
from distens.targets import _class_pool
from distens.targets.values import Values

SELECTORS = registry.names("select")


def noisy_members(members: int, examples: int = 60, classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(classes, size=examples)
    logits = rng.normal(size=(members, examples, classes)) + 1.5 * np.eye(classes)[labels_N]
    exp = np.exp(logits)
    return (exp / exp.sum(axis=2, keepdims=True)).astype(np.float32), labels_N


def selector(name: str):
    return registry.make_plugin("select", name, "select")


@pytest.mark.parametrize("metric", ["nll", "error"])
@pytest.mark.parametrize("name", SELECTORS)
def test_weights_are_non_negative_and_sum_to_one(name, metric):
    for members in (1, 2, 13, 40):
        weights_M = selector(name).select(*noisy_members(members), metric)
        assert weights_M.shape == (members,)
        assert (weights_M >= 0).all()
        assert abs(weights_M.sum() - 1) < 1e-9


@pytest.mark.parametrize("metric", ["nll", "error"])
@pytest.mark.parametrize("name", SELECTORS)
def test_same_question_same_answer(name, metric):
    probs_MNC, labels_N = noisy_members(20)
    first = selector(name).select(probs_MNC, labels_N, metric)
    assert np.array_equal(first, selector(name).select(probs_MNC, labels_N, metric))


@pytest.mark.parametrize("name", SELECTORS)
def test_order_of_members_does_not_matter(name):
    """With distinct losses (nll) there are no ties to break."""
    probs_MNC, labels_N = noisy_members(15)
    order = np.random.default_rng(3).permutation(15)
    weights_M = selector(name).select(probs_MNC, labels_N)
    np.testing.assert_allclose(selector(name).select(probs_MNC[order], labels_N), weights_M[order], atol=1e-9)


@pytest.mark.parametrize("metric", ["nll", "error"])
@pytest.mark.parametrize("name", SELECTORS)
def test_a_perfect_member_has_the_largest_weight(name, metric):
    probs_MNC, labels_N = noisy_members(12)
    probs_MNC[7] = np.eye(3, dtype=np.float32)[labels_N]
    weights_M = selector(name).select(probs_MNC, labels_N, metric)
    assert weights_M[7] == weights_M.max()
    assert weights_M[7] > 0


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selection_is_no_worse_than_the_mean_of_its_members(name):
    probs_MNC, labels_N = noisy_members(25)
    weights_M = selector(name).select(probs_MNC, labels_N)
    alone = [class_metrics(p, labels_N)["nll"] for p in probs_MNC]
    assert class_metrics(mix(probs_MNC, weights_M), labels_N)["nll"] < np.mean(alone)


@pytest.mark.parametrize("name", SELECTORS)
def test_read_only_memory_maps_and_lists_will_do(name, tmp_path):
    probs_MNC, labels_N = noisy_members(6)
    mapped = []
    for i, probs_NC in enumerate(probs_MNC):
        np.save(tmp_path / f"{i}.npy", probs_NC)
        mapped.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    for metric in ("nll", "error"):
        expected = selector(name).select(probs_MNC, labels_N, metric)
        np.testing.assert_allclose(selector(name).select(mapped, labels_N, metric), expected, atol=1e-12)


@pytest.mark.parametrize("name", SELECTORS)
def test_what_cannot_be_selected_is_refused(name):
    probs_MNC, labels_N = noisy_members(3)
    with pytest.raises(ValueError, match="found 'accuracy'"):
        selector(name).select(probs_MNC, labels_N, "accuracy")
    with pytest.raises(ValueError, match="no members"):
        selector(name).select([], labels_N)


def label_probs(*columns: list[float]):
    """Members of a problem with two classes, given what each says of the right class, which is always 0."""
    right_MN = np.array(columns)
    return np.stack([right_MN, 1 - right_MN], axis=2), np.zeros(right_MN.shape[1], dtype=int)


def test_top_by_hand():
    """Mean -log p: 0.916 for (0.4, 0.4), 1.204 for (0.9, 0.1), 0.693 for (0.5, 0.5)."""
    probs_MNC, labels_N = label_probs([0.4, 0.4], [0.9, 0.1], [0.5, 0.5])
    assert Top(size=2).select(probs_MNC, labels_N).tolist() == [0.5, 0.0, 0.5]
    assert Top(size=1).select(probs_MNC, labels_N).tolist() == [0.0, 0.0, 1.0]
    assert Top(size=9).select(probs_MNC, labels_N).tolist() == [1 / 3] * 3


def test_top_minimises_what_it_is_told():
    """(0.9, 0.1) errs on 1 of 2 with nll 1.204; (0.45, 0.45) errs on both with nll 0.799."""
    probs_MNC, labels_N = label_probs([0.9, 0.1], [0.45, 0.45])
    assert Top(size=1).select(probs_MNC, labels_N, "error").tolist() == [1.0, 0.0]
    assert Top(size=1).select(probs_MNC, labels_N, "nll").tolist() == [0.0, 1.0]


def test_greedy_by_hand():
    """a = (0.9, 0.1), b = (0.1, 0.9), c = (0.4, 0.4): alone 1.204, 1.204, 0.916, so c is first. c + a is (0.65, 0.25),
    0.909, and beats c + c, 0.916; b likewise. c + a + b is (0.467, 0.467), 0.762, and beats all else. A fourth
    addition makes it worse (c + a + b + a: (0.575, 0.375), 0.767): cut, it is left out; uncut, it stays."""
    probs_MNC, labels_N = label_probs([0.9, 0.1], [0.1, 0.9], [0.4, 0.4])
    assert Greedy(size=1, bags=1).select(probs_MNC, labels_N).tolist() == [0, 0, 1]
    np.testing.assert_allclose(Greedy(size=3, bags=1).select(probs_MNC, labels_N), [1 / 3] * 3)
    np.testing.assert_allclose(Greedy(size=4, bags=1).select(probs_MNC, labels_N), [1 / 3] * 3)
    uncut = Greedy(size=4, cut=False, bags=1).select(probs_MNC, labels_N)
    assert sorted(uncut[:2]) == [0.25, 0.5]
    assert uncut[2] == 0.25


def test_greedy_prefers_members_already_in_among_equals():
    """Three twins and one member that is wrong: whichever twin is first is added again each time, and cut, one
    addition is enough. The seed decides which twin."""
    probs_MNC, labels_N = label_probs(*[[0.8, 0.8]] * 3, [0.1, 0.1])
    uncut = Greedy(size=10, cut=False, bags=1).select(probs_MNC, labels_N)
    assert sorted(uncut) == [0, 0, 0, 1]
    chosen = {int(np.argmax(Greedy(seed=seed, bags=1).select(probs_MNC, labels_N))) for seed in range(30)}
    assert chosen == {0, 1, 2}


def test_top_breaks_ties_by_the_usual_metric():
    """All but the last make no error; -log p is 0.511, 0.105 and 0.105, and of those two the earlier is kept."""
    probs_MNC, labels_N = label_probs([0.6, 0.6], [0.9, 0.9], [0.9, 0.9], [0.9, 0.1])
    assert Top(size=1).select(probs_MNC, labels_N, "error").tolist() == [0, 1, 0, 0]
    assert Top(size=3).select(probs_MNC, labels_N, "error").tolist() == [1 / 3, 1 / 3, 1 / 3, 0]


def test_greedy_breaks_ties_by_the_usual_metric():
    """Nobody errs. -log p is 0.511 for (0.6, 0.6), and (0.105 + 0.223) / 2 = 0.1643 for the others; their mean, (0.85,
    0.85), has 0.1625, and with one of them once more, (0.867, 0.833), 0.1627: that is cut. Left in whatever order, two
    members with a smaller -log p than the best of them, where all were equals to the share of errors."""
    probs_MNC, labels_N = label_probs([0.6, 0.6], [0.9, 0.8], [0.8, 0.9])
    for seed in range(5):
        assert Greedy(size=5, bags=1, seed=seed).select(probs_MNC, labels_N, "error").tolist() == [0, 0.5, 0.5]


def test_where_thousand_rows_tie_the_ensemble_is_no_worse_than_the_best_member():
    """Sixty members that never err, of which one is sure: by the share of errors alone any of them would do."""
    rng = np.random.default_rng(0)
    labels_N = rng.integers(2, size=1000)
    right_MN = rng.uniform(0.55, 0.9, size=(60, 1000))
    right_MN[40] = rng.uniform(0.9, 0.99, size=1000)
    first_MN = np.where(labels_N, 1 - right_MN, right_MN).astype(np.float32)
    probs_MNC = np.stack([first_MN, 1 - first_MN], axis=2)
    best = class_metrics(probs_MNC[40], labels_N)["nll"]
    for name in SELECTORS:
        options = {"kind": name, "size": 1} if name == "top" else name
        weights_M = registry.make_plugin("select", options, "select").select(probs_MNC, labels_N, "error")
        assert class_metrics(mix(probs_MNC, weights_M), labels_N)["nll"] <= best + 1e-9
        assert (weights_M > 0).sum() < 10


def test_numbers_break_ties_too():
    """Errors of (1, 1) and (0, 2) have the mean absolute error 1; the roots of their mean squares are 1 and 1.41."""
    targets_N = np.zeros(2)
    members = [np.array([[0.0], [2.0]]), np.array([[1.0], [1.0]])]
    for how in (Top(size=1), Greedy(size=1, bags=1)):
        assert how.select(members, targets_N, "mae", Values()).tolist() == [0, 1]


def test_greedy_is_what_trying_every_addition_finds():
    """Against the definition, written plainly: the mean prediction of the bag and each member, measured anew."""
    probs_MNC, labels_N = noisy_members(9, seed=4)
    bag: list[int] = []
    losses = []
    for _ in range(8):
        tried = [class_metrics(probs_MNC[[*bag, m]].astype(float).mean(axis=0), labels_N)["nll"] for m in range(9)]
        bag.append(int(np.argmin(tried)))
        losses.append(min(tried))
    expected = np.bincount(bag, minlength=9) / 8
    np.testing.assert_allclose(Greedy(size=8, cut=False, bags=1).select(probs_MNC, labels_N), expected)
    best = int(np.argmin(losses)) + 1
    np.testing.assert_allclose(
        Greedy(size=8, bags=1).select(probs_MNC, labels_N), np.bincount(bag[:best], minlength=9) / best
    )


def plain(probs_MNC, labels_N, metric: str, rows_N, size: int, order_M):
    """The definition on drawn rows, in float64: for every addition, the mean with each member."""
    probs_MNC, labels_N = probs_MNC[:, rows_N].astype(float), labels_N[rows_N]
    sum_NC, counts_M = np.zeros(probs_MNC.shape[1:]), np.zeros(len(probs_MNC))
    for _ in range(size):
        sums = sum_NC + probs_MNC
        means = sums[:, np.arange(len(labels_N)), labels_N] / (counts_M.sum() + 1)
        nll_M = -np.log(np.maximum(means, 1e-12)).mean(axis=1)
        losses_M = (sums.argmax(axis=2) != labels_N).mean(axis=1) if metric == "error" else nll_M
        equal = np.flatnonzero(losses_M <= losses_M.min() + 1e-12)
        equal = equal[nll_M[equal] <= nll_M[equal].min() + 1e-12]
        chosen = min(equal, key=lambda m: (counts_M[m] == 0, order_M[m]))
        sum_NC += probs_MNC[chosen]
        counts_M[chosen] += 1
    return counts_M / size


def sure_members(seed: int = 5):
    """Members that name one class with certainty, or share it among two or four: sums are full of exact ties, and of
    labels that nobody believes in (-log p is at its floor)."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(4, size=45)
    named_MNK = np.where(rng.random((30, 45, 4)) < 0.5, labels_N[:, None], rng.integers(4, size=(30, 45, 4)))
    return np.eye(4, dtype=np.float32)[named_MNK].mean(axis=2).astype(np.float32), labels_N


@pytest.mark.parametrize("metric", ["nll", "error"])
@pytest.mark.parametrize("members", ["noisy", "sure"])
@pytest.mark.parametrize("numbers", [200, 131_072])
def test_selections_are_those_of_the_definition_with_bags_and_ties_and_in_blocks(members, metric, numbers, monkeypatch):
    monkeypatch.setattr(_class_pool, "_BLOCK_VALUES", numbers)
    probs_MNC, labels_N = noisy_members(30, 70, 4, seed=1) if members == "noisy" else sure_members()
    for bags in (1, 3):
        rng = np.random.default_rng(0)
        order_M, rows = rng.permutation(30), len(labels_N)
        draws = [rng.integers(rows, size=rows) if bags > 1 else np.arange(rows) for _ in range(bags)]
        expected = np.mean([plain(probs_MNC, labels_N, metric, rows_N, 12, order_M) for rows_N in draws], axis=0)
        found = Greedy(size=12, cut=False, bags=bags).select(probs_MNC, labels_N, metric)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_losses_with_counted_rows_by_hand():
    """Rows that count 2, 0 and 1, label 0 throughout. Alone, (0.5, 0.9, 0.2) has -log p (2 log 2 + log 5) / 3 = 0.9986
    and errs on 1 of 3. With it in, (0.3, 0.1, 1) gives means 0.4 and 0.6: (2 * 0.9163 + 0.5108) / 3 = 0.7811; it errs
    on the first row, which counts twice, and gets the last one right: 2/3."""
    probs_MNC, labels_N = label_probs([0.5, 0.9, 0.2], [0.3, 0.1, 1.0])
    for metric, alone, second in (("nll", 0.9986, 0.7811), ("error", 1 / 3, 2 / 3)):
        losses = _class_pool.ClassPools(probs_MNC, labels_N, metric).on(np.array([2, 0, 1]))
        np.testing.assert_allclose(losses.with_each()[0], alone, atol=1e-4)
        losses.add(0)
        np.testing.assert_allclose(losses.with_each()[1], second, atol=1e-4)


def test_greedy_beats_the_best_member_on_what_it_minimises():
    probs_MNC, labels_N = noisy_members(30, seed=2)
    for metric in ("nll", "error"):
        weights_M = Greedy().select(probs_MNC, labels_N, metric)
        assert class_metrics(mix(probs_MNC, weights_M), labels_N)[metric] < min(
            class_metrics(p, labels_N)[metric] for p in probs_MNC
        )


def test_bagged_greedy_averages_plain_selections_of_bootstrap_samples():
    """Two samples of three rows, drawn as `Greedy` draws them, each with its plain selection: the mean of both."""
    rng = np.random.default_rng(3)
    probs_MNC = rng.dirichlet([1, 1], size=(4, 3))
    labels_N = np.array([0, 1, 1])
    draws = np.random.default_rng(0)
    draws.permutation(4)
    samples = [draws.integers(3, size=3) for _ in range(2)]
    plain = [Greedy(bags=1).select(probs_MNC[:, rows], labels_N[rows]) for rows in samples]
    np.testing.assert_allclose(Greedy(bags=2).select(probs_MNC, labels_N), np.mean(plain, axis=0))


def test_bagging_is_less_taken_in_by_luck_with_few_rows():
    """Thirty members, equally good but for chance, and 40 rows to select on: on fresh rows the bagged selection has the
    lower negative log-likelihood, on average over 20 draws."""
    gain = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels_N = rng.integers(3, size=1040)
        logits_MNC = 1.5 * np.eye(3)[labels_N] + rng.normal(size=(30, 1040, 3))
        probs_MNC = np.exp(logits_MNC) / np.exp(logits_MNC).sum(axis=-1, keepdims=True)
        losses = []
        for bags in (1, 20):
            weights_M = Greedy(bags=bags).select(probs_MNC[:, :40], labels_N[:40])
            mixed_NC = np.tensordot(weights_M, probs_MNC[:, 40:], axes=1)
            losses.append(-np.log(mixed_NC[np.arange(1000), labels_N[40:]]).mean())
        gain.append(losses[0] - losses[1])
    assert np.mean(gain) > 2 * np.std(gain) / np.sqrt(20) > 0
