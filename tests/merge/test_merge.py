"""Server rules: the exam that every one of them sits, and numbers worked by hand for each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distens import registry
from distens.errors import ConfigError
from distens.merge import _weights
from distens.merge._weights import average_statistics
from distens.merge.fedadagrad import FedAdagrad
from distens.merge.fedadam import FedAdam
from distens.merge.fedau import FedAU, mean_interval
from distens.merge.fedavg import FedAvg
from distens.merge.fedavgm import FedAvgM
from distens.merge.feddisco import FedDisco
from distens.merge.feddyn import FedDyn
from distens.merge.fedlaw import FedLAW, _slopes
from distens.merge.fednova import FedNova
from distens.merge.fedyogi import FedYogi
from distens.merge.krum import Krum, _squared_distances
from distens.merge.median import Median
from distens.merge.protocol import ClientUpdate, Correction, Corrects, Merged, NeedsProxy, Round
from distens.merge.scaffold import Scaffold
from distens.merge.trimmed_mean import TrimmedMean
from distens.merge.uniform import Uniform
from distens.records import State
from distens.storage.store import Store

RULES = registry.names("merge")
CORRECTING = [name for name in RULES if registry.has_capability(registry.find_plugin("merge", name, ""), Corrects)]
SIZE = 40_000  # more than a block of seven updates

NEEDS = {"krum": 5, "trimmed_mean": 5}
"""Updates that a rule needs with its default options; 1 where it is not named."""

NOT_THE_UPDATE = {
    "fedadam": "the change is divided by its own size",
    "fedyogi": "the change is divided by its own size",
    "fedadagrad": "the change is divided by its own size",
    "feddyn": "it goes beyond the mean, by the clients' memory",
}
"""Why equal updates, of all clients in the first round, are not what comes out. They are of `fedau` only where all
clients take part, of `fedlaw` where the server's rows ask for no other size, and of `fedavgm` in the first round."""


def rule(name: str):
    return registry.make_plugin("merge", name, "merge")


def update(
    client: str, weights, rows: int = 1, steps: int = 1, rate_sum: float = 1.0, histogram=(1, 1)
) -> ClientUpdate:
    weights_P = np.array(weights, dtype=np.float32).reshape(-1)
    weights_P.flags.writeable = False
    return ClientUpdate(f"{client}-1", 1, client, weights_P, rows, steps, rate_sum, tuple(histogram), 0.5)


def round_of(updates, start, number: int = 0, clients: int | None = None, **more) -> Round:
    start_P = np.array(start, dtype=np.float32).reshape(-1)
    start_P.flags.writeable = False
    return Round(number, start_P, list(updates), len(updates) if clients is None else clients, **more)


def near(target_P):
    """The server's rows: a loss that is least at the target."""
    return lambda weights_P: (float(((weights_P - target_P) ** 2).sum()) / 2, weights_P - target_P)


def some_round(count: int = 7, seed: int = 0, size: int = SIZE, number: int = 0, memory=None) -> Round:
    rng = np.random.default_rng(seed)
    start_P = rng.normal(size=size).astype(np.float32)
    updates = [
        update(
            f"c{k:02}",
            start_P + rng.normal(scale=0.1, size=size),
            rows=int(rng.integers(1, 100)),
            steps=int(rng.integers(1, 20)),
            rate_sum=rng.uniform(0.1, 1),
            histogram=rng.integers(1, 50, size=4),
        )
        for k in range(count)
    ]
    taken = {update.client: list(range(int(rng.integers(number + 1)))) for update in updates}
    return round_of(
        updates, start_P, number, 10, memory=memory or {}, taken=taken, proxy=near(np.zeros(size, np.float32))
    )


@pytest.mark.parametrize("name", RULES)
def test_weights_are_float32_of_the_right_shape_and_finite(name):
    merged = rule(name).merge(some_round())
    assert merged.weights_P.shape == (SIZE,)
    assert merged.weights_P.dtype == np.float32
    assert np.isfinite(merged.weights_P).all()
    for array in merged.memory.values():
        assert array.shape == (SIZE,) and array.dtype == np.float32


@pytest.mark.parametrize("name", RULES)
def test_shares_are_non_negative_and_sum_to_one(name):
    shares_K = rule(name).merge(some_round()).shares_K
    if name in ("median", "trimmed_mean"):
        assert shares_K is None
    else:
        assert shares_K.shape == (7,)
        assert (shares_K >= 0).all()
        assert abs(shares_K.sum() - 1) < 1e-9


