"""Rising bandits and regularised evolution: worked by hand, and on a landscape whose best settings are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distens import registry
from distens.errors import ConfigError
from distens.lifecycle.work.train import Train
from distens.records import Failed, Failure, Finished, History, Report, Task, settings_key
from distens.search import evolution
from distens.search.evolution import Evolution
from distens.search.random import Random
from distens.search.rising_bandit import Curve, RisingBandit, find_remaining
from distens.space.space import Space

NAMES = "uvwxy"
SPACE = Space(
    {
        "good": {name: {"low": 0.0, "high": 1.0} for name in NAMES},
        "fair": {name: {"low": 0.0, "high": 1.0} for name in NAMES},
        "poor": {name: {"low": 0.0, "high": 1.0} for name in NAMES},
    }
)
FLOOR = {"good": 0.1, "fair": 0.4, "poor": 0.9}
FEW = {"proposals": 200, "local": 10}


def value(settings) -> float:
    """A bowl for each family: its floor, 0.1, 0.4 or 0.9, where all five numbers are 0.7, and more by the squared
    distance."""
    return FLOOR[settings["family"]] + sum((settings[name] - 0.7) ** 2 for name in NAMES)


def finished(settings, values=None):
    tasks = [Task(f"m{i:04d}", "search", one, seed=i, work=Train()) for i, one in enumerate(settings)]
    values = [value(one) for one in settings] if values is None else values
    return [Finished(t, Report(t.id, 1, {"nll": v}, 1.0, 1, 1.0, "x", {})) for t, v in zip(tasks, values, strict=True)]


def failed(settings):
    tasks = [Task(f"f{i:04d}", "search", one, seed=i, work=Train()) for i, one in enumerate(settings)]
    return [Failed(task, Failure(task.id, 1, "crashed", "", 1.0, "x")) for task in tasks]


def pending(settings):
    return [Task(f"p{i:04d}", "search", one, seed=i, work=Train()) for i, one in enumerate(settings)]


def drawn(family: str, count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return [SPACE.only(family).draw(rng) for _ in range(count)]


def run(search, count: int, seed: int, in_flight: int = 1, space: Space = SPACE):
    """Return what a search finds: `in_flight` members train at once, of which at each step a random one finishes."""
    rng, order = np.random.default_rng(seed), np.random.default_rng(1000 + seed)
    done, under_way = [], []
    while len(done) < count:
        history = History(finished(done), (), pending(under_way), "nll")
        under_way += search.propose(history, space, in_flight - len(under_way), rng)
        done.append(under_way.pop(int(order.integers(len(under_way)))))
    return done


def regret(runs) -> float:
    """Return how far above the least value, 0.1, the best ten members of runs are on average."""
    return float(np.mean([np.sort([value(settings) for settings in found])[:10] - 0.1 for found in runs]))


def families(proposed):
    return [settings["family"] for settings in proposed]


# Rising bandits


def test_a_family_is_dropped_by_hand():
    """Window 2, 12 members seen, horizon 20, so 8 to go. Rewards (best so far) of four each:

    a: -0.50 -0.40 -0.30 -0.30   growth (-0.30 + 0.40) / 2 = 0.05    upper -0.30 + 0.40  = 0.10
    b: -0.90 -0.80 -0.64 -0.60   growth (-0.60 + 0.80) / 2 = 0.10    upper -0.60 + 0.80  = 0.20
    c: -0.70 -0.56 -0.56 -0.54   growth (-0.54 + 0.56) / 2 = 0.01    upper -0.54 + 0.08  = -0.46, below a's -0.30

    Only c is dropped, though b is worse now. Without a horizon 12 are looked ahead: c may reach -0.42, still too
    little. At a horizon of 14, 2 to go, b may reach -0.40 and is dropped too; at 12 or fewer all but the best are."""
    curves = {
        "a": Curve([-0.50, -0.40, -0.30, -0.30]),
        "b": Curve([-0.90, -0.80, -0.64, -0.60]),
        "c": Curve([-0.70, -0.56, -0.56, -0.54]),
    }
    uppers = [curve.upper(2, 8) for curve in curves.values()]
    np.testing.assert_allclose(uppers, [0.10, 0.20, -0.46], atol=1e-12)
    assert find_remaining(curves, 2, 20) == find_remaining(curves, 2, None) == ["a", "b"]
    assert find_remaining(curves, 2, 14) == find_remaining(curves, 2, 12) == find_remaining(curves, 2, 5) == ["a"]
    assert find_remaining(curves, 4, 20) == ["a", "b", "c"]  # not played more than four times yet


def test_scales_and_equals():
    """Rewards times 1,000 or moved by 50 leave the same families, with one more play b may reach -0.45 and c -0.53;
    those that are equal stay together."""
    rewards = {"a": [-0.50, -0.30, -0.30], "b": [-0.90, -0.64, -0.60], "c": [-0.56, -0.56, -0.54]}
    for scale, shift in ((1, 0), (1000, 0), (1, 50), (1e-6, -3)):
        curves = {name: Curve([scale * r + shift for r in row]) for name, row in rewards.items()}
        assert find_remaining(curves, 2, 10) == ["a"]
    assert find_remaining({"a": Curve([-0.3] * 4), "b": Curve([-0.3] * 4)}, 2, 20) == ["a", "b"]


def test_failures_are_plays_that_bring_nothing():
    """Growth 0.1 per member is 0.1 * 3 / 5 per play with two failures to three members; whoever only failed may reach
    nothing, once that has been seen often enough, and whoever was not played yet anything."""
    assert Curve([-0.5, -0.4, -0.3], failed=2).upper(2, 10) == pytest.approx(-0.3 + 0.06 * 10)
    assert Curve([-0.5, -0.4, -0.3], failed=2).upper(5, 10) == math.inf
    assert Curve([-0.5], failed=3).upper(3, 10) == -0.5
    assert Curve([], failed=3).upper(3, 10) == math.inf
    assert Curve([], failed=4).upper(3, 10) == -math.inf
    only_failures = {"a": Curve([], failed=9), "b": Curve([], failed=9)}
    assert find_remaining(only_failures, 3, None) == ["a", "b"]
    assert find_remaining({**only_failures, "c": Curve([-9.0])}, 3, None) == ["c"]


def test_families_take_turns():
    """In turns of two; whoever has members pending or failed has had them already."""
    search = RisingBandit(turn=2, **FEW)
    rng = np.random.default_rng(0)
    empty = search.propose(History(), SPACE, 8, rng)
    assert families(empty) == ["good", "good", "fair", "fair", "poor", "poor", "good", "good"]
    history = History(finished(drawn("fair", 1)), failed(drawn("good", 1)), pending(drawn("good", 1)))
    assert families(search.propose(history, SPACE, 5, rng)) == ["fair", "poor", "poor", "good", "good"]


def test_dropped_families_are_played_no_more():
    """Five of each, all finished: `poor` stands at 0.9 or more and has stopped rising, `fair` still rises."""
    members = [*drawn("good", 5), *drawn("fair", 5), *drawn("poor", 5)]
    values = [0.5, 0.5, 0.5, 0.5, 0.4, 0.9, 0.8, 0.7, 0.6, 0.5, 1.2, 0.95, 0.95, 0.95, 0.95]
    history = History(finished(members, values), (), pending(drawn("poor", 1, seed=1)))
    search = RisingBandit(window=3, **FEW)
    picks = search.propose(history, SPACE, 6, np.random.default_rng(0))
    assert families(picks) == ["good", "fair"] * 3
    # A member that was still training when its family was dropped, and turns out well, brings it back.
    late = [*members, *drawn("poor", 1, seed=1)]
    history = History(finished(late, [*values, 0.3]))
    assert "poor" in families(search.propose(history, SPACE, 6, np.random.default_rng(0)))


def test_the_order_of_arrival_among_families_is_nothing_to_the_bandit():
    """Histories in which the members of each family come in the same order give the same picks."""
    good, fair, poor = drawn("good", 6), drawn("fair", 6), drawn("poor", 6)
    one_by_one = [settings for row in zip(good, fair, poor, strict=True) for settings in row]
    picks = [
        RisingBandit(window=3, **FEW).propose(History(finished(order)), SPACE, 4, np.random.default_rng(3))
        for order in ([*good, *fair, *poor], one_by_one)
    ]
    assert picks[0] == picks[1]


def test_a_family_that_is_used_up_is_passed_over():
    space = Space({"one": {"fixed": 1}, "few": {"n": {"low": 1, "high": 3}}, "many": {"x": {"low": 0.0, "high": 1.0}}})
    picks = RisingBandit(**FEW).propose(History(), space, 9, np.random.default_rng(0))
    assert families(picks) == ["one", "few", "many", "few", "many", "few", "many", "many", "many"]
    assert len({settings_key(settings) for settings in picks}) == 9
    assert not space.among(picks[:4]).contains(picks[-1])


def test_a_dropped_family_is_played_when_the_others_are_used_up():
    space = Space({"best": {"n": {"low": 1, "high": 6}}, "other": {"n": {"low": 1, "high": 9}}})
    tried = [{"family": family, "n": n} for family in ("best", "other") for n in range(1, 6)]
    history = History(finished(tried, [0.1] * 5 + [0.5] * 5))
    picks = RisingBandit(window=2, **FEW).propose(history, space, 4, np.random.default_rng(0))
    assert families(picks) == ["best", "other", "other", "other"]


@pytest.mark.parametrize("in_flight", [1, 4])
def test_the_bandit_settles_on_the_best_family_and_beats_chance(in_flight):
    """Of 50 members at least half are of the best family and at most a quarter of the worst (a third each by chance),
    and the best ten are on average of two seeds at most 0.7 times as far above the least value, 0.1, as chance's."""
    runs = [run(RisingBandit(**FEW), 50, seed, in_flight) for seed in range(2)]
    for found in runs:
        assert families(found).count("good") >= 25 and families(found).count("poor") <= 12
    assert regret(runs) < 0.7 * regret(run(Random(), 50, seed, in_flight) for seed in range(2))


