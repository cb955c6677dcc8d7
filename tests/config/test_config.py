"""A config is validated whole, and every message says where, what was found and what is allowed."""

import json

import pytest

from distens import registry
from distens.config.config import load_config, parse_config, parse_yaml, read_yaml, to_yaml
from distens.errors import ConfigError
from distens.roles.ensemble.plan import build_plan
from distens.roles.federated import plan as federated

MEMBERS = {
    "mlp": {
        "kind": "classifier",
        "model": {"kind": "mlp", "hidden": {"choices": [[16], [32]]}},
        "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
        "epochs": 2,
    }
}


def values(**changes):
    base = {
        "name": "x",
        "data": {"source": "sklearn:iris"},
        "members": MEMBERS,
        "search": {"kind": "divbo", "members": 4},
        "runtime": "inline",
        "tracking": "off",
    }
    return json.loads(json.dumps({**base, **changes}))


def refused(changes, *words):
    """The config with these changes is refused, and the message holds all words."""
    with pytest.raises(ConfigError) as caught:
        build_plan(parse_config(values(**changes)))
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_yaml_1_2_reads_numbers_and_words_as_written():
    assert read_yaml("a: 1e-3\nb: on\nc: 0o10", "x") == {"a": 0.001, "b": "on", "c": 8}


def test_a_file_with_overrides(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(parse_config(values())))
    config = load_config(path, ["search.members=64", "metric=error", "search.beta=0.1"])
    assert config.search.members == 64
    assert config.metric == "error"
    assert config.search.spec() == {"kind": "divbo", "beta": 0.1}


def test_an_override_of_what_is_left_out_changes_the_usual_kind():
    given = values()
    del given["runtime"]
    text = json.dumps(given)
    assert parse_yaml(text, "x", ["runtime.pack=1"]).runtime == {"kind": "ray_actors", "pack": 1}
    assert parse_yaml(text, "x", ["select.size=3"]).select == {"kind": "greedy", "size": 3}
    assert parse_yaml(text, "x", ["runtime.kind=inline", "runtime.pack=2"]).runtime == {"kind": "inline", "pack": 2}


def test_a_search_may_be_given_by_its_name_alone():
    config = parse_config(values(search="gain"))
    assert config.search.spec() == {"kind": "gain"}
    assert config == parse_config(values(search={"kind": "gain"}))
    refused({"search": "gian"}, "search.kind", "'gian'", "gain")


def test_an_override_turns_a_bare_kind_into_a_section():
    text = to_yaml(parse_config(values(select="greedy")))
    assert parse_yaml(text, "x", ["select.size=3"]).select == {"kind": "greedy", "size": 3}
    with pytest.raises(ConfigError, match="key=value"):
        parse_yaml(text, "x", ["select.size"])
    with pytest.raises(ConfigError, match="not a section"):
        parse_yaml(text, "x", ["seed.x=3"])


def test_the_resolved_config_reads_back_as_itself():
    """Every default is written out, and resolving what was resolved changes nothing, so the hash is stable."""
    config = build_plan(parse_config(values())).config
    again = build_plan(parse_config(read_yaml(to_yaml(config), "x"))).config
    assert again == config
    assert again.hash() == config.hash()
    assert config.search.spec()["beta"] == 0.05
    assert config.members["mlp"]["learning_rate"] == {"low": 0.001, "high": 0.1, "log": True}


