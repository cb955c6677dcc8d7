"""A user's own network as a model: what it is given, its numbers, its bundle, and what a run leaves out for it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import small_federation
import small_run
import torch
from plugins import nets
from sklearn.datasets import load_diabetes, load_digits

import distens
from distens import registry
from distens.config.sources import hash_sources
from distens.data.dataset import Examples
from distens.errors import BundleError, ConfigError, Refused
from distens.roles.ensemble.plan import build_plan
from distens.training.context import Context

NET = "plugins.nets:Net"
OWN = {"kind": NET, "options": {"width": 64}}
OURS = {"kind": "mlp", "hidden": [64]}


def make(spec):
    return registry.make_plugin("models", spec, "model")


def digits():
    found = load_digits()
    inputs = (found.images / 16).astype(np.float32)[:, None]
    return Examples(inputs[:1000], found.target[:1000].astype(np.int64), 10), inputs[1000:]


# What it is -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [NET, {"kind": NET}, {"kind": "module", "path": NET}])
def test_the_short_form_is_the_long_one(spec):
    assert registry.resolve_options(make(spec)) == {"kind": "module", "path": NET, "options": {}}


@pytest.mark.parametrize("name", ["Net", "make"])
def test_a_class_and_a_function_that_returns_a_network(name):
    network = make({"kind": f"plugins.nets:{name}", "options": {"width": 3}}).build((2, 4), 5)
    assert network.hidden.weight.shape == (3, 8)
    assert network(torch.zeros(6, 2, 4)).shape == (6, 5)


def test_what_a_constructor_is_given_by_name():
    model = make("plugins.nets:Named")
    assert model.build((3, 4, 5), 6).given == ((3, 4, 5), 6, 60, 6, 6, False, 3)
    assert model.rebuild((3, 4, 5), 6).given == ((3, 4, 5), 6, 60, 6, 6, True, 3)
    assert model.build((4,), 6).given == ((4,), 6, 4, 6, 6, False, 7), "rows have no channels: its own default"


def test_options_come_before_what_is_offered():
    assert make({"kind": NET, "options": {"num_classes": 2}}).build((4,), 6).last.out_features == 2


def test_channels_are_those_of_images():
    model = make("plugins.nets:Images")
    assert model.build((2, 8, 8), 3)(torch.zeros(5, 2, 8, 8)).shape == (5, 3)  # a lazy layer has its weights
    with pytest.raises(Refused, match=r"plugins.nets:Images: its in_channels is that of images .* of shape \(4,\)"):
        model.build((4,), 3)
    assert make({"kind": "plugins.nets:Images", "options": {"in_channels": 2}}).build((2, 8), 3).body.in_channels == 2


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("plugins.nets:Nett", "has no class or function 'Nett'. Did you mean 'Net'?"),
        ("plugins.nets:FILE", "must be a class"),
        ("no_such_nets:Net", "No module named 'no_such_nets'"),
        ("__main__:Net", "put Net into a file, such as nets.py"),
        ({"kind": "module", "path": "plugins.nets:TABLE"}, "must be a subclass of torch.nn.Module, or a function"),
        ({"kind": "module", "path": "plugins.lab:Wide"}, "must be a subclass of torch.nn.Module, or a function"),
        ({"kind": NET, "options": {"widht": 3}}, "options.widht: unknown option of Net. Did you mean 'width'?"),
        ({"kind": NET, "options": {"classes": 3}}, "options.classes: cannot be set"),
        ({"kind": NET, "options": {"outputs": 3}}, "options.outputs: unknown option of Net"),
        ({"kind": "plugins.nets:Asks", "options": {"restoring": True}}, "options.restoring: cannot be set"),
        ({"kind": NET, "width": 3}, "model.width: unknown option"),
        ({"kind": NET, "path": NET}, "model.path: has no effect"),
        ("torch.nn:LayerNorm", "options: LayerNorm needs normalized_shape"),
        ("user_module:Scheduled", "is a LightningModule, whose own training step would not be used here"),
    ],
)
def test_what_it_cannot_be_is_refused(spec, words):
    with pytest.raises(ConfigError) as caught:
        make(spec)
    assert words in str(caught.value)


def test_a_function_that_returns_something_else_is_refused():
    with pytest.raises(Refused, match=r"plugins.nets:number: must return a torch.nn.Module, found 3"):
        make("plugins.nets:number").build((4,), 3)


def test_a_constructor_that_fails_is_refused_with_its_line():
    line = Path(nets.__file__).read_text().splitlines().index('        raise LookupError("no such preset")') + 1
    with pytest.raises(Refused) as caught:
        make("plugins.nets:Broken").build((4,), 3)
    assert f"LookupError: no such preset ({nets.__file__}, line {line})" in str(caught.value)


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"optimizer": "sgd", "learning_rate": 0.05, "schedule": "cosine"}])
def test_a_classifier_has_the_numbers_of_ours(more):
    examples, rest = digits()
    found = []
    for model in (OURS, OWN):
        member = registry.build_member({"kind": "classifier", "model": model, "epochs": 10, **more})
        metrics = member.fit(examples, Context(seed=3))
        found.append((member.predict(rest), metrics["parameters"], metrics["train_loss"]))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=0, atol=1e-6)
    assert found[1][1:] == (found[0][1], pytest.approx(found[0][2], abs=1e-6))


def test_a_regressor_has_the_numbers_of_ours():
    inputs, targets = load_diabetes(return_X_y=True)
    examples = Examples((20 * inputs[:300]).astype(np.float32), targets[:300], 1)
    found = []
    for model in (OURS, OWN):
        member = registry.build_member({"kind": "regressor", "model": model, "epochs": 10})
        member.fit(examples, Context(seed=3))
        found.append(member.predict((20 * inputs[300:]).astype(np.float32)))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_a_federation_of_ten_has_the_numbers_of_ours(tmp_path):
    found = []
    for name, model in (("ours", OURS), ("own", OWN)):
        federated = {"clients": 10, "per_round": None, "rounds": 5, "partition": "iid"}
        client = {"model": model, "learning_rate": 0.1}
        config = small_federation.config(tmp_path / name, client=client, federated=federated)
        result = distens.run(config)
        found.append((distens.load(result.path).predict_proba(load_digits().images), result.rows["global"]["accuracy"]))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=0, atol=1e-6)
    assert found[1][1] == found[0][1] > 0.8


def test_a_stack_of_own_networks_predicts_as_each_alone():
    examples, rest = digits()
    members = [registry.build_member({"kind": "classifier", "model": OWN, "epochs": 1}) for _ in range(3)]
    for seed, member in enumerate(members):
        member.fit(examples, Context(seed=seed))
    alone_MNC = np.stack([member.predict(rest) for member in members])
    np.testing.assert_allclose(type(members[0]).stack(members)(rest), alone_MNC, rtol=0, atol=1e-6)


# Whole runs -----------------------------------------------------------------------------------------------------------

SEARCHED = {"kind": "module", "path": NET, "options": {"width": {"choices": [4, 8]}}}


def own(folder, model=SEARCHED, **changes):
    members = {"net": {"kind": "classifier", "model": model, "epochs": 3, "learning_rate": 0.01}}
    values = {"members": members, "search": {"kind": "random", "members": 4}, "baselines": [], "distill": None}
    return small_run.config(folder / "runs", **{**values, **changes})


def test_a_run_of_own_networks_and_its_bundles(tmp_path, monkeypatch):
    config = own(tmp_path, baselines=["larger_single", "seed_ensemble"], distill="student")
    plan = build_plan(config)
    assert plan.left_out == {"larger_single": "no network of `members` (net) can be widened: its model has no width"}
    said = []
    result = distens.run(config, said.append)
    assert {"ensemble", "student", "student_on_labels", "seed_ensemble"} <= set(result.rows)
    assert result.missing == plan.left_out
    assert f"baselines: larger_single is left out: {plan.left_out['larger_single']}" in [one.text for one in said]
    rows = small_rows()
    for name in ("ensemble", "student"):
        path = f"{result.path}/final/{name}"
        expected = distens.load(path).predict_proba(rows)
        with monkeypatch.context() as patched:
            patched.delitem(sys.modules, "plugins.nets")
            with pytest.raises(
                BundleError, match=r"names a class in the module 'plugins\.nets', and importing that runs"
            ):
                distens.load(path)
            assert "plugins.nets" not in sys.modules
            np.testing.assert_array_equal(distens.load(path, imports=True).predict_proba(rows), expected)


def small_rows():
    from sklearn.datasets import load_iris

    return load_iris(as_frame=True).data


@pytest.mark.parametrize("model", [NET, {"kind": NET, "options": {"width": 4}}, {"kind": "module", "path": NET}])
def test_a_stranger_s_network_is_not_imported(model, monkeypatch):
    settings = {"kind": "classifier", "model": model}
    assert list(registry.find_unimported("members", settings, "here")) == []
    monkeypatch.delitem(sys.modules, "plugins.nets")
    assert [module for _, module in registry.find_unimported("members", settings, "here")] == ["plugins.nets"]
    assert "plugins.nets" not in sys.modules


def test_the_code_of_a_model_is_hashed_however_it_is_named():
    for model in (NET, {"kind": NET}, {"kind": "module", "path": NET}, {"choices": [NET, "mlp"]}):
        assert list(hash_sources({"members": {"net": {"kind": "classifier", "model": model}}})) == ["plugins.nets"]
    assert hash_sources({"model": {"kind": "mlp", "options": {"url": "plugins.nets:8080"}}}) == {}


def test_a_larger_single_is_made_of_the_best_network_that_has_a_width(tmp_path):
    mlp = {"kind": "classifier", "model": {"kind": "mlp", "hidden": [4]}, "epochs": 1}
    members = {"net": {"kind": "classifier", "model": NET, "epochs": 30, "learning_rate": 0.01}, "ours": mlp}
    search = {"kind": "random", "members": 6}
    result = distens.run(own(tmp_path, members=members, search=search, baselines=["larger_single"]))
    assert "larger_single" in result.rows
    assert result.missing == {}