# Evolution


def test_parent_and_eldest_by_hand():
    """Five have finished and four are alive: the eldest, the best of all at 0.1, is dead. Of the living, 0.5, 0.2, 0.9
    and 0.4, a tournament of 64 is missed by the best with a chance of 0.75^64 = 1e-8: all children are like it, 0.2, in
    all but one number or the family."""
    members = drawn("good", 5)
    history = History(finished(members, [0.1, 0.5, 0.2, 0.9, 0.4]))
    search = Evolution(population=4, sample=64, initial=4)
    children = search.propose(history, SPACE, 30, np.random.default_rng(0))
    same = [child for child in children if child["family"] == "good"]
    assert 15 < len(same) < 30
    for child in same:
        assert sum(child[name] == members[2][name] for name in NAMES) == 4
    assert len({settings_key(child) for child in children}) == 30


def test_of_living_members_that_err_alike_the_surest_is_the_parent():
    members = drawn("good", 3)
    tasks = [Task(f"m{i}", "search", one, seed=i, work=Train()) for i, one in enumerate(members)]
    found = zip(tasks, [{"error": 0.1, "nll": nll} for nll in (0.5, 0.2, 0.9)], strict=True)
    history = History(
        [Finished(t, Report(t.id, 1, metrics, 1.0, 1, 1.0, "x", {})) for t, metrics in found], metric="error"
    )
    children = Evolution(population=3, sample=64, initial=3).propose(history, SPACE, 20, np.random.default_rng(0))
    same = [child for child in children if child["family"] == "good"]
    assert len(same) > 8
    assert all(sum(child[name] == members[1][name] for name in NAMES) == 4 for child in same)


