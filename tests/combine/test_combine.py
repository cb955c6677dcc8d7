from __future__ import annotations

import numpy as np
import pytest

from distens import registry
from distens.combine.average import Average
from distens.combine.classwise import Classwise
from distens.combine.geometric import Geometric
from distens.combine.stack import Stack
from distens.errors import ConfigError
from distens.probabilities import negative_log_likelihood, softmax
from distens.records import State
from distens.storage.store import Store


def _members(members: int, rows: int, classes: int = 3, seed: int = 0):
    """Return probs_MNC (float32, as members speak) that know something, labels_N and weights_M."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, classes, rows)
    logits = rng.normal(size=(members, rows, classes)) + 2 * np.eye(classes)[labels_N]
    weights_M = rng.uniform(0.5, 1.5, members)
    return softmax(logits).astype(np.float32), labels_N, weights_M / weights_M.sum()


@pytest.fixture(params=registry.names("combine"))
def combiner(request):
    return registry.make_plugin("combine", request.param, "combine")


# The exam that every combiner sits.


def test_rows_are_probabilities_in_float64(combiner):
    probs_MNC, labels_N, weights_M = _members(5, 40)
    out = combiner.combine(probs_MNC, combiner.fit(probs_MNC, labels_N, weights_M))
    assert out.dtype == np.float64
    assert out.shape == (40, 3)
    assert (out >= 0).all()
    np.testing.assert_allclose(out.sum(axis=1), 1, atol=1e-12)


def test_order_of_members_changes_nothing(combiner):
    probs_MNC, labels_N, weights_M = _members(6, 60)
    order = np.array([3, 0, 5, 1, 4, 2])
    plain = combiner.combine(probs_MNC, combiner.fit(probs_MNC, labels_N, weights_M))
    state = combiner.fit(probs_MNC[order], labels_N, weights_M[order])
    np.testing.assert_allclose(combiner.combine(probs_MNC[order], state), plain, atol=1e-9, rtol=0)


def test_one_member_works(combiner):
    probs_MNC, labels_N, _ = _members(1, 30)
    out = combiner.combine(probs_MNC, combiner.fit(probs_MNC, labels_N, np.ones(1)))
    assert (out.argmax(axis=1) == probs_MNC[0].argmax(axis=1)).mean() > 0.8
    np.testing.assert_allclose(out.sum(axis=1), 1, atol=1e-12)


def test_state_is_restored_exactly_from_storage(combiner, tmp_path):
    probs_MNC, labels_N, weights_M = _members(4, 50)
    state = combiner.fit(probs_MNC, labels_N, weights_M)
    store = Store(str(tmp_path))
    store.write_state("combine.safetensors", state)
    again = store.read_state("combine.safetensors")
    assert dict(again.meta) == dict(state.meta)
    np.testing.assert_array_equal(combiner.combine(probs_MNC, again), combiner.combine(probs_MNC, state))


def test_read_only_arrays_are_enough_and_stay_as_they_are(combiner):
    given = _members(4, 50)
    kept = [value.copy() for value in given]
    for value in given:
        value.setflags(write=False)
    probs_MNC, labels_N, weights_M = given
    combiner.combine(probs_MNC, combiner.fit(probs_MNC, labels_N, weights_M))
    for value, before in zip(given, kept, strict=True):
        np.testing.assert_array_equal(value, before)


def test_fitting_again_gives_the_same_state(combiner):
    probs_MNC, labels_N, weights_M = _members(4, 50)
    first, second = (combiner.fit(probs_MNC, labels_N, weights_M) for _ in range(2))
    for name, value in first.arrays.items():
        np.testing.assert_array_equal(value, second.arrays[name])


def test_certain_members_and_an_absent_class_stay_finite(combiner):
    labels_N = np.array([0, 1, 0, 1, 0, 1])
    certain = np.eye(3)[labels_N].astype(np.float32)
    probs_MNC = np.stack([certain, certain[::-1], np.full((6, 3), 1 / 3, dtype=np.float32)])
    state = combiner.fit(probs_MNC, labels_N, np.array([0.4, 0.4, 0.2]))
    assert all(np.isfinite(value).all() for value in state.arrays.values())
    assert np.isfinite(combiner.combine(probs_MNC, state)).all()


# Each by hand.


def test_average_by_hand():
    """0.75 (0.8, 0.2) + 0.25 (0.4, 0.6) = (0.6 + 0.1, 0.15 + 0.15) = (0.7, 0.3)."""
    probs_MNC = np.array([[[0.8, 0.2]], [[0.4, 0.6]]])
    state = Average().fit(probs_MNC, np.array([0]), np.array([0.75, 0.25]))
    np.testing.assert_allclose(Average().combine(probs_MNC, state), [[0.7, 0.3]], atol=1e-15)


def test_geometric_by_hand():
    """Weights 3/4 and 1/4 of (0.8, 0.2) and (0.2, 0.8): odds 4^(3/4) / 4^(1/4) = 2, so (2/3, 1/3)."""
    probs_MNC = np.array([[[0.8, 0.2]], [[0.2, 0.8]]])
    state = Geometric().fit(probs_MNC, np.array([0]), np.array([3.0, 1.0]))
    np.testing.assert_allclose(Geometric().combine(probs_MNC, state), [[2 / 3, 1 / 3]])


def test_classwise_by_hand():
    """Rows of class 0, 0 and 1. Member 0 gives the truth 0.9, 0.7 and 0.2 (mean 0.6), member 1 0.5, 0.5 and 0.8 (0.6).
    Class 0: (1.6 + 0.6) / 3 = 11/15 and 1.6 / 3 = 8/15; class 1: (0.2 + 0.6) / 2 = 0.4 and 0.7; times weights 1/3 and
    2/3, scaled: 11/27 and 16/27, 2/9 and 7/9. Of (0.9, 0.1) and (0.5, 0.5) they make 17.9/27 and 11/27 * 9/11: class 0
    is (9.9 + 8) / 27, class 1 (0.2 + 3.5) / 9 = 11.1/27, together 29/27."""
    probs_MNC = np.array([[[0.9, 0.1], [0.7, 0.3], [0.8, 0.2]], [[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]]])
    state = Classwise().fit(probs_MNC, np.array([0, 0, 1]), np.array([1 / 3, 2 / 3]))
    np.testing.assert_allclose(state.arrays["weights"], [[11 / 27, 2 / 9], [16 / 27, 7 / 9]])
    np.testing.assert_allclose(Classwise().combine(probs_MNC[:, :1], state), [[17.9 / 29, 11.1 / 29]])


def test_stack_combines_by_hand():
    """w = (1/2, 1/2), b = (log 3, 0): odds sqrt(0.8 / 0.2) sqrt(0.5 / 0.5) 3 = 2 * 1 * 3 = 6, so (6/7, 1/7)."""
    probs_MNC = np.array([[[0.8, 0.2]], [[0.5, 0.5]]])
    state = State({"weights": np.array([0.5, 0.5]), "bias": np.array([np.log(3), 0.0])})
    np.testing.assert_allclose(Stack().combine(probs_MNC, state), [[6 / 7, 1 / 7]], atol=1e-15)


def test_stack_fits_by_hand():
    """One member says (0.8, 0.2) of four rows, three of which are of class 0.

    With hardly any pull the fit says 3/4: w log 4 + b_0 - b_1 = log 3. Of all (w, b) that do, the pull takes the one
    nearest to (1, 0, 0), along the gradient (log 4, 1, -1): w = 1 + t log 4, b = (t, -t), so
    log 4 + t (log^2 4 + 2) = log 3, t = (log 3 - log 4) / (log^2 4 + 2) = -0.287682 / 3.921812 = -0.073354;
    w = 1 - 0.073354 * 1.386294 = 0.898310.
    """
    probs_MNC = np.tile([0.8, 0.2], (1, 4, 1))
    state = Stack("constant", l2=1e-6).fit(probs_MNC, np.array([0, 0, 1, 0]), np.ones(1))
    np.testing.assert_allclose(state.arrays["weights"], [0.898310], atol=2e-6)
    np.testing.assert_allclose(state.arrays["bias"], [-0.073354, 0.073354], atol=2e-6)
    np.testing.assert_allclose(Stack().combine(probs_MNC, state)[0], [0.75, 0.25], atol=1e-5)


def test_a_strong_pull_leaves_the_weighted_log_pool():
    """With w pulled to (1/2, 1/2) and b to 0, the odds are the geometric mean, sqrt(4 * 1) = 2."""
    probs_MNC = np.array([[[0.8, 0.2]], [[0.5, 0.5]]])
    state = Stack("constant", l2=1e9).fit(probs_MNC, np.array([1]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(Stack().combine(probs_MNC, state), [[2 / 3, 1 / 3]], atol=1e-8)


def test_few_rows_move_the_stacker_less_than_many():
    probs_MNC, labels_N, _ = _members(3, 20)
    pull_M = np.array([0.1, 0.1, 0.8])
    few = Stack("constant", l2=10.0).fit(probs_MNC, labels_N, pull_M).arrays["weights"]
    many = (
        Stack("constant", l2=10.0).fit(np.tile(probs_MNC, (1, 50, 1)), np.tile(labels_N, 50), pull_M).arrays["weights"]
    )
    assert np.abs(few - pull_M).max() < np.abs(many - pull_M).max() / 2


def test_a_member_that_misleads_gets_no_weight():
    probs_MNC, labels_N, _ = _members(2, 400, classes=2)
    probs_MNC = np.stack([probs_MNC[0], probs_MNC[1][:, ::-1]])  # the second says the opposite of what it knows
    weights_M = Stack("constant", l2=0.1).fit(probs_MNC, labels_N, np.array([0.5, 0.5])).arrays["weights"]
    assert weights_M[1] == 0
    assert weights_M[0] > 0.5


def test_per_class_fits_by_hand():
    """One member says (0.8, 0.2) of four rows, three of class 0; the fit says 3/4 (see above). The nearest to
    (1, 1, 0, 0) along the gradient (log 0.8, -log 0.2, 1, -1) is at t = (log 3 - log 4) / (log^2 0.8 + log^2 0.2 + 2) =
    -0.287682 / 4.640083 = -0.061999: weights 1 - 0.061999 log 0.8 = 1.013835 and 1 + 0.061999 log 0.2 = 0.900216.
    """
    probs_MNC = np.tile([0.8, 0.2], (1, 4, 1))
    state = Stack("per_class", l2=1e-6).fit(probs_MNC, np.array([0, 0, 1, 0]), np.ones(1))
    np.testing.assert_allclose(state.arrays["weights"], [[1.013835, 0.900216]], atol=2e-6)
    np.testing.assert_allclose(state.arrays["bias"], [-0.061999, 0.061999], atol=2e-6)
    np.testing.assert_allclose(Stack().combine(probs_MNC, state)[0], [0.75, 0.25], atol=1e-5)


def test_linear_fits_by_hand():
    """As above, from the identity: the map's gradient is (log 0.8, -log 0.8; log 0.2, -log 0.2), the bias's (1, -1), so
    t = -0.287682 / (2 log^2 0.8 + 2 log^2 0.2 + 2) = -0.287682 / 7.280166 = -0.039516; t log 0.8 = 0.008818 and
    t log 0.2 = 0.063598 go to the first column and from the second.
    """
    probs_MNC = np.tile([0.8, 0.2], (1, 4, 1))
    state = Stack("linear", l2=1e-6).fit(probs_MNC, np.array([0, 0, 1, 0]), np.ones(1))
    np.testing.assert_allclose(state.arrays["weights"], [[[1.008818, -0.008818], [0.063598, 0.936402]]], atol=2e-6)
    np.testing.assert_allclose(state.arrays["bias"], [-0.039516, 0.039516], atol=2e-6)
    np.testing.assert_allclose(Stack().combine(probs_MNC, state)[0], [0.75, 0.25], atol=1e-5)


def test_linear_combines_by_hand():
    """Class 1 alone is given 2 log p_1: logits (0, 2 log 0.5), odds 4 to 1."""
    state = State({"weights": np.array([[[0.0, 0.0], [0.0, 2.0]]]), "bias": np.zeros(2)}, {"form": "linear"})
    np.testing.assert_allclose(Stack().combine(np.array([[[0.5, 0.5]]]), state), [[0.8, 0.2]], atol=1e-15)


@pytest.mark.parametrize("form", ["constant", "per_class", "linear"])
def test_every_form_begins_at_the_weighted_log_pool(form):
    """w = (1/4, 3/4) of odds 4 and 1/16: 4^(1/4) 16^(-3/4) = 2^(1/2 - 3) = 0.176777, so 0.150221."""
    probs_MNC = np.array([[[0.8, 0.2]], [[1 / 17, 16 / 17]]])
    state = Stack(form, l2=1e9).fit(probs_MNC, np.array([0]), np.array([0.25, 0.75]))
    np.testing.assert_allclose(Stack().combine(probs_MNC, state)[0, 0], 0.150221, atol=1e-6)


@pytest.mark.parametrize("form", ["auto", "constant", "per_class", "linear"])
def test_stack_ignores_the_order_of_members_bit_for_bit(form):
    probs_MNC, labels_N, _ = _members(5, 90, seed=2)
    weights_M = np.full(5, 0.2)
    order = np.array([3, 0, 1, 4, 2])
    plain = Stack(form).combine(probs_MNC, Stack(form).fit(probs_MNC, labels_N, weights_M))
    state = Stack(form).fit(probs_MNC[order], labels_N, weights_M)
    np.testing.assert_array_equal(Stack(form).combine(probs_MNC[order], state), plain)


def test_cross_validation_uses_freedom_only_where_it_shows():
    """Where the selection's weights are far from right and rows abound, a weaker pull is chosen and fresh rows gain;
    with nine rows, too few to judge, the usual pull and form."""
    probs_MNC, labels_N, _ = _members(3, 2400, seed=1)
    pull_M = np.array([0.05, 0.05, 0.9])
    state = Stack("constant").fit(probs_MNC[:, :2100], labels_N[:2100], pull_M)
    assert state.meta["l2"] == 1
    fixed = Stack("constant", l2=1e9).fit(probs_MNC[:, :2100], labels_N[:2100], pull_M)
    chosen, pool = (Stack().combine(probs_MNC[:, 2100:], s) for s in (state, fixed))
    assert negative_log_likelihood(chosen, labels_N[2100:]) < negative_log_likelihood(pool, labels_N[2100:]) - 0.02
    assert Stack().fit(probs_MNC[:, :9], labels_N[:9], pull_M).meta == {"form": "constant", "l2": 10}
    assert Stack("linear").fit(probs_MNC[:, :9], labels_N[:9], pull_M).meta == {"form": "linear", "l2": 10}


def _worlds():
    """Three worlds, each of which needs one form: what two members say, and the labels."""
    rng = np.random.default_rng(7)
    labels_N = rng.integers(0, 3, 1500)
    logits_MNC = rng.normal(size=(2, 1500, 3)) + 2 * np.eye(3)[labels_N]
    sharp = 2.5 * logits_MNC  # too sure, all classes alike
    swapped = softmax(logits_MNC)[:, :, [1, 2, 0]]  # the classes' names are mixed up
    parts = softmax(logits_MNC)
    knows = parts.copy()
    knows[0, :, 2] = rng.dirichlet(np.ones(3), 1500)[:, 2]  # what it says of class 2 is noise
    knows[1, :, :2] = rng.dirichlet(np.ones(3), 1500)[:, :2]
    return {
        "constant": softmax(sharp),
        "per_class": knows / knows.sum(axis=2, keepdims=True),
        "linear": swapped,
    }, labels_N


@pytest.mark.parametrize("form", ["constant", "per_class", "linear"])
def test_the_simplest_form_that_serves_is_chosen(form):
    worlds, labels_N = _worlds()
    assert Stack().fit(worlds[form], labels_N, np.full(2, 0.5)).meta["form"] == form


def test_the_mean_is_taken_where_pools_are_worse():
    """Labels are drawn from one or the other of two members, both nearly sure: their mean is what is true. A pool
    multiplies: where they differ it favours what neither of them thinks impossible."""
    rng = np.random.default_rng(0)
    probs_MNC = rng.dirichlet(np.full(4, 0.15), size=(2, 1500))
    labels_N = (probs_MNC.mean(axis=0).cumsum(axis=1) < rng.random((1500, 1))).sum(axis=1)
    state = Stack().fit(probs_MNC, labels_N, np.full(2, 0.5))
    assert state.meta == {"form": "average"}
    average = Average().combine(probs_MNC, Average().fit(probs_MNC, labels_N, np.full(2, 0.5)))
    np.testing.assert_allclose(Stack().combine(probs_MNC, state), average, atol=1e-12)


def test_states_from_before_there_were_forms_still_combine():
    """Weights and bias alone, as such bundles have them, are the constant form: sqrt(4) 3 = 6."""
    probs_MNC = np.array([[[0.8, 0.2]], [[0.5, 0.5]]])
    state = State({"weights": np.array([0.5, 0.5]), "bias": np.array([np.log(3), 0.0])}, {"l2": 10.0})
    np.testing.assert_allclose(Stack().combine(probs_MNC, state), [[6 / 7, 1 / 7]], atol=1e-15)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "much"])
def test_stack_refuses_a_strength_that_is_none(value):
    with pytest.raises(ConfigError, match=r"combine\.l2"):
        registry.make_plugin("combine", {"kind": "stack", "l2": value}, "combine")