@pytest.mark.parametrize("name", RULES)
def test_equal_updates_are_what_comes_out(name):
    rng = np.random.default_rng(1)
    weights_P = rng.normal(size=SIZE).astype(np.float32)
    updates = [update(f"c{k}", weights_P, rows=k + 1) for k in range(7)]
    merged = rule(name).merge(round_of(updates, weights_P * 0.9, proxy=near(weights_P)))
    same = np.allclose(merged.weights_P, weights_P, rtol=1e-6, atol=1e-6)
    assert same is (name not in NOT_THE_UPDATE)


@pytest.mark.parametrize("name", RULES)
def test_updates_that_say_nothing_new_change_nothing(name):
    start_P = np.random.default_rng(1).normal(size=100).astype(np.float32)
    updates = [update(f"c{k}", start_P, rows=k + 1) for k in range(7)]
    merged = rule(name).merge(round_of(updates, start_P, clients=20, proxy=near(start_P)))
    np.testing.assert_allclose(merged.weights_P, start_P, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in RULES if name not in {*NEEDS, *NOT_THE_UPDATE}])
def test_one_update_alone_is_what_comes_out(name):
    merged = rule(name).merge(round_of([update("only", [1.5, -2, 1e-6])], [1, 1, 1], proxy=near(np.zeros(3))))
    expected = [1.5, -2, 1e-6]
    if name == "fedlaw":  # its rows ask for zeros, and it shrinks towards them
        expected = np.multiply(expected, merged.weights_P[0] / 1.5)
        assert 0 < merged.weights_P[0] < 1.5
    np.testing.assert_allclose(merged.weights_P, expected, rtol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_too_few_updates_are_refused_with_the_need(name):
    least = NEEDS.get(name, 1)
    whole = some_round(least, size=10)
    assert rule(name).merge(whole).weights_P.shape == (10,)
    with pytest.raises(ValueError, match=rf"needs at least {least} update.*found {least - 1}"):
        rule(name).merge(replace(whole, updates=whole.updates[:-1]))


@pytest.mark.parametrize("name", RULES)
def test_order_of_updates_does_not_matter(name):
    whole = some_round()
    order = np.random.default_rng(3).permutation(7)
    mixed = replace(whole, updates=[whole.updates[k] for k in order])
    merged, other = rule(name).merge(whole), rule(name).merge(mixed)
    np.testing.assert_allclose(other.weights_P, merged.weights_P, rtol=1e-5, atol=1e-6)
    if merged.shares_K is not None:
        np.testing.assert_allclose(other.shares_K, merged.shares_K[order], atol=1e-6)
    assert merged.memory.keys() == other.memory.keys()
    for key, array in merged.memory.items():
        np.testing.assert_allclose(other.memory[key], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_same_round_same_answer_and_nothing_is_written_to(name):
    memory = rule(name).merge(some_round()).memory
    for array in memory.values():
        array.flags.writeable = False
    first, second = (rule(name).merge(some_round(5, 1, number=3, memory=memory)) for _ in range(2))
    assert np.array_equal(first.weights_P, second.weights_P)
    assert all(np.array_equal(first.memory[key], second.memory[key]) for key in first.memory)


@pytest.mark.parametrize("name", RULES)
def test_memory_goes_to_storage_and_back(name, tmp_path):
    """Bit for bit; and what is kept of a client that is not there in a round is kept."""
    merged = rule(name).merge(some_round())
    store = Store(str(tmp_path))
    restored = store.read_state("memory", store.write_state("memory", State(merged.memory))).arrays
    assert set(restored) == set(merged.memory)
    expected = rule(name).merge(some_round(5, 1, number=1, memory=merged.memory))
    found = rule(name).merge(some_round(5, 1, number=1, memory=restored))
    assert np.array_equal(found.weights_P, expected.weights_P)
    assert set(expected.memory) == set(merged.memory)
    for key in expected.memory:
        assert np.array_equal(found.memory[key], expected.memory[key])
        if key in ("client/c05", "client/c06"):
            assert np.array_equal(expected.memory[key], merged.memory[key])


@pytest.mark.parametrize("name", RULES)
def test_blocks_leave_no_seams(name, monkeypatch):
    whole = some_round(size=5000)
    expected = rule(name).merge(whole).weights_P
    monkeypatch.setattr(_weights, "_NUMBERS", 1)
    np.testing.assert_allclose(rule(name).merge(whole).weights_P, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_needs_the_servers_rows_says_so(name):
    without = replace(some_round(), proxy=None)
    if registry.has_capability(rule(name), NeedsProxy):
        with pytest.raises(ValueError, match="rows of the server"):
            rule(name).merge(without)
    else:
        assert np.array_equal(rule(name).merge(without).weights_P, rule(name).merge(some_round()).weights_P)


@pytest.mark.parametrize("name", CORRECTING)
def test_corrections_have_the_right_shape(name):
    whole = some_round()
    merged = rule(name).merge(whole)
    for client, memory in (("c00", {}), ("c00", merged.memory), ("stranger", merged.memory)):
        correction = rule(name).correct(client, memory, whole.start_P)
        assert isinstance(correction, Correction)
        assert correction.pull >= 0
        if correction.shift_P is not None:
            assert correction.shift_P.shape == (SIZE,) and correction.shift_P.dtype == np.float32
    assert rule(name).correct("c00", {}, whole.start_P).shift_P is None
    assert rule(name).correct("c00", merged.memory, whole.start_P).shift_P is not None


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "fedavgm", "momentum": 0},
        {"kind": "fedavgm", "momentum": 1},
        {"kind": "fedadam", "beta1": 1},
        {"kind": "fedyogi", "tau": 0},
        {"kind": "fedadagrad", "rate": 0},
        {"kind": "feddisco", "a": 0},
        {"kind": "feddisco", "metric": "l3"},
        {"kind": "fedau", "cap": 1},
        {"kind": "fedlaw", "steps": 0},
        {"kind": "trimmed_mean", "cut": 0},
        {"kind": "trimmed_mean", "cut": 0.5},
        {"kind": "krum", "faulty": 0},
        {"kind": "krum", "keep": 0},
        {"kind": "scaffold", "rate": -1},
        {"kind": "feddyn", "alpha": 0},
        {"kind": "uniform", "rate": 1},
    ],
    ids=str,
)
def test_options_out_of_range_or_without_effect_are_refused(spec):
    with pytest.raises(ConfigError, match=f"merge.{list(spec)[1]}"):
        registry.make_plugin("merge", spec, "merge")