def test_the_hash_names_what_decides_the_result_alone():
    config = parse_config(values())
    assert parse_config(values(storage="elsewhere", tracking="memory")).hash() == config.hash()
    assert parse_config(values(seed=1)).hash() != config.hash()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sede": 1}, ["sede: unknown key", "Did you mean 'seed'?"]),
        ({"data": {"source": "sklearn:iris", "targt": "y"}}, ["data.targt: unknown key", "Did you mean 'target'?"]),
        ({"data": {}}, ["data.source: missing"]),
        ({"data": {"source": "sklearn:iris", "splits": {"train": 0.9}}}, ["data.splits", "sum to 1.4"]),
        ({"storage": "s3://key:pa/ss@bucket/runs"}, ["storage", "credentials", "environment"]),
        ({"storage": "s3://bucket/runs?region=x"}, ["storage", "AWS_ENDPOINT_URL"]),
        ({"storage": "s3://key:pass@bucket/runs"}, ["storage", "credentials", "environment"]),
        ({"seed": -1}, ["seed", "greater than or equal to 0", "-1"]),
        ({"name": "a/b"}, ["name", "a/b"]),
        ({"search": {"kind": "divbo", "members": 0}}, ["search.members", "found 0"]),
        ({"search": {"kind": "divbow"}}, ["search.kind: unknown search kind 'divbow'", "Did you mean 'divbo'?"]),
        ({"search": {"kind": "divbo", "betta": 1}}, ["search.betta: unknown option", "Did you mean 'beta'?"]),
        ({"search": {"kind": "divbo", "beta": -1}}, ["search.beta", "greater than or equal to 0", "found -1"]),
        ({"search": {"kind": "random", "beta": 0.1}}, ["search.beta: unknown option of 'random'"]),
        ({"select": {"kind": "greedy", "size": 0}}, ["select.size", "found 0"]),
        ({"combine": "avrage"}, ["combine.kind", "Did you mean 'average'?"]),
        ({"runtime": {"kind": "inline", "gpus_per_member": 1}}, ["runtime.gpus_per_member: unknown option"]),
        ({"runtime": {"kind": "ray_actors", "gpus_per_member": 1.5}}, ["gpus_per_member", "whole number", "1.5"]),
        ({"baselines": ["bigger"]}, ["baselines.0", "larger_single"]),
        ({"baselines": ["seed_ensemble", "seed_ensemble"]}, ["baselines.1", "twice"]),
        ({"members": {}}, ["members"]),
        ({"members": {"a": {"model": "mlp"}}}, ["members.a: `kind` is missing"]),
        ({"members": {"a": {"kind": "clasifier"}}}, ["members.a.kind", "Did you mean 'classifier'?"]),
    ],
)
def test_a_wrong_config_is_refused(changes, words):
    refused(changes, *words)


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ({"learning_rat": 1}, ["members.a.learning_rat: unknown option", "Did you mean 'learning_rate'?"]),
        ({"learning_rate": {"low": 0.1, "high": 0.1}}, ["members.a.learning_rate", "no number lies in the range"]),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, ["members.a.learning_rate", "starts above 0"]),
        ({"learning_rate": {"low": -1.0, "high": 0.1}}, ["members.a.learning_rate", "greater than", "-1.0"]),
        ({"epochs": {"choices": []}}, ["members.a.epochs", "one or more values"]),
        ({"epochs": {"choices": [3, 3]}}, ["members.a.epochs", "twice"]),
        ({"epochs": {"choices": [3, "many"]}}, ["members.a.epochs", "integer", "'many'"]),
        ({"model": {"kind": "mlp", "hidden": [0]}}, ["members.a.model.hidden", "found 0"]),
        ({"model": {"kind": "mlp", "widht": 3}}, ["members.a.model.widht: unknown option"]),
        ({"optimizer": "adam", "momentum": 0.5}, ["members.a", "momentum", "no effect"]),
        ({"family": "b"}, ["members.a.family"]),
    ],
)
def test_a_wrong_member_is_refused_before_anything_is_trained(member, words):
    refused({"members": {"a": {"kind": "classifier", **member}}}, *words)


def test_credentials_are_not_repeated_in_the_message():
    with pytest.raises(ConfigError) as caught:
        parse_config(values(data={"source": "s3://key:hunter2@bucket/a.csv"}))
    assert "hunter2" not in str(caught.value)


def test_a_search_with_nothing_to_search_has_no_effect():
    refused({"members": {"a": {"kind": "classifier", "epochs": 2}}}, "search.kind", "nothing to search", "random")


def test_gpus_for_members_that_use_none_have_no_effect():
    members = {"knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"}}
    runtime = {"kind": "ray_actors", "gpus_per_member": 0.5}
    refused({"members": members, "runtime": runtime}, "runtime", "0.5 GPUs", "no effect")


def test_what_needs_a_network_says_so():
    members = {"knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"}}
    refused({"members": members, "baselines": ["larger_single"]}, "larger_single", "no family")
    refused({"members": members, "distill": "student"}, "distill.network: missing")
    network = {"kind": "estimator", "estimator": "lda"}
    refused({"distill": {"kind": "student", "network": network}}, "distill.network.kind", "estimator")


def test_a_missing_or_broken_file(tmp_path):
    (tmp_path / "digits.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(tmp_path / "digits.yaml")
    with pytest.raises(ConfigError, match=r"Did you mean 'digits\.yaml'"):
        load_config(tmp_path / "digit.yaml")


def test_every_shipped_config_is_valid(pytestconfig):
    paths = sorted((pytestconfig.rootpath / "configs").glob("*.yaml"))
    assert len(paths) >= 3
    for path in paths:
        assert path.read_text().startswith("# Shows"), f"{path.name} does not say what it shows"
        config = load_config(path)
        (federated.build_plan if config.role == "federated" else build_plan)(config)


def test_every_plugin_follows_the_naming_rule():
    families = ("search", "schedule", "select", "combine", "distill", "members", "models", "objectives", "merge")
    for family in (*families, "partition", "runtime", "tracking"):
        found = registry.names(family)
        assert found, family
        for name in found:
            assert registry.find_plugin(family, name, family).__module__ == f"distens.{family}.{name}"
