"""Domains that exist only where other options have certain values (`when`)."""

import json
from collections import Counter

import numpy as np
import pytest
import small_run

import distens
from distens.errors import ConfigError
from distens.records import settings_key
from distens.roles.ensemble.plan import build_plan
from distens.space.space import INACTIVE, Space
from distens.tune import param_space

OPTIONS = {
    "kernel": {"choices": ["rbf", "poly", "linear"]},
    "gamma": {"low": 0.01, "high": 1.0, "log": True, "when": {"kernel": ["rbf", "poly"]}},
    "degree": {"low": 2, "high": 5, "when": {"kernel": "poly"}},
    "C": {"low": 0.1, "high": 10.0},
}
SVM = {"kind": "estimator", "estimator": "svm", "options": OPTIONS}


def space(**families):
    return Space({"svm": SVM, "knn": {"kind": "estimator", "k": {"low": 1, "high": 9}}, **families})


def draws(found, count, seed=0):
    rng = np.random.default_rng(seed)
    return [found.draw(rng) for _ in range(count)]


def test_settings_have_what_their_conditions_say_and_nothing_else():
    keys = {"rbf": {"kernel", "gamma", "C"}, "poly": {"kernel", "gamma", "degree", "C"}, "linear": {"kernel", "C"}}
    seen = Counter()
    for settings in draws(space(), 600):
        assert space().contains(settings)
        if settings["family"] == "svm":
            kernel = settings["options"]["kernel"]
            seen[kernel] += 1
            assert set(settings["options"]) == keys[kernel]
    assert all(seen[kernel] > 60 for kernel in keys)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel": "linear", "gamma": 0.1, "C": 1.0},
        {"kernel": "rbf", "C": 1.0},
        {"kernel": "poly", "gamma": 0.1, "degree": 6, "C": 1.0},
        {"kernel": "poly", "gamma": 0.1, "C": 1.0},
        {"gamma": 0.1, "C": 1.0},
        "linear",
    ],
)
def test_what_contradicts_the_conditions_is_not_contained(options):
    assert not space().contains({"family": "svm", "kind": "estimator", "estimator": "svm", "options": options})


def test_encoding_by_hand():
    """Families 2; kernel one-hot 3; gamma, degree, C as number and active bit; 0.1 is the middle of [0.01, 1] in the
    logarithm, 5.05 that of [0.1, 10], and degree 3 is one third of the way; then knn's k."""
    base = {"family": "svm", "kind": "estimator", "estimator": "svm"}
    rows = [
        {**base, "options": {"kernel": "poly", "gamma": 0.1, "degree": 3, "C": 5.05}},
        {**base, "options": {"kernel": "linear", "C": 5.05}},
    ]
    off = [INACTIVE, 0]
    wanted = [[1, 0, 0, 1, 0, 0.5, 1, 1 / 3, 1, 0.5, 1, *off], [1, 0, 0, 0, 1, *off, *off, 0.5, 1, *off]]
    np.testing.assert_allclose(space().encode(rows), wanted)


def test_neighbours_change_one_domain_and_bring_what_then_exists():
    rng, found = np.random.default_rng(0), space()
    svm = found.only("svm")
    linear = {"family": "svm", "kind": "estimator", "estimator": "svm", "options": {"kernel": "linear", "C": 1.0}}
    for _ in range(100):
        other = svm.neighbour(linear, rng)
        assert other != linear and svm.contains(other)
        if other["options"]["kernel"] == "linear":
            assert set(other["options"]) == {"kernel", "C"}
        else:
            assert other["options"]["C"] == 1.0
    assert svm._root.domains(linear) == 2


def test_corners_take_every_end_of_what_is_conditional():
    corners = [corner["options"] for corner in space().corners() if corner["family"] == "svm"]
    assert len({json.dumps(corner, sort_keys=True) for corner in corners}) == len(corners)
    assert {corner["degree"] for corner in corners if "degree" in corner} == {2, 5}
    assert all(corner["kernel"] == "poly" for corner in corners if "degree" in corner)
    assert {round(corner["gamma"], 9) for corner in corners if corner["kernel"] == "rbf"} == {0.01, 1.0}
    assert {corner["C"] for corner in corners} == {0.1, 10.0}


def test_conditions_on_conditions_groups_and_dotted_names():
    net = {
        "kind": "classifier",
        "model": {"choices": [{"kind": "mlp", "width": {"low": 8, "high": 64}}, {"kind": "lenet"}]},
        "optimizer": {
            "name": {"choices": ["sgd", "adam"]},
            "momentum": {"low": 0.0, "high": 0.9, "when": {"name": "sgd"}},
        },
        "nesterov": {"choices": [True, False], "when": {"optimizer.name": "sgd", "model.kind": "mlp"}},
        "damping": {"low": 0.0, "high": 0.1, "when": {"nesterov": False}},
    }
    found = Space({"net": net})
    both = Counter()
    for settings in draws(found, 400):
        sgd, mlp = settings["optimizer"]["name"] == "sgd", settings["model"]["kind"] == "mlp"
        assert ("momentum" in settings["optimizer"]) == sgd and ("nesterov" in settings) == (sgd and mlp)
        assert ("damping" in settings) == (settings.get("nesterov") is False)
        assert found.contains(settings)
        both[sgd, mlp, "damping" in settings] += 1
    assert len(both) == 5
    corners = list(found.corners())
    assert all(map(found.contains, corners))
    assert {corner["damping"] for corner in corners if "damping" in corner} == {0.0, 0.1}


