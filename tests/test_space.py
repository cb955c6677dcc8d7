"""The search space: settings drawn, told apart, encoded, changed a little, and refused when written wrongly."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from distens.errors import ConfigError
from distens.records import settings_key
from distens.space import INACTIVE, Space

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
        ({"low": 0.1, "high": 1.0, "step": 0.1}, "step"),
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
