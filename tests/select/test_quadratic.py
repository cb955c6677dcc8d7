"""The quadratic programme behind `quadratic`, its solver, and how its numbers are found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize as slsqp

from distens import registry
from distens.errors import ConfigError
from distens.select import quadratic
from distens.select._simplex import minimise, project
from distens.select.quadratic import Quadratic


def label_probs(*columns: list[float]):
    """Members of a problem with two classes, given what each says of the right class, which is always 0."""
    right_MN = np.array(columns)
    return np.stack([right_MN, 1 - right_MN], axis=2), np.zeros(right_MN.shape[1], dtype=int)


def noisy_members(members: int, examples: int, classes: int = 3, seed: int = 0):
    """Members of unequal skill that share some of their errors."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(classes, size=examples)
    skill_M11 = rng.uniform(0.3, 2.0, size=(members, 1, 1))
    shared_NC = rng.normal(size=(examples, classes))
    logits = rng.normal(size=(members, examples, classes)) + shared_NC + skill_M11 * np.eye(classes)[labels_N]
    exp = np.exp(logits)
    return (exp / exp.sum(axis=2, keepdims=True)).astype(np.float32), labels_N


def solve(q_MM, size: int, tolerance: float = 1e-10):
    bound = np.array([np.abs(q_MM).sum(axis=1).max()])
    return minimise(lambda z: q_MM @ z, bound, np.array([size]), np.ones((len(q_MM), 1)), tolerance)[:, 0]


def test_projection_by_hand():
    """(1.5, 0.4, 0.2), sum 1: with t = 0.55 only the first is left, 0.95; t = 0.5 gives (1, 0, 0). Sum 2: all but the
    first, which is at its cap, fall by t: 0.4 + 0.2 - 2 t = 1, t = -0.2, (1, 0.6, 0.4)."""
    points = np.array([[1.5, 1.5], [0.4, 0.4], [0.2, 0.2]])
    np.testing.assert_allclose(project(points, np.array([1, 2])), [[1, 1], [0, 0.6], [0, 0.4]], atol=1e-15)


def test_projection_is_the_nearest_point():
    """Its definition: for any other point s of the set, (point - projection) . (s - projection) <= 0."""
    rng = np.random.default_rng(0)
    points_MK, sizes_K = rng.normal(scale=2, size=(12, 50)), rng.integers(1, 13, size=50)
    found_MK = project(points_MK, sizes_K)
    assert ((found_MK >= 0) & (found_MK <= 1)).all()
    np.testing.assert_allclose(found_MK.sum(axis=0), sizes_K, atol=1e-12)
    corners = [np.isin(np.arange(12), rng.permutation(12)[:size]) for size in sizes_K]
    towards = (points_MK - found_MK) * (np.array(corners).T - found_MK)
    assert (towards.sum(axis=0) <= 1e-9).all()


def test_a_programme_by_hand():
    """Q = diag(1, 1, 2, 10), sum 2. Without caps z is proportional to 1 / q: 2 / 2.6 (1, 1, 0.5, 0.1) = (0.769, ...,
    0.385, 0.077), all below 1: that is it. With sum 3, 3 / 2.6 > 1 caps the first two at 1; the rest share 1 as
    0.5 : 0.1, (5/6, 1/6)."""
    q = np.diag([1.0, 1.0, 2.0, 10.0])
    np.testing.assert_allclose(solve(q, 2), np.array([1, 1, 0.5, 0.1]) * 2 / 2.6, atol=1e-4)
    np.testing.assert_allclose(solve(q, 3), [1, 1, 5 / 6, 1 / 6], atol=1e-4)


