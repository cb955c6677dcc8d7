"""The search space: settings drawn, told apart, encoded, changed a little, and refused when written wrongly."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from distens.errors import ConfigError
from distens.records import settings_key
from distens.space.space import INACTIVE, Space

MEMBERS = {
    "net": {
        "kind": "classifier",
        "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "layers": {"low": 1, "high": 4},
        "optimizer": {"choices": ["sgd", {"name": "adam", "beta": {"low": 0.8, "high": 0.99}}]},
        "schedule": ["warm", "cosine"],
        "blocks": [{"width": {"choices": [16, 32]}}, 3],
    },
    "knn": {"kind": "estimator", "k": {"low": 1, "high": 64, "log": True}, "scale": {"choices": [True, False]}},
    "lda": {"kind": "estimator"},
}


def draws(space: Space, count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return [space.draw(rng) for _ in range(count)]


def test_draws_lie_in_the_space_and_survive_json():
    space = Space(MEMBERS)
    for settings in draws(space, 300):
        assert space.contains(settings)
        again = json.loads(json.dumps(settings))
        assert space.contains(again)
        assert settings_key(again) == settings_key(settings)
        assert np.array_equal(space.encode([again]), space.encode([settings]))


def test_draws_are_uniform_over_families_and_on_the_log_scale():
    """With 3 families each has a third of 3,000 draws (sd 26); on the log scale half of [1e-4, 1e-1] is below
    10^-2.5."""
    found = draws(Space(MEMBERS), 3000)
    for family in MEMBERS:
        assert abs(sum(s["family"] == family for s in found) - 1000) < 110
    rates = [s["learning_rate"] for s in found if s["family"] == "net"]
    assert abs(np.mean(np.array(rates) < 10**-2.5) - 0.5) < 0.07
    assert {s["layers"] for s in found if s["family"] == "net"} == {1, 2, 3, 4}
    assert all(type(s["k"]) is int and 1 <= s["k"] <= 64 for s in found if s["family"] == "knn")


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.2},
        {"layers": 2.5},
        {"layers": True},
        {"optimizer": "rmsprop"},
        {"optimizer": {"name": "adam", "beta": 0.5}},
        {"schedule": ["warm"]},
        {"blocks": [{"width": 64}, 3]},
        {"blocks": [{"width": 16}]},
        {"momentum": 0.9},
        {"family": "lda"},
    ],
)
def test_what_was_not_drawn_is_not_contained(change):
    space = Space(MEMBERS)
    settings = next(s for s in draws(space, 20) if s["family"] == "net")
    assert not space.contains({**settings, **change})


def test_encoding_by_hand():
    """Families one-hot, then ranges and choices in the order written: 0.01 lies at (-2 + 4) / 3 = 2/3 of the log scale
    from 1e-4 to 1e-1; 3 at 1/2 of 1 … 5; a family that was not taken is -1 with its active bit 0, and its choices 0."""
    space = Space(
        {
            "a": {"rate": {"low": 1e-4, "high": 1e-1, "log": True}, "n": {"low": 1, "high": 5}},
            "b": {"mode": {"choices": ["x", {"y": {"low": 0.0, "high": 2.0}}]}},
        }
    )
    assert space.width == 2 + 2 + 2 + 2 + 2
    rows = space.encode(
        [{"family": "a", "rate": 0.01, "n": 3}, {"family": "b", "mode": "x"}, {"family": "b", "mode": {"y": 0.5}}]
    )
    off = (INACTIVE, 0.0)
    expected = [
        [1, 0, 2 / 3, 1, 0.5, 1, 0, 0, *off],
        [0, 1, *off, *off, 1, 0, *off],
        [0, 1, *off, *off, 0, 1, 0.25, 1],
    ]
    np.testing.assert_allclose(rows, expected, atol=1e-12)
    assert space.encode([]).shape == (0, 10)


def test_different_settings_are_encoded_differently():
    space = Space(MEMBERS)
    found = {settings_key(s): s for s in draws(space, 500)}
    rows = space.encode(list(found.values()))
    assert len({row.tobytes() for row in rows}) == len(found)
    assert np.isfinite(rows).all()
    assert ((rows >= 0) & (rows <= 1) | (rows == INACTIVE)).all()


def test_a_neighbour_lies_in_the_space_and_differs_in_one_domain():
    space = Space(MEMBERS)
    rng = np.random.default_rng(1)
    changed = set()
    for settings in draws(space, 300, seed=2):
        near = space.neighbour(settings, rng)
        assert space.contains(near)
        if near["family"] != settings["family"]:
            changed.add("family")
            continue
        different = [name for name in settings if near[name] != settings[name]]
        assert len(different) <= 1
        changed |= set(different)
    assert changed == {"family", "learning_rate", "layers", "optimizer", "blocks", "k", "scale"}


def test_corners_take_every_end_and_every_choice():
    space = Space(MEMBERS)
    corners = list(space.corners())
    assert all(space.contains(corner) for corner in corners)
    nets = [c for c in corners if c["family"] == "net"]
    assert {round(c["learning_rate"], 6) for c in nets} == {1e-4, 1e-1}
    assert {c["layers"] for c in nets} == {1, 4}
    assert {json.dumps(c["optimizer"]) for c in nets} >= {'"sgd"'}
    assert {c["optimizer"]["beta"] for c in nets if c["optimizer"] != "sgd"} == {0.8, 0.99}
    assert {c["blocks"][0]["width"] for c in nets} == {16, 32}
    assert {c["k"] for c in corners if c["family"] == "knn"} == {1, 64}
    assert {"family": "lda", "kind": "estimator"} in corners


def test_how_many_settings_there_are():
    """3 layer counts x (2 + 4 whole numbers) + 1 = 19; any real range makes it infinite."""
    finite = {"a": {"n": {"low": 1, "high": 3}, "m": {"choices": ["x", "y", {"low": 1, "high": 4}]}}, "b": {"fixed": 1}}
    assert Space(finite).count == 19
    assert len({settings_key(s) for s in draws(Space(finite), 2000)}) == 19
    assert Space(MEMBERS).count == math.inf


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ({"low": 1.0, "high": 1.0}, "from 1.0 to 1.0"),
        ({"low": 2, "high": 1}, "low must be below high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "starts above 0"),
        ({"low": 0.0, "high": math.inf}, "no number lies"),
        ({"low": math.nan, "high": 1.0}, "no number lies"),
        ({"low": 0.0}, "a range is"),
        ({"low": "a", "high": "b"}, "a range is"),
        ({"low": False, "high": True}, "a range is"),
        ({"low": 0.1, "high": 1.0, "log": "yes"}, "a range is"),
        ({"low": 0.1, "high": 1.0, "step": 0.0}, "above 0"),
        ({"low": 0.1, "high": 1.0, "step": -0.1}, "above 0"),
        ({"low": 0.1, "high": 1.0, "step": math.nan}, "above 0"),
        ({"low": 0.1, "high": 1.0, "step": True}, "a range is"),
        ({"low": 1, "high": 9, "step": 5}, "fewer than two multiples"),
        ({"low": 0.1, "high": 1.0, "steps": 0.1}, "a range is"),
        ({"mean": 0.0, "sd": 0.0}, "sd above 0"),
        ({"mean": math.inf, "sd": 1.0}, "finite mean"),
        ({"mean": "a", "sd": 1.0}, "a normal distribution is"),
        ({"mean": 0.0, "sd": 1.0, "log": True}, "a normal distribution is"),
        ({"mean": 0.0, "sd": 1.0, "step": 0}, "above 0"),
        ({"choices": []}, "one or more values"),
        ({"choices": "abc"}, "one or more values"),
        ({"choices": [1, 2], "log": True}, "one or more values"),
        ({"choices": [1, 2, 1]}, "twice"),
    ],
)
def test_what_holds_nothing_or_is_written_wrongly_is_refused_with_its_place(template, found):
    with pytest.raises(ConfigError) as caught:
        Space({"net": {"kind": "classifier", "optimizer": {"rate": template}}})
    assert "members.net.optimizer.rate" in str(caught.value)
    assert found in str(caught.value)


def test_a_space_without_families_is_refused():
    with pytest.raises(ConfigError, match="members: the space holds no settings"):
        Space({})


def test_a_narrowed_space_draws_only_what_is_free_and_encodes_as_the_whole():
    space = Space(
        {
            "a": {
                "kind": "classifier",
                "model": {"choices": [{"kind": "mlp", "dropout": {"low": 0.0, "high": 0.5}}, {"kind": "lenet"}]},
                "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
                "batch_size": {"choices": [16, 32]},
            },
            "b": {"kind": "estimator", "depth": {"low": 1, "high": 9}},
        }
    )
    rng = np.random.default_rng(0)
    settings = next(s for s in (space.draw(rng) for _ in range(100)) if s.get("model", {}).get("kind") == "mlp")
    part = space.narrowed(settings, ("learning_rate", "model.dropout", "epochs"))
    drawn = [part.draw(rng) for _ in range(20)] + [part.neighbour(settings, rng) for _ in range(20)]
    for other in drawn:
        assert part.contains(other) and space.contains(other)
        assert {**other, "learning_rate": 0, "model": 0} == {**settings, "learning_rate": 0, "model": 0}
    assert len({other["learning_rate"] for other in drawn}) > 10
    assert len({other["model"]["dropout"] for other in drawn}) > 10
    np.testing.assert_array_equal(part.encode(drawn), space.encode(drawn))
    fixed = space.narrowed(settings, ())
    assert fixed.count == 1 and fixed.draw(rng) == settings and fixed.neighbour(settings, rng) == settings


# Steps and normal distributions


def test_multiples_of_a_step_by_hand():
    """From 0.13 to 1.05 in steps of 0.1 there are 0.2, 0.3, … 1.0: nine, 0.6 in their middle; from 5 to 64 in steps of
    8 the whole numbers 8, 16, … 64: eight, and 32 lies at log(4) / log(8) = 2/3 of their log scale."""
    space = Space(
        {"a": {"x": {"low": 0.13, "high": 1.05, "step": 0.1}, "n": {"low": 5, "high": 64, "step": 8, "log": True}}}
    )
    assert space.count == 9 * 8
    found = draws(space, 2000)
    assert {s["x"] for s in found} == {0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0}
    assert {s["n"] for s in found} == set(range(8, 65, 8))
    assert all(type(s["n"]) is int and type(s["x"]) is float for s in found)
    np.testing.assert_allclose(space.encode([{"family": "a", "x": 0.6, "n": 32}]), [[1, 0.5, 1, 2 / 3, 1]], atol=1e-12)
    # Uniform over nine multiples (222 of 2,000 each, sd 14), and more often among small ones on the log scale.
    counts = [sum(s["x"] == x for s in found) for x in (0.2, 0.6, 1.0)]
    assert all(abs(count - 222) < 60 for count in counts)
    assert sum(s["n"] <= 24 for s in found) > 1000
    for change in ({"x": 0.25}, {"x": 0.1}, {"x": 1.1}, {"n": 12}, {"n": 8.5}, {"n": 0}, {"x": math.nan}):
        assert not space.contains({"family": "a", "x": 0.6, "n": 32} | change)
    assert space.contains({"family": "a", "x": 3 * 0.1, "n": 32})
    assert {(c["x"], c["n"]) for c in space.corners()} == {(0.2, 8), (1.0, 8), (0.2, 64)}


def test_a_neighbour_is_another_multiple():
    """Also at the ends of two multiples alone, where a small change is none."""
    space = Space({"a": {"x": {"low": 0.0, "high": 0.5, "step": 0.5}, "y": {"low": -6, "high": 6, "step": 3}}})
    rng = np.random.default_rng(0)
    for settings in draws(space, 100):
        near = space.neighbour(settings, rng)
        assert space.contains(near)
        assert sum(near[name] != settings[name] for name in "xy") == 1


@pytest.mark.parametrize("step", [None, 0.5])
def test_a_normal_distribution_by_hand(step):
    """Mean 2, standard deviation 3: 5 is one deviation up, with 84.13% below it; of 4,000 draws the mean is within
    0.24 (five standard errors) and 68.3% lie within one deviation."""
    template = {"mean": 2.0, "sd": 3.0} | ({"step": step} if step else {})
    space = Space({"a": {"z": template}})
    assert space.count == math.inf
    drawn = [s["z"] for s in draws(space, 4000)]
    assert abs(np.mean(drawn) - 2.0) < 0.24
    assert abs(np.mean(np.abs(np.array(drawn) - 2.25 * bool(step) - 2.0 * (not step)) < 3) - 0.683) < 0.05
    np.testing.assert_allclose(space.encode([{"family": "a", "z": 5.0}]), [[1, 0.841345, 1]], atol=1e-6)
    assert all(space.contains({"family": "a", "z": z}) for z in [*drawn, -40.0])
    assert not any(space.contains({"family": "a", "z": z}) for z in (math.inf, "2", True))
    assert space.contains({"family": "a", "z": 2.3}) == (step is None)
    rng = np.random.default_rng(1)
    moved = [space.neighbour({"family": "a", "z": z}, rng)["z"] for z in [*drawn[:300], 60.0, -60.0]]
    assert all(a != b for a, b in zip(moved, drawn, strict=False))
    assert all(space.contains({"family": "a", "z": z}) for z in moved)
    low, high = [corner["z"] for corner in space.corners()]
    assert low < -7 and high > 11 and all(space.contains({"family": "a", "z": z}) for z in (low, high))


# Parts


LINE = Space({"a": {"x": {"low": 0.0, "high": 1.0}}, "b": {"m": {"choices": ["p", "q"]}}})


def on_line(*places: float):
    return [{"family": "a", "x": x} for x in places]


def test_a_list_of_settings_is_all_that_there_is():
    space = Space(MEMBERS)
    listed = draws(space, 40)
    part = space.among([*listed, *listed[:5]])
    keys = {settings_key(s) for s in listed}
    assert part.count == len(keys)
    rng = np.random.default_rng(0)
    assert {settings_key(part.draw(rng)) for _ in range(1000)} == keys
    assert {settings_key(s) for s in part.corners()} == keys
    once = [settings_key(s) for s in part.draws(rng)]
    assert len(once) == len(keys) and set(once) == keys
    assert once != [settings_key(s) for s in part.draws(rng)]
    assert all(part.contains(json.loads(json.dumps(s))) for s in listed)
    assert not any(part.contains(s) for s in draws(space, 40, seed=1) if settings_key(s) not in keys)
    np.testing.assert_array_equal(part.encode(listed), space.encode(listed))
    assert part.width == space.width
    assert part.families == tuple(family for family in MEMBERS if any(s["family"] == family for s in listed))


def test_draws_of_a_whole_space_never_end():
    found = [s for s, _ in zip(LINE.draws(np.random.default_rng(0)), range(50), strict=False)]
    assert found == draws(LINE, 50)


def test_listed_neighbours_by_hand():
    """Of 0, 0.05, … 0.5 the eight nearest to 0.5 are 0.1 … 0.45. Settings have two domains (the family and x), so that
    about half of the neighbours are of these, the rest of all ten others: 0 and 0.05 come up in a tenth."""
    part = LINE.among(on_line(*(0.05 * i for i in range(11))))
    here, rng = list(part.corners())[-1], np.random.default_rng(0)
    found = np.array([part.neighbour(here, rng)["x"] for _ in range(2000)])
    assert found.max() < 0.47
    assert abs(np.mean(found < 0.08) - 0.1) < 0.03
    # Of settings that are not listed themselves: 0.52 is as near to 0.15 … 0.5.
    found = np.array([part.neighbour({"family": "a", "x": 0.52}, rng)["x"] for _ in range(2000)])
    assert abs(np.mean(found > 0.12) - (0.5 + 0.5 * 8 / 11)) < 0.04 and found.max() == 0.5


def test_a_listed_neighbour_is_never_the_same_unless_alone():
    rng = np.random.default_rng(0)
    two = LINE.among([*on_line(0.3), {"family": "b", "m": "p"}])
    assert {two.neighbour(on_line(0.3)[0], rng)["family"] for _ in range(20)} == {"b"}
    one = LINE.among(on_line(0.3))
    assert one.neighbour(on_line(0.3)[0], rng) == on_line(0.3)[0]


def test_parts_of_a_list_and_lists_of_a_part():
    space = Space(MEMBERS)
    listed = draws(space, 60)
    nets = [s for s in listed if s["family"] == "net"]
    part = space.among(listed).narrowed(nets[0], ("learning_rate",))
    assert part.count == 1 and part.draw(np.random.default_rng(0)) == nets[0]
    assert space.among(listed).only("net").count == len({settings_key(s) for s in nets})
    narrow = space.narrowed(nets[0], ("layers",))
    assert narrow.families == ("net",)
    assert narrow.among([nets[0]]).count == 1
    with pytest.raises(ConfigError, match="must lie in the space"):
        narrow.among(nets)


def test_a_list_without_settings_or_with_foreign_ones_is_refused():
    with pytest.raises(ConfigError, match="empty"):
        LINE.among([])
    with pytest.raises(ConfigError, match=r"2\.5"):
        LINE.among(on_line(0.5, 2.5))


def test_one_family_has_an_encoding_of_its_own():
    """`a` of the space that is encoded by hand above: its rate and n, without the families' columns and b's."""
    space = Space(
        {
            "a": {"rate": {"low": 1e-4, "high": 1e-1, "log": True}, "n": {"low": 1, "high": 5}},
            "b": {"mode": {"choices": ["x", {"y": {"low": 0.0, "high": 2.0}}]}},
        }
    )
    part = space.only("a")
    assert part.families == ("a",) and part.width == 4
    np.testing.assert_allclose(part.encode([{"family": "a", "rate": 0.01, "n": 3}]), [[2 / 3, 1, 0.5, 1]], atol=1e-12)
    assert all(s["family"] == "a" and space.contains(s) for s in draws(part, 20))
    assert not part.contains({"family": "b", "mode": "x"})
    settings = draws(part, 1)[0]
    for smaller in (space.narrowed(settings, ("n",)), space.narrowed(settings, ()), space.among([settings]), part):
        again = smaller.only("a")
        assert again.families == ("a",) and again.contains(settings) and again.count == smaller.count
        np.testing.assert_array_equal(again.encode([settings]), part.encode([settings]))