def counted(merged: Merged):
    """How much each update counted, by a rule that says so."""
    assert merged.shares_K is not None
    return merged.shares_K


def one(merger, updates, start=(0.0,), **more):
    """The merge of updates of one number, as (that number, the rest)."""
    merged = merger.merge(round_of(updates, start, **more))
    return float(merged.weights_P[0]), merged


def two(*weights, **more):
    return [update(name, [value], **more) for name, value in zip("abcdefghij", weights, strict=False)]


def test_running_statistics_are_averaged_by_shares():
    """Two weights, then a mean and a variance. A rule's steps would leave 9 and -2; shares of 3/4 and 1/4 of (0, 1) and
    (4, 5) make 1 and 2. A median has no shares: what it chose stays."""
    updates = [update("a", [1, 2, 0, 1], rows=3), update("b", [3, 4, 4, 5], rows=1)]
    merged = Merged(np.array([1, 2, 9, -2], dtype=np.float32), {"m": np.ones(4)}, np.array([0.75, 0.25]))
    assert average_statistics(merged, updates, 2).weights_P.tolist() == [1, 2, 1, 2]
    assert merged.weights_P.tolist() == [1, 2, 9, -2] and average_statistics(merged, updates, 0) is merged
    chosen = Merged(merged.weights_P)
    assert average_statistics(chosen, updates, 2) is chosen


def test_uniform_by_hand():
    """(1 + 3 + 8) / 3 = 4 and (2 + 6 + 1) / 3 = 3, whatever the rows."""
    updates = [update("a", [1, 2], rows=9), update("b", [3, 6]), update("c", [8, 1])]
    merged = Uniform().merge(round_of(updates, [0, 0]))
    assert merged.weights_P.tolist() == [4, 3]
    assert counted(merged).tolist() == [1 / 3] * 3


