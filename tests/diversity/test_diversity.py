"""Measures of how different members are."""

from __future__ import annotations

import numpy as np

from distens.diversity import pairwise
from distens.diversity.pairwise import disagreement, diversity, diversity_to, error_correlation, mean_over_pairs


def random_members(members: int, examples: int, classes: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(classes), (members, examples)), rng.integers(classes, size=examples)


def test_diversity_by_hand():
    """Equation 3: (1, 0) and (0, 1) are sqrt 2 apart, which is 1; (1, 0) and (0.5, 0.5) are sqrt(0.5) apart, which is
    0.5. Over two examples, one at 1 and one at 0: 0.5. With 0.5 and 1: 0.75."""
    a, b, c = [[1, 0], [1, 0]], [[0, 1], [1, 0]], [[0.5, 0.5], [0, 1]]
    div_MM = diversity(np.array([a, b, c], dtype=np.float32))
    np.testing.assert_allclose(div_MM, [[0, 0.5, 0.75], [0.5, 0, 0.75], [0.75, 0.75, 0]], atol=1e-8)


def distances(probs_MNC):
    """The definition, in float64."""
    return [[np.linalg.norm(p - q, axis=1).mean() / np.sqrt(2) for q in probs_MNC] for p in probs_MNC]


def in_small_blocks(monkeypatch):
    monkeypatch.setattr(pairwise, "_MEMBERS", 3)
    monkeypatch.setattr(pairwise, "_NUMBERS", 2000)
    monkeypatch.setattr(pairwise, "_PAIRS", 5)
    monkeypatch.setattr(pairwise, "_FLOAT32_SUM_LENGTH", 4)


def test_diversity_is_the_mean_of_distances_in_blocks_too(monkeypatch):
    probs_MNC, _ = random_members(7, 230, 3)
    np.testing.assert_allclose(diversity(probs_MNC), distances(probs_MNC), atol=1e-6)
    in_small_blocks(monkeypatch)
    np.testing.assert_allclose(diversity(list(probs_MNC)), distances(probs_MNC), atol=1e-6)


def test_diversity_is_accurate_for_members_that_hardly_differ():
    """Members within about 1e-4 of each other, where |a|^2 + |b|^2 - 2 a.b in float32 would be all rounding."""
    rng = np.random.default_rng(0)
    probs_MNC = 0.999 * random_members(1, 500, 10)[0] + 1e-4 * rng.random((6, 500, 10))
    probs_MNC /= probs_MNC.sum(axis=2, keepdims=True)
    expected = distances(probs_MNC)
    assert 1e-5 < np.max(expected) < 3e-4
    np.testing.assert_allclose(diversity(probs_MNC), expected, atol=1e-8)


def test_diversity_to_is_the_mean_over_the_chosen_but_itself(monkeypatch):
    """Against rows of the whole matrix; a member that is the only one chosen has nobody to differ from."""
    probs_MNC, _ = random_members(7, 230, 3)
    div_MM = np.array(distances(probs_MNC))
    expected = [div_MM[m, [k for k in (1, 4, 6) if k != m]].mean() for m in range(7)]
    np.testing.assert_allclose(diversity_to(probs_MNC, np.array([1, 4, 6])), expected, atol=1e-6)
    assert diversity_to(probs_MNC, np.array([2]))[2] == 0
    in_small_blocks(monkeypatch)
    np.testing.assert_allclose(diversity_to(list(probs_MNC), np.array([1, 4, 6])), expected, atol=1e-6)


def test_twins_have_no_diversity_and_swapping_changes_nothing():
    probs_MNC, _ = random_members(5, 40, 4)
    probs_MNC[3] = probs_MNC[1]
    div_MM = diversity(probs_MNC)
    assert div_MM[1, 3] < 1e-7
    assert np.array_equal(div_MM, div_MM.T)
    assert (np.diag(div_MM) == 0).all()
    assert div_MM.max() <= 1
    order = np.array([4, 2, 0, 1, 3])
    np.testing.assert_allclose(diversity(probs_MNC[order]), div_MM[np.ix_(order, order)], atol=1e-6)


def test_disagreement_by_hand(monkeypatch):
    """Classes named: 0 1 1 0, 0 1 0 0, 1 0 0 1. The first two differ on 1 of 4, the first and third on all, the second
    and third on 3 of 4. The same in blocks of one example."""
    named_MN = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [1, 0, 0, 1]])
    probs_MNC = np.eye(2, dtype=np.float32)[named_MN] * 0.8 + 0.1
    expected = [[0, 0.25, 1], [0.25, 0, 0.75], [1, 0.75, 0]]
    np.testing.assert_allclose(disagreement(probs_MNC), expected, atol=1e-12)
    monkeypatch.setattr(pairwise, "_NUMBERS", 6)
    np.testing.assert_allclose(disagreement(list(probs_MNC)), expected, atol=1e-12)


def test_error_correlation_by_hand():
    """Labels are all 0. Mistakes: 1 1 0 0, 1 0 0 0, 0 0 1 1, none. First and second: covariance 1/4 - 1/2 * 1/4 = 1/8,
    variances 1/4 and 3/16: (1/8) / sqrt(3/64) = 1/sqrt 3. First and third are opposites: -1. Never wrong: 0."""
    wrong_MN = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    found = error_correlation(np.eye(2)[wrong_MN], np.zeros(4, dtype=int))
    r = 1 / np.sqrt(3)
    np.testing.assert_allclose(found, [[1, r, -1, 0], [r, 1, -r, 0], [-1, -r, 1, 0], [0, 0, 0, 1]], atol=1e-12)


def test_error_correlation_is_pearsons():
    probs_MNC, labels_N = random_members(6, 200, 3)
    wrong_MN = probs_MNC.argmax(axis=2) != labels_N
    np.testing.assert_allclose(error_correlation(probs_MNC, labels_N), np.corrcoef(wrong_MN), atol=1e-12)


def test_mean_over_pairs_by_hand():
    """(1 + 2 + 6) / 3 = 3; one member has no pairs."""
    assert mean_over_pairs(np.array([[0.0, 1, 2], [1, 0, 6], [2, 6, 0]])) == 3
    assert mean_over_pairs(np.zeros((1, 1))) == 0