@pytest.mark.parametrize("omega", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("size", [1, 4, 11, 12])
def test_the_solver_finds_what_slsqp_finds(omega, size):
    probs_MNC, labels_N = noisy_members(12, 60)
    residuals = (np.eye(3)[labels_N] - probs_MNC).reshape(12, -1)
    gram = residuals @ residuals.T / 60
    q = omega * gram + (1 - 2 * omega) * np.diag(np.diag(gram)) + 1e-5 * np.eye(12)
    total = {"type": "eq", "fun": lambda z: z.sum() - size, "jac": lambda z: np.ones(12)}
    options = {"ftol": 1e-15, "maxiter": 1000}
    start = np.full(12, size / 12)
    other = slsqp(
        lambda z: (z @ q @ z, 2 * q @ z), start, jac=True, bounds=[(0, 1)] * 12, constraints=total, options=options
    )
    found = solve(q, size)
    assert found @ q @ found <= other.fun * (1 + 1e-8)
    np.testing.assert_allclose(found, other.x, atol=1e-3)


def test_programmes_solved_together_are_those_solved_alone():
    rng = np.random.default_rng(1)
    factors = rng.normal(size=(20, 30))
    q = factors @ factors.T
    sizes = np.array([1, 5, 12])
    bounds = np.full(3, np.abs(q).sum(axis=1).max())
    together = minimise(lambda z: q @ z, bounds, sizes, np.ones((20, 3)), 1e-10)
    for column, size in zip(together.T, sizes, strict=True):
        np.testing.assert_allclose(column, solve(q, int(size)), atol=1e-4)


def test_the_largest_eigenvalue_is_the_same_by_iterations_and_where_they_do_not_converge(monkeypatch):
    """Of A'A with independent numbers; of twins' errors, where nothing differs; and of eigenvalues that lie together,
    1 - (i / 1999)^6, for which the iterations do not converge."""
    rows = np.random.default_rng(0).normal(size=(40, 301))
    gram = rows.T @ rows
    assert quadratic._largest_eigenvalue(gram) == pytest.approx(np.linalg.eigvalsh(gram)[-1], rel=1e-12)
    assert quadratic._largest_eigenvalue(gram) == quadratic._largest_eigenvalue(gram)
    assert quadratic._largest_eigenvalue(np.zeros((301, 301))) == 0
    close = np.diag(1 - np.linspace(0, 1, 2000) ** 6)
    monkeypatch.setattr(quadratic, "_RESTARTS", 2)
    assert quadratic._largest_eigenvalue(close) == pytest.approx(1, rel=1e-12)


def test_many_members_are_selected_as_with_all_eigenvalues(monkeypatch):
    probs_MNC, labels_N = noisy_members(320, 60)
    found_M = Quadratic().select(probs_MNC, labels_N)
    monkeypatch.setattr(quadratic, "_LANCZOS_MEMBERS", 320)
    expected_M = Quadratic().select(probs_MNC, labels_N)
    assert ((found_M > 0) == (expected_M > 0)).all()
    np.testing.assert_allclose(found_M, expected_M, rtol=1e-9, atol=1e-12)


def test_weights_by_hand():
    """a is right with (0.9, 0.5), b with (0.5, 0.8): 2 (1 - p)^2 on average is G_aa = 0.26, G_bb = 0.29, and
    G_ab = 0.05 + 0.1 = 0.15. The Brier score of the mean, with weight z of a, is least where
    z = (G_bb - G_ab) / (G_aa + G_bb - 2 G_ab) = 0.14 / 0.25 = 0.56. No weight above 1/2: both 1/2."""
    probs_MNC, labels_N = label_probs([0.9, 0.5], [0.5, 0.8])
    relaxed = Quadratic(size=1).select(probs_MNC, labels_N)
    np.testing.assert_allclose(relaxed, [0.56, 0.44], atol=0.02)
    assert Quadratic(size=1, weights="equal").select(probs_MNC, labels_N).tolist() == [1, 0]
    assert Quadratic(size=2).select(probs_MNC, labels_N).tolist() == [0.5, 0.5]


def test_omega_nought_looks_at_each_member_alone():
    """Q is diagonal: z is proportional to 1 / G_mm, (1/0.26, 1/0.29), so 0.29 / 0.55 = 0.527 of a."""
    probs_MNC, labels_N = label_probs([0.9, 0.5], [0.5, 0.8])
    found = Quadratic(omega=0.0, size=1).select(probs_MNC, labels_N)
    np.testing.assert_allclose(found, [0.527, 0.473], atol=0.01)


def test_members_worse_than_the_uniform_guess_are_left_out():
    """(0.45, 0.45) has G = 2 * 0.55^2 = 0.605 > 1/2, the uniform guess of two classes; alone, it stays."""
    probs_MNC, labels_N = label_probs([0.9, 0.5], [0.45, 0.45])
    assert Quadratic(size=2).select(probs_MNC, labels_N).tolist() == [1, 0]
    assert Quadratic(size=2).select(probs_MNC[1:], labels_N).tolist() == [1]


def test_members_far_worse_than_most_are_left_out():
    """Eight alike, G = 2 * 0.1^2 = 0.02, and one with 2 * 0.4^2 = 0.32: quartiles 0.02, no range, so 0.32 is out,
    although nine are asked for."""
    probs_MNC, labels_N = label_probs(*[[0.9, 0.9]] * 8, [0.6, 0.6])
    np.testing.assert_allclose(Quadratic(size=9).select(probs_MNC, labels_N), [1 / 8] * 8 + [0])


def test_no_weight_is_above_its_share_and_members_are_as_many_as_asked():
    probs_MNC, labels_N = noisy_members(40, 200)
    for size in (1, 5, 20):
        weights_M = Quadratic(size=size).select(probs_MNC, labels_N)
        assert weights_M.max() <= 1 / size * 1.01
        assert (Quadratic(size=size, weights="equal").select(probs_MNC, labels_N) > 0).sum() <= size


def test_a_member_that_errs_otherwise_is_worth_more_than_a_better_twin():
    """a errs on two rows of ten, its twin too; b errs on three others. Equal weights of two: a and b, not the twins."""
    a = [0.2] * 2 + [0.9] * 8
    b = [0.9] * 7 + [0.2] * 3
    probs_MNC, labels_N = label_probs(a, a, b)
    found = Quadratic(size=2, weights="equal").select(probs_MNC, labels_N)
    assert found[2] == 0.5
    assert sorted(found) == [0, 0.5, 0.5]


@pytest.mark.parametrize("metric", ["nll", "error"])
def test_weights_do_not_depend_on_the_order_of_members_bit_for_bit(metric):
    probs_MNC, labels_N = noisy_members(30, 150)
    order = np.random.default_rng(1).permutation(30)
    for selector in (Quadratic(), Quadratic(omega=None), Quadratic(size=10, weights="equal")):
        plain = selector.select(probs_MNC, labels_N, metric)
        np.testing.assert_array_equal(selector.select(probs_MNC[order], labels_N, metric), plain[order])


def test_sizes_that_err_alike_are_told_apart_by_the_usual_metric():
    """Nobody errs; each of five members is unsure, 0.51, on a fifth of the rows, and says 0.95 elsewhere. -log p is
    0.2 * 0.673 + 0.8 * 0.051 = 0.176 for one member, 0.152 for three, and 0.149 for all five."""
    rows = np.arange(100) % 20
    probs_MNC, labels_N = label_probs(*[np.where(rows // 4 == m, 0.51, 0.95).tolist() for m in range(5)])
    np.testing.assert_allclose(Quadratic(weights="equal").select(probs_MNC, labels_N, "error"), [0.2] * 5)


def test_size_is_found_on_rows_that_had_no_part_in_the_weights():
    """Thirty members, equally good but for chance, on 60 rows: weights of few are luck, and many are chosen. One that
    is nearly always right among them: few."""
    rng = np.random.default_rng(2)
    labels_N = rng.integers(3, size=60)
    logits_MNC = 1.0 * np.eye(3)[labels_N] + rng.normal(size=(30, 60, 3))
    probs_MNC = np.exp(logits_MNC) / np.exp(logits_MNC).sum(axis=-1, keepdims=True)
    tuned = Quadratic()
    assert (tuned.select(probs_MNC, labels_N) > 0).sum() >= 8
    probs_MNC[4] = 0.97 * np.eye(3)[labels_N] + 0.01
    assert tuned.select(probs_MNC, labels_N)[4] > 0.9
    assert Quadratic(size=3).select(probs_MNC, labels_N)[4] == pytest.approx(1 / 3)


@pytest.mark.parametrize("options", [{"omega": 0.6}, {"omega": -0.1}, {"size": 0}, {"weights": "some"}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=rf"select\.{next(iter(options))}"):
        registry.make_plugin("select", {"kind": "quadratic", **options}, "select")