def test_fedavg_by_hand():
    """1 row says 0, 3 rows say 4: 3/4 of 4."""
    value, merged = one(FedAvg(), [update("a", [0], rows=1), update("b", [4], rows=3)])
    assert value == 3
    assert counted(merged).tolist() == [0.25, 0.75]


def test_a_mean_is_rounded_once():
    """Twenty updates of numbers of all sizes: what float64 says, but for one float32 that lies next to it."""
    rng = np.random.default_rng(0)
    weights_KP = (rng.normal(size=(20, 20_000)) * 10.0 ** rng.integers(-6, 4, size=20_000)).astype(np.float32)
    merged = Uniform().merge(round_of([update(f"c{k}", w) for k, w in enumerate(weights_KP)], np.zeros(20_000)))
    expected = weights_KP.astype(np.float64).mean(axis=0).astype(np.float32)
    np.testing.assert_array_max_ulp(merged.weights_P, expected, maxulp=1)


def test_fedavgm_by_hand():
    """Momentum 1/2. From 0 to a mean of 4: v = 4, w = 4. A mean of 6: d = 2, v = 2 + 2 = 4, w = 8. A mean of 8: d = 0,
    v = 2, w = 10. At rate 1/2 the first step ends at 2, and v is the same."""
    merger = FedAvgM(momentum=0.5)
    value, memory = 0.0, {}
    for mean, expected, momentum in ((4, 4, 4), (6, 8, 4), (8, 10, 2)):
        value, merged = one(merger, two(mean - 1, mean + 1), [value], memory=memory)
        memory = merged.memory
        assert value == expected
        assert memory["momentum"].tolist() == [momentum]
    slow, merged = one(FedAvgM(momentum=0.5, rate=0.5), two(4))
    assert slow == 2 and merged.memory["momentum"].tolist() == [4]


@pytest.mark.parametrize(
    ("merger", "values", "seconds"),
    [
        (FedAdam(rate=2, beta1=0.5, beta2=0.5, tau=1), (0.9271, 1.1101), (5, 3)),
        (FedYogi(rate=2, beta1=0.5, beta2=0.5, tau=1), (0.8968, 1.0513), (5.5, 5)),
        (FedAdagrad(rate=2, tau=1), (1.4415, 0.9782), (10, 11)),
        (FedAdagrad(rate=2, beta1=0.5, tau=1), (0.7208, 0.8366), (10, 11)),
    ],
    ids=["adam", "yogi", "adagrad", "adagrad with beta1"],
)
def test_adaptive_by_hand(merger, values, seconds):
    """Two rounds with d = 3 and d = -1; rate 2, betas 1/2, tau 1, so v begins at 1.

    m = 1.5, then 0.75 - 0.5 = 0.25; where beta1 is 0, m = d.
    Adam: v = 0.5 + 4.5 = 5 and w = 3 / (2.2361 + 1) = 0.9271; v = 2.5 + 0.5 = 3, w += 0.5 / (1.7321 + 1) = 0.1830.
    Yogi: d^2 = 9 is above v: v = 1 + 4.5 = 5.5, w = 3 / (2.3452 + 1) = 0.8968; then 1 is below: v = 5.5 - 0.5 = 5,
    w += 0.5 / (2.2361 + 1) = 0.1545.
    Adagrad: v = 1 + 9 = 10, w = 6 / (3.1623 + 1) = 1.4415; v = 11, w -= 2 / (3.3166 + 1) = 0.4633. With beta1,
    w = 3 / 4.1623 = 0.7208, and w += 0.5 / 4.3166 = 0.1158."""
    value, memory = 0.0, {}
    for change, expected, second in zip((3, -1), values, seconds, strict=True):
        value, merged = one(merger, two(value + change - 1, value + change + 1), [value], memory=memory)
        memory = merged.memory
        assert value == pytest.approx(expected, abs=1e-4)
        assert memory["second"] == pytest.approx(second)
    assert ("first" in memory) is (merger.beta1 > 0)