def test_a_tournament_of_one_takes_parents_evenly():
    """Of four that are alive each is the parent of a quarter of 400 children (100, sd 9), the eldest of none."""
    members = drawn("good", 5)
    history = History(finished(members, [0.1, 0.5, 0.2, 0.9, 0.4]))
    children = Evolution(population=4, sample=1, initial=4).propose(history, SPACE, 400, np.random.default_rng(0))
    likeness = np.array([[sum(c[n] == m[n] for n in NAMES) for m in members] for c in children if "good" in c.values()])
    counts = (likeness == 4).sum(axis=0)
    assert counts[0] == 0
    assert counts.sum() == len(likeness) and all(abs(count - len(likeness) / 4) < 45 for count in counts[1:])


def test_the_first_members_are_drawn_at_random():
    """Of 10, 4 are finished and 3 pending: 3 more are drawn, which are like none of those; failed ones do not count."""
    members = drawn("good", 7)
    history = History(finished(members[:4]), failed(drawn("good", 9, seed=1)), pending(members[4:]))
    picks = Evolution(population=4, initial=10).propose(history, SPACE, 5, np.random.default_rng(0))
    like = [max(sum(p[n] == m[n] for n in NAMES) for m in members[:4]) for p in picks]
    assert like[:3] == [0, 0, 0]
    assert all(a in (0, 4) for a in like[3:])
    nothing_done = History((), (), pending(drawn("good", 40)))
    assert len(Evolution().propose(nothing_done, SPACE, 3, np.random.default_rng(0))) == 3