def test_a_narrowed_part_keeps_to_what_exists():
    found, rng = space(), np.random.default_rng(0)
    poly = next(s for s in draws(found, 200) if s.get("options", {}).get("kernel") == "poly")
    linear = next(s for s in draws(found, 200) if s.get("options", {}).get("kernel") == "linear")
    for settings, free in ((poly, {"degree", "C"}), (linear, {"C"})):
        part = found.narrowed(settings, ("options.degree", "options.C"))
        others = [part.draw(rng) for _ in range(30)] + [part.neighbour(settings, rng) for _ in range(30)]
        for other in others:
            assert part.contains(other) and found.contains(other)
            kept = [{k: v for k, v in s["options"].items() if k not in free} for s in (settings, other)]
            assert kept[0] == kept[1]
        assert len({settings_key(other) for other in others}) > 20
        np.testing.assert_array_equal(part.encode(others), found.encode(others))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"degree": {"low": 2, "high": 5, "when": {"kernal": "poly"}}},
            "degree.when.kernal: unknown option. Did you mean 'kernel'",
        ),
        (
            {"degree": {"low": 2, "high": 5, "when": {"kernel": "ploy"}}},
            "degree.when.kernel: never has the value 'ploy'",
        ),
        ({"degree": {"low": 2, "high": 5, "when": {"kernel": []}}}, "no value is given"),
        ({"degree": {"low": 2, "high": 5, "when": "poly"}}, "a condition is {option: value"),
        ({"degree": {"low": 2, "high": 5, "when": {"degree": 3}}}, "degree.when.degree: unknown option"),
        ({"degree": {"low": 2, "high": 5, "when": {"shape": "ovo"}}, "shape": "ovo"}, "always has the value 'ovo'"),
        ({"degree": {"low": 2, "high": 5, "when": {"n": 9}}, "n": {"low": 1, "high": 4}}, "never has the value 9"),
        (
            {"a": {"choices": [1, 2], "when": {"b": 1}}, "b": {"choices": [1, 2], "when": {"a": 1}}},
            "of options.a, options.b depend on each other",
        ),
        ({"sub": {"x": 1, "when": {"kernel": "poly"}}}, "belongs to a range or a choice"),
    ],
)
def test_conditions_that_cannot_be_are_refused_by_their_place(options, words):
    with pytest.raises(ConfigError) as caught:
        Space({"svm": {"kind": "estimator", "options": {"kernel": OPTIONS["kernel"], **options}}})
    assert words in str(caught.value) and str(caught.value).startswith("members.svm")


@pytest.mark.parametrize("search", ["divbo", "evolution"])
def test_a_run_with_conditions(search, tmp_path):
    members = {"svm": {"kind": "estimator", "estimator": "svm", "options": OPTIONS}}
    changes = {
        "members": members,
        "distill": None,
        "baselines": [],
        "search": {"kind": search, "members": 10, **({"proposals": 100} if search == "divbo" else {"initial": 4})},
    }
    result = distens.run(small_run.config(tmp_path, **changes))
    assert result.rows["ensemble"]["accuracy"] > 0.8


def test_every_conditional_end_is_checked_with_the_plan(tmp_path):
    wrong = {**OPTIONS, "degree": {"low": -3, "high": 5, "when": {"kernel": "poly"}}}
    with pytest.raises(ConfigError, match="degree"):
        build_plan(small_run.config(tmp_path, members={"svm": {**SVM, "options": wrong}}, distill=None, baselines=[]))


def test_tune_has_no_conditions(tmp_path):
    changes = {"members": {"svm": SVM}, "distill": None, "baselines": [], "search": {"kind": "divbo"}}
    with pytest.raises(ConfigError, match="has no equal in Ray Tune: write a choice of mappings"):
        param_space(small_run.config(tmp_path, **changes))


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ({"sample": [1, 2]}, "C.sample: not a domain. A domain is {choices"),
        ({"choice": [1.0, 2.0]}, "C.choice: not a domain. Did you mean choices?"),
        ({"lo": 0.1, "hi": 2.0}, "C.lo: not a domain. Did you mean low and high?"),
        ({"lo": 0.1, "high": 2.0}, "Did you mean low?"),
        ({"low": 0.1, "hihg": 2.0}, "Did you mean high?"),
        ({"loguniform": [0.1, 2.0]}, "C.loguniform: not a domain"),
    ],
)
def test_a_mistyped_domain_is_refused(domain, words):
    with pytest.raises(ConfigError) as caught:
        Space({"svm": {"kind": "module", "options": {"C": domain}}})
    assert words in str(caught.value)


def test_an_option_of_a_user_s_own_may_have_such_a_name():
    template = {"kind": "module", "options": {"sample": True, "width": {"low": 1, "high": 3}}}
    assert Space({"net": template}).count == 3