def test_fednova_by_hand():
    """From 0, a goes 2 in one step and b 3 in three, 2 and 1 a step: a mean of 1.5, times the mean of the steps, 2.
    With 3 rows against 1, (3/4 2 + 1/4 1) (3/4 1 + 1/4 3) = 1.75 * 1.5. FedAvg says 2.5, and 2.25. From 1, a goes 1
    and b 2, so 1 and 2/3 a step."""
    updates = [update("a", [2], steps=1), update("b", [3], steps=3)]
    value, merged = one(FedNova(), updates)
    assert value == pytest.approx(3)
    np.testing.assert_allclose(counted(merged), [0.75, 0.25])
    assert one(FedNova(), [replace(updates[0], rows=3), updates[1]])[0] == pytest.approx(2.625)
    assert one(FedNova(), updates, [1])[0] == pytest.approx(1 + 2 * (1 + 2 / 3) / 2)
    with pytest.raises(ValueError, match="found none by b"):
        FedNova().merge(round_of([updates[0], replace(updates[1], steps=0)], [0]))


def test_feddisco_by_hand():
    """Two clients, 10 rows each. (5, 5) is at 0 and (10, 0) at log 2, all there is: d = 0 and 1. With a 0.5 and b 0.1
    the terms are 0.6 and 0.1. Lopsided both, d is 1/2 each, and a = 3 leaves 1/4 - 1.5 and 3/4 - 1.5: rows decide."""
    even, odd = update("a", [0], rows=10, histogram=(5, 5)), update("b", [7], rows=10, histogram=(10, 0))
    value, merged = one(FedDisco(), [even, odd])
    np.testing.assert_allclose(counted(merged), [6 / 7, 1 / 7])
    assert value == pytest.approx(1)
    more = update("c", [4], rows=30, histogram=(0, 30))
    value, merged = one(FedDisco(a=3, b=0), [odd, more])
    np.testing.assert_allclose(counted(merged), [0.25, 0.75])


@pytest.mark.parametrize(
    ("metric", "shares"),
    [
        ("kl", [0.6427, 0, 0.3573]),
        ("l1", [0.6667, 0, 0.3333]),
        ("l2", [0.6667, 0.0327, 0.3006]),
        ("cosine", [0.6667, 0.0145, 0.3188]),
    ],
)
def test_feddisco_metrics_by_hand(metric, shares):
    """Shares (1/3, 1/3, 1/3), (1, 0, 0), (2/3, 1/3, 0) of three classes, equal rows, a = 0.5, b = 0; a is at 0.
    Distances of b and c, the same over their sum, and terms, 1/3 - half of that, where a's is 1/3:

    kl      log 3 = 1.0986, 2/3 log 2 = 0.4621                   0.7039, 0.2961    -0.0186, 0.1853
    l1      2/3 + 1/3 + 1/3 = 4/3, 1/3 + 1/3 = 2/3               0.6667, 0.3333     0,      0.1667
    l2      sqrt(6/9) = 0.8165, sqrt(2/9) = 0.4714               0.6340, 0.3660     0.0163, 0.1503
    cosine  1 - 1/sqrt 3 = 0.4226, 1 - 3/sqrt 15 = 0.2254        0.6522, 0.3478     0.0072, 0.1594
    """
    histograms = {"a": (2, 2, 2), "b": (6, 0, 0), "c": (4, 2, 0)}
    updates = [update(client, [0], histogram=histogram) for client, histogram in histograms.items()]
    merged = FedDisco(b=0, metric=metric).merge(round_of(updates, [0]))
    np.testing.assert_allclose(counted(merged), shares, atol=1e-4)


def test_fedau_by_hand():
    """Of 4 clients a took part in rounds 1 and 3: intervals of 2 and 2. b is new: 1. In round 4, a goes from 0 to 4 and
    b to 6: (2 * 4 + 1 * 6) / 4 = 3.5, twice that at rate 2."""
    more = {"number": 4, "clients": 4, "taken": {"a": [1, 3]}}
    value, merged = one(FedAU(), two(4, 6), **more)
    assert value == pytest.approx(3.5)
    np.testing.assert_allclose(counted(merged), [2 / 3, 1 / 3])
    assert one(FedAU(rate=2), two(4, 6), **more)[0] == pytest.approx(7)


@pytest.mark.parametrize(
    ("taken", "number", "cap", "expected"),
    [
        ([], 0, 50, 1.0),
        ([], 2, 50, 1.0),
        ([0, 1, 2], 3, 50, 1.0),
        ([4], 5, 50, 5.0),
        ([4], 8, 50, 5.0),  # what is under way does not count yet
        ([0, 4], 5, 50, 2.5),
        ([4], 5, 3, 2.5),  # 3 + 2
        ([2], 9, 3, 3.0),  # 3, and 6 rounds away, cut twice
        ([], 7, 3, 3.0),  # cut twice though it was never there
    ],
)
def test_fedau_intervals_by_hand(taken, number, cap, expected):
    assert mean_interval(taken, number, cap) == expected


