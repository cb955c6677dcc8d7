"""From a training loop of a user's own to a deployed ensemble, with Ray Tune and without."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import user_module
from ray import tune

import distens
import distens.tune
from distens.data.load import load_data
from distens.errors import ConfigError, Refused, RunError
from distens.tune.searcher import DivBOSearch

EXAMPLE = Path(__file__).parents[2] / "jobs" / "examples" / "tune_own_loop"


def config(folder, **changes):
    values = {"name": "own", "storage": str(folder / "runs"), "data": {"source": "sklearn:iris"}}
    return {**values, "runtime": "inline", "tracking": "off", **changes}


def trained(data, seed, epochs=40, width=8):
    torch.manual_seed(seed)
    network = user_module.Plain((4,), 3, width=width)
    inputs, labels = torch.tensor(data.inputs["train"]), torch.tensor(data.targets["train"])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(epochs):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    return network


def test_its_data_are_the_runs_without_what_no_member_may_see(tmp_path):
    data = distens.load_data(config(tmp_path, seed=3))
    whole = load_data(
        distens.config.config.parse_config(config(tmp_path, members={"a": {"kind": "x"}})).data, 3
    ).dataset
    assert set(data.inputs) == {"train", "search", "combine", "test"} and set(data.targets) == {"train", "search"}
    for split, rows in data.inputs.items():
        np.testing.assert_array_equal(rows, whole.inputs[split])
    np.testing.assert_array_equal(data.targets["search"], whole.targets["search"])


def test_a_plain_loop_s_networks_become_an_ensemble_that_predicts(tmp_path):
    data = distens.load_data(config(tmp_path))
    members = {}
    for seed in range(3):
        network = trained(data, seed)
        members[f"seed{seed}"] = distens.member(network, data, options={"width": 8})
        assert network.training and all(part.training for part in network.modules())
        with torch.no_grad():  # a member is the network as it was
            for weight in network.parameters():
                weight.zero_()
    result = distens.ensemble(members, config(tmp_path), metrics={"seed0": {"seconds": 2.0}})
    assert set(result.weights) <= set(members) and result.rows["ensemble"]["accuracy"] > 0.8
    rows = load_data(distens.config.config.load_config(Path(result.path) / "config.yaml").data, 0).example_rows
    assert distens.load(result.path).predict_proba(rows).shape == (5, 3)
    assert json.loads((Path(result.path) / "results.json").read_text())["search_seconds"] == 2.0
    with pytest.raises(RunError, match="there is a run of this config already"):
        distens.ensemble(members, config(tmp_path))


def test_members_of_other_kinds_and_an_own_metric(tmp_path):
    data = distens.load_data(config(tmp_path))
    members = [
        distens.tune.build({"kind": "estimator", "estimator": "lda"}),
        distens.member(trained(data, 0), data, options={"width": 8}),
    ]
    members[0].fit(data.examples(), distens.training.context.Context(seed=0))
    named = {"lda": members[0], "net": members[1]}
    result = distens.ensemble(
        named, config(tmp_path, metric="plugins.scores:f1_score"), metrics={"lda": {"parameters": 9}}
    )
    assert 0.8 < result.rows["ensemble"]["f1_score"] <= 1
    assert set(json.loads((Path(result.path) / "results.json").read_text())["members"]) == {"lda", "net"}


class Forgetful(user_module.Plain):
    """Predicts by an attribute that no state has."""

    def __init__(self, input_shape, classes):
        super().__init__(input_shape, classes)
        self.scale = 1.0

    def forward(self, inputs):
        return self.scale * super().forward(inputs)


def test_what_cannot_be_built_again_is_refused(tmp_path):
    data = distens.load_data(config(tmp_path))
    with pytest.raises(Refused, match="Plain: it can be trained, but not be loaded from its state"):
        distens.member(trained(data, 0, epochs=1), data)
    forgetful = Forgetful((4,), 3)
    forgetful.scale = 3.0
    with pytest.raises(Refused, match="loaded from its state, it predicts something else"):
        distens.member(forgetful, data)
    with pytest.raises(ConfigError, match="has no class or function 'Nothing'"):
        distens.member(trained(data, 0, epochs=1), data, path="user_module:Nothing")
    with pytest.raises(ConfigError, match="torch's Sequential does not say how it was made; make it in"):
        distens.member(torch.nn.Sequential(torch.nn.Linear(4, 3)), data)
    with pytest.raises(ConfigError, match="can only learn classes so far"):
        distens.member(forgetful, distens.load_data(config(tmp_path, data={"source": "sklearn:diabetes"})))


def test_wrong_calls_are_refused(tmp_path):
    data = distens.load_data(config(tmp_path))
    with pytest.raises(ConfigError, match="ensemble: no members"):
        distens.ensemble([], config(tmp_path))
    made = distens.member(trained(data, 0, epochs=1), data, options={"width": 8})
    with pytest.raises(ConfigError, match="`seed_ensemble` has no effect: a loop of your own"):
        distens.ensemble([made], config(tmp_path, baselines=["seed_ensemble"]))
    with pytest.raises(ConfigError, match="a `network` needs `data`"):
        distens.tune.report({}, network=torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="`path` and `options` have no effect without a `network`"):
        distens.tune.report({}, path="nets:Net")
    with pytest.raises(ConfigError, match="no effect beside `data`"):
        distens.tune.report({}, member=made, data=data, labels=[1])
    with pytest.raises(ConfigError, match="no such config"):
        distens.load_data(tmp_path / "config.yaml")


def loop(settings, source):
    data = distens.load_data(source)
    network = user_module.Plain((4,), 3, width=settings["width"])
    inputs, labels = torch.tensor(data.inputs["train"]), torch.tensor(data.targets["train"])
    optimizer = torch.optim.Adam(network.parameters(), lr=settings["lr"])
    for epoch in range(4):
        for _ in range(10):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
        network.train()
        distens.tune.report({"epoch": epoch}, network=network, data=data, options={"width": settings["width"]})
    tune.report({"epoch": 4, "nll": 1.0})  # a last report without a network


def test_in_tune_the_last_network_of_every_trial_counts(tmp_path, ray_here):
    data = distens.load_data(config(tmp_path))
    space = {"width": tune.choice([4, 8]), "lr": tune.loguniform(1e-3, 1e-1)}
    tuner = tune.Tuner(
        tune.with_parameters(loop, source=config(tmp_path)),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=DivBOSearch(labels=data.targets["search"]), metric="nll", mode="min", num_samples=2
        ),
        run_config=tune.RunConfig(name="loop", storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    kept = {
        trial.name: {attempt.name for attempt in trial.iterdir()}
        for trial in (tmp_path / "loop/distens/members").iterdir()
    }
    assert len(kept) == 2 and all(attempts == {"3", "4"} for attempts in kept.values())
    result = distens.tune.ensemble(results, config(tmp_path))
    assert set(result.weights) <= set(kept) and result.rows["ensemble"]["nll"] < 1.1


def test_the_objective_may_be_the_tuner_s(tmp_path):
    search = DivBOSearch({"x": tune.uniform(0, 1)})
    with pytest.raises(ConfigError, match="Tune does not pass on what a scheduler alone is given"):
        search.suggest("a")
    assert not search.set_search_properties("accuracy", "max", {})
    assert (search.metric, search.mode) == ("accuracy", "max") and 0 <= search.suggest("a")["x"] <= 1


def test_the_example_runs_as_a_user_would_run_it(tmp_path):
    words = [sys.executable, str(EXAMPLE / "train.py"), "2"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ensemble: accuracy 0." in done.stdout and "best of Tune: " in done.stdout