def test_failed_members_have_no_children():
    history = History(finished(drawn("good", 3)), failed(drawn("poor", 30, seed=1)))
    children = Evolution(population=30, sample=1, initial=3).propose(history, SPACE, 200, np.random.default_rng(0))
    dead = {entry.task.settings[n] for entry in history.failed for n in NAMES}
    assert not any(child[n] in dead for child in children for n in NAMES)


def test_known_children_are_not_born_again(monkeypatch):
    """A space of 4 x 4 settings: all are found once, the parents' six neighbours first, then what is drawn."""
    monkeypatch.setattr(evolution, "TRIES", 40)
    space = Space({"a": {"n": {"choices": [1, 2, 3, 4]}, "m": {"choices": [1, 2, 3, 4]}}})
    parent = {"family": "a", "n": 1, "m": 1}
    search = Evolution(population=1, initial=1)
    children = search.propose(History(finished([parent], [0.5])), space, 15, np.random.default_rng(0))
    assert len({settings_key(child) for child in [parent, *children]}) == 16
    assert all(child["n"] == 1 or child["m"] == 1 for child in children[:6])


@pytest.mark.parametrize("in_flight", [1, 4])
def test_evolution_beats_chance(in_flight):
    """As above, of 200 members, on average of four seeds."""
    search = Evolution(population=15, sample=5, initial=15)
    runs = [run(search, 200, seed, in_flight) for seed in range(4)]
    assert regret(runs) < 0.5 * regret(run(Random(), 200, seed, in_flight) for seed in range(4))


def test_evolution_of_a_list_changes_family_too():
    """300 listed settings of three families and a single parent of the worst: its children are found in all."""
    rng = np.random.default_rng(0)
    part = SPACE.among([SPACE.draw(rng) for _ in range(300)])
    parent = next(settings for settings in part.corners() if settings["family"] == "poor")
    children = Evolution(population=1, initial=1).propose(History(finished([parent])), part, 40, rng)
    assert all(part.contains(child) for child in children)
    assert set(families(children)) == {"good", "fair", "poor"}
    assert families(children).count("poor") >= 8


def test_options_are_checked():
    for kind, option in (("rising_bandit", "turn"), ("rising_bandit", "horizon"), ("evolution", "population")):
        with pytest.raises(ConfigError, match=rf"search\.{option}"):
            registry.make_plugin("search", {"kind": kind, option: 0}, "search")
    with pytest.raises(ConfigError, match="local: 50 walks"):
        registry.make_plugin("search", {"kind": "rising_bandit", "proposals": 50}, "search")
    built = registry.make_plugin("search", {"kind": "rising_bandit", "horizon": 100}, "search")
    assert registry.resolve_options(built)["horizon"] == 100