def test_fedau_intervals_are_those_of_algorithm_2():
    """The paper's loop over rounds, written plainly."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        there_T, cap = rng.random(40) < rng.uniform(0.02, 0.6), int(rng.integers(2, 12))
        weight, intervals, length = 1.0, 0, 0
        for there in there_T:
            length += 1
            if there or length == cap:
                weight = (intervals * weight + length) / (intervals + 1)
                intervals, length = intervals + 1, 0
        assert mean_interval(np.flatnonzero(there_T).tolist(), 40, cap) == pytest.approx(weight)


def test_fedlaw_by_hand():
    """Updates (1, 0) and (0, 1), and the loss |w - (3, 1)|^2 / 2. At FedAvg, w = (0.5, 0.5), G = (-2.5, -0.5): dL/dp is
    the same, -1.5 on average, so v_1 and g should rise and v_2 fall. Adam's first step is its rate, 0.1, each way: p_1
    = 1 / (1 + exp(-0.2)) = 0.5498, gamma = exp(0.1) = 1.1052, w = (0.6077, 0.4975). In the end gamma is 4 and p is
    (3/4, 1/4)."""
    updates = [update("a", [1, 0]), update("b", [0, 1])]
    proxy = near(np.array([3, 1], np.float32))
    merged = FedLAW(steps=1, rate=0.1).merge(round_of(updates, [0, 0], proxy=proxy))
    np.testing.assert_allclose(merged.weights_P, [0.6077, 0.4975], atol=1e-4)
    np.testing.assert_allclose(counted(merged), [0.5498, 0.4502], atol=1e-4)
    merged = FedLAW(steps=400).merge(round_of(updates, [0, 0], proxy=proxy))
    np.testing.assert_allclose(merged.weights_P, [3, 1], atol=1e-2)
    np.testing.assert_allclose(counted(merged), [0.75, 0.25], atol=1e-2)


def test_fedlaw_slopes_are_those_of_the_loss():
    """Against differences of the loss itself, at shares and a gamma that are not those it begins with."""
    updates = some_round(4, size=50).updates
    proxy = near(np.ones(50))
    weights_KP = np.array([update.weights_P for update in updates], dtype=np.float64)

    def mixed(values):
        exp_K = np.exp(values[:-1])
        return exp_K / exp_K.sum(), np.exp(values[-1]) * exp_K / exp_K.sum() @ weights_KP

    values = np.array([0.3, -0.2, 0.9, 0.0, 0.7])
    shares_K, weights_P = mixed(values)
    slopes = _slopes(updates, proxy(weights_P)[1], shares_K, float(np.exp(0.7)))
    step = 1e-5 * np.eye(5)
    expected = [(proxy(mixed(values + s)[1])[0] - proxy(mixed(values - s)[1])[0]) / 2e-5 for s in step]
    np.testing.assert_allclose(slopes, expected, rtol=1e-5)


def test_fedlaw_is_never_worse_on_the_servers_rows_than_fedavg():
    """Steps that are much too long, from weights that are almost the best: what they find is not taken."""
    whole = some_round(4, size=50)
    first = FedAvg().merge(whole)
    merged = FedLAW(steps=3, rate=5.0).merge(replace(whole, proxy=near(first.weights_P * 1.001)))
    np.testing.assert_array_equal(merged.weights_P, first.weights_P)
    np.testing.assert_allclose(counted(merged), counted(first))


def test_median_by_hand():
    """Of 1, 5, 100 it is 5; of 1, 5, 7, 100 it is 6. Each number by itself."""
    assert one(Median(), two(100, 1, 5))[0] == 5
    assert one(Median(), two(100, 7, 1, 5))[0] == 6
    updates = [update("a", [1, 30]), update("b", [2, 10], rows=50), update("c", [3, 20])]
    assert Median().merge(round_of(updates, [0, 0])).weights_P.tolist() == [2, 20]


def test_trimmed_mean_by_hand():
    """A fifth of 5 is 1: of -90, 1, 2, 6, 100 the middle three remain, mean 3. A quarter of 9 is 2, rounded down; of
    0, …, 7, 700 five remain, 2 to 6. 0.29 of 100 is 29, whatever floats say: of 0, 1, 4, …, 99^2 there remain
    29^2 to 70^2, whose mean is (116795 - 7714) / 42."""
    assert one(TrimmedMean(), two(-90, 1, 2, 6, 100))[0] == pytest.approx(3)
    assert one(TrimmedMean(cut=0.25), two(*range(8), 700))[0] == pytest.approx(4)
    squares = [update(f"c{k}", [k**2]) for k in range(100)]
    assert one(TrimmedMean(cut=0.29), squares)[0] == pytest.approx(109081 / 42)
    with pytest.raises(ValueError, match=r"needs at least 10 updates to leave out a share of 0.1"):
        TrimmedMean(cut=0.1).merge(round_of(two(*range(9)), [0]))


def test_krum_by_hand():
    """0, 1, 2.5, 3, 100, one of them faulty: two neighbours count. 0: 1 + 6.25. 1: 1 + 2.25 = 3.25. 2.5: 0.25 + 2.25 =
    2.5, the least. 3: 0.25 + 4 = 4.25. With two kept, the mean of 2.5 and 1. Among equals the first name is taken."""
    value, merged = one(Krum(), two(0, 1, 2.5, 3, 100))
    assert value == 2.5
    assert counted(merged).tolist() == [0, 0, 1, 0, 0]
    value, merged = one(Krum(keep=2), two(0, 1, 2.5, 3, 100))
    assert value == 1.75
    assert counted(merged).tolist() == [0, 0.5, 0.5, 0, 0]
    backwards = two(4, 4, 4, 4, 4)[::-1]
    assert counted(one(Krum(), backwards)[1]).tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(("faulty", "keep", "least"), [(1, 1, 5), (2, 1, 7), (2, 3, 7), (2, 4, 8)])
def test_krum_says_how_many_updates_it_needs(faulty, keep, least):
    with pytest.raises(ValueError, match=f"needs at least {least} updates .faulty: {faulty}, keep: {keep}., found 4"):
        Krum(faulty, keep).merge(round_of(two(*range(4)), [0]))


def test_krum_sees_small_differences_of_large_weights():
    """Weights of about 1000 that differ by hundredths, and one update far away: distances as they are defined."""
    rng = np.random.default_rng(0)
    start_P = (1000 + rng.normal(size=3000)).astype(np.float32)
    scales = [0.01, 0.01, 0.01, 0.02, 1e6]
    updates = [update(f"c{k}", start_P + rng.normal(scale=scale, size=3000)) for k, scale in enumerate(scales)]
    weights_KP = np.array([update.weights_P for update in updates], dtype=np.float64)
    expected = ((weights_KP[:, None] - weights_KP) ** 2).sum(axis=2)
    np.fill_diagonal(expected, np.inf)
    np.testing.assert_allclose(_squared_distances(updates, start_P), expected, rtol=1e-9)


def test_scaffold_by_hand():
    """Four clients; a and b take part, each with rates that sum to 1/2. From 0, a goes to -2: c_a = 2 / 0.5 = 4; b to
    1: c_b = -2. w = -0.5 and c = (4 - 2) / 4 = 0.5. Then a is told c - c_a = -3.5, b 2.5, and c, who is new, 0.5. Now a
    alone goes from -0.5 to -1: c_a = 4 - 0.5 + 1 = 4.5, c = 0.5 + 0.5 / 4 = 0.625, w = -1; and b's is as it was. At
    rate 2 the server goes twice as far, to -1.5."""
    merger = Scaffold()
    value, merged = one(merger, two(-2, 1, rate_sum=0.5), clients=4)
    assert value == -0.5
    assert {name: array[0] for name, array in merged.memory.items()} == {"c": 0.5, "client/a": 4, "client/b": -2}
    for client, shift in (("a", -3.5), ("b", 2.5), ("c", 0.5)):
        found = merger.correct(client, merged.memory, np.zeros(1, np.float32))
        assert found.pull == 0
        assert found.shift_P == shift
    second = two(-1, rate_sum=0.5)
    assert one(Scaffold(rate=2), second, [-0.5], clients=4, memory=merged.memory)[0] == -1.5
    value, merged = one(merger, second, [-0.5], clients=4, memory=merged.memory)
    assert value == -1
    assert {name: array[0] for name, array in merged.memory.items()} == {"c": 0.625, "client/a": 4.5, "client/b": -2}
    with pytest.raises(ValueError, match="found none by a"):
        merger.merge(round_of(two(1, rate_sum=0), [0]))


def test_feddyn_by_hand():
    """Four clients; a goes from 0 to 4 and b to 2: l is 4 and 2, its mean over all 1.5, w = 3 + 1.5 = 4.5. Then a alone
    goes to 3.5, 1 back: l_a = 3, the mean 1.25, w = 3.5 + 1.25. At alpha 0.1 a is then told a shift of 0.3."""
    merger = FedDyn(alpha=0.1)
    value, merged = one(merger, two(4, 2), clients=4)
    assert value == 4.5
    value, merged = one(merger, two(3.5), [4.5], clients=4, memory=merged.memory)
    assert value == 4.75
    assert {name: array[0] for name, array in merged.memory.items()} == {"drift": 1.25, "client/a": 3, "client/b": 2}
    found = merger.correct("a", merged.memory, np.zeros(1, np.float32))
    assert found.pull == 0.1
    assert found.shift_P == pytest.approx([0.3])
    assert merger.correct("c", merged.memory, np.zeros(1, np.float32)) == Correction(0.1)


def trained(merger, rounds: int, steps: int) -> float:
    """Where two clients end whose losses are h / 2 (w - a)^2, by `steps` of descent a round at rate 0.05."""
    value, memory = np.zeros(1, np.float32), {}
    for number in range(rounds):
        updates = []
        for name, curvature, minimum in (("a", 1.0, 0.0), ("b", 10.0, 1.0)):
            told = merger.correct(name, memory, value) if registry.has_capability(merger, Corrects) else Correction()
            weights = value.astype(np.float64)
            for _ in range(steps):
                slope = curvature * (weights - minimum) + told.pull * (weights - value)
                weights = weights - 0.05 * (slope if told.shift_P is None else slope + told.shift_P)
            updates.append(update(name, weights, steps=steps, rate_sum=0.05 * steps))
        merged = merger.merge(round_of(updates, value, number, memory=memory))
        value, memory = merged.weights_P, merged.memory
    return float(value[0])


def test_corrections_lead_to_the_minimum_of_all_clients_losses():
    """The sum of w^2 / 2 and 5 (w - 1)^2 is least at 10/11 = 0.909. Ten steps a round bring the clients 1 - 0.95^10 =
    0.401 and 1 - 0.5^10 = 0.999 of the way to their own minima, 0 and 1: so FedAvg ends at 0.999 / 1.400 = 0.713."""
    assert trained(FedAvg(), 200, 10) == pytest.approx(0.713, abs=1e-3)
    assert trained(Scaffold(), 200, 10) == pytest.approx(10 / 11, abs=1e-3)
    assert trained(FedDyn(alpha=2.0), 200, 60) == pytest.approx(10 / 11, abs=1e-3)


@pytest.mark.parametrize(
    "merger",
    [Median(), TrimmedMean(cut=0.2), Krum(faulty=2), Krum(faulty=2, keep=6)],
    ids=["median", "trimmed", "krum", "multi"],
)
def test_two_of_ten_that_flip_their_sign_do_not_matter(merger):
    """All change a number by about 1, up or down; two send the opposite. The mean of all loses 2 * 2/10 = 0.4 of the
    change; what is near the honest mean is within 0.15."""
    rng = np.random.default_rng(0)
    start_P = rng.normal(size=1000)
    change_P = rng.choice([-1.0, 1.0], size=1000)
    weights_KP = start_P + change_P + rng.normal(scale=0.1, size=(10, 1000))
    weights_KP[[3, 8]] = 2 * start_P - weights_KP[[3, 8]]
    whole = round_of([update(f"c{k}", weights_P) for k, weights_P in enumerate(weights_KP)], start_P)
    honest_P = np.delete(weights_KP, [3, 8], axis=0).mean(axis=0)

    def off(weights_P) -> float:
        return float(np.sqrt(np.mean((weights_P - honest_P) ** 2)))

    assert off(FedAvg().merge(whole).weights_P) > 0.35
    assert off(merger.merge(whole).weights_P) < 0.15
