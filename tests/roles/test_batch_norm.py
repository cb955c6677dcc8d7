"""Batch normalisation in a federation: averaged whatever the rule, or kept for each client (FedBN)."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from kills import killed
from plugins.normalised import Net
from small_federation import config

import distens
from distens import registry
from distens.data.dataset import Examples
from distens.errors import ConfigError, Diverged, Refused
from distens.roles.federated.plan import build_plan
from distens.storage.store import Store
from distens.training import flat
from distens.training.local import Shard

MODEL = {"kind": "plugins.normalised:Normalised"}


def state_of(path):
    """The server's state after the last round."""
    last = sorted(Path(path, "rounds-weights").iterdir())[-1]
    return Store(str(path)).read_state(f"rounds-weights/{last.name}").arrays


def network(weights_P):
    net = Net(64, 16, 10)
    flat.set_weights(net, weights_P)
    return net


@pytest.mark.parametrize("merge", ["fedavg", "fedadam", "fedlaw", "median"])
def test_statistics_are_averaged_under_every_rule(tmp_path, merge):
    """Adam's steps of 0.01 would leave them near 0 and 1; three rounds of clients' own move them to the rows'."""
    changes = {"federated": {"rounds": 3, "per_round": None}, "client": {"model": MODEL, "epochs": 3}}
    result = distens.run(config(tmp_path, merge=merge, **changes))
    net = network(state_of(result.path)["weights"])
    assert net.normalise.running_mean.abs().max() > 0.1
    assert (net.normalise.running_var > 0).all() and (net.normalise.running_var - 1).abs().max() > 0.1
    predictor = distens.load(f"{result.path}/final/global", imports=True)
    assert np.isfinite(predictor.predict_proba(np.zeros((2, 8, 8), dtype=np.float32))).all()
    if merge == "fedavg":
        assert result.rows["global"]["accuracy"] > 0.6


def test_what_stays_with_clients_is_kept_for_them_and_the_global_model_has_the_mean(tmp_path):
    """Four of six clients a round. The mean is by rows, of all clients that took part so far."""
    changes = {"federated": {"rounds": 3}, "client": {"model": MODEL, "batch_norm": "local"}}
    result = distens.run(config(tmp_path, **changes))
    arrays = state_of(result.path)
    own = {name.removeprefix("own/"): array for name, array in arrays.items() if name.startswith("own/")}
    assert 4 <= len(own) <= 6 and all(array.shape == (64,) for array in own.values())
    places = flat.own_places(network(arrays["weights"]))
    partition = build_partition(result.path)
    rows_K = np.array([len(partition[client]) for client in own])
    mean = np.average(np.stack(list(own.values())), axis=0, weights=rows_K)
    np.testing.assert_allclose(arrays["weights"][places], mean, rtol=1e-5, atol=1e-6)
    spread = np.ptp(np.stack(list(own.values())), axis=0)
    assert (spread > 1e-3).mean() > 0.9
    assert result.rows["global"]["accuracy"] > 0.15


def build_partition(path):
    from distens.partition.protocol import Partition

    return Partition.read(Store(str(path))).rows


def test_a_killed_driver_goes_on_with_what_stays_with_clients(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    changes = {"client": {"model": MODEL, "batch_norm": "local"}}
    folder = killed(config(tmp_path / "killed", **changes), "round 2 of 4: 4 of 4 clients")
    resumed = distens.resume(str(folder))
    calm = distens.run(config(tmp_path / "calm", **changes))
    one, other = state_of(resumed.path), state_of(calm.path)
    assert one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def client(**changes):
    return registry.build_member({"kind": "client", "family": "client", "model": MODEL, **changes})


def examples(rows=12):
    rng = np.random.default_rng(rows)
    return Examples(rng.normal(size=(rows, 64)).astype(np.float32), rng.integers(10, size=rows), 10)


def test_a_client_begins_with_its_own_normalisation_and_the_servers_other_weights():
    """Beside a client without, it learns what it would from those weights alone."""
    member = client(batch_norm="local", batch_size=4)
    member.begin((64,), 10, 0)
    places, start_P = member.own_places(), member.weights()
    assert member.statistics() == 32 and len(places) == 64
    own = np.concatenate([np.full(16, 2.0), np.full(16, 0.5), np.full(16, 0.1), np.full(16, 3.0)]).astype(np.float32)
    shards = [Shard("a", examples(12), 1, own=own), Shard("b", examples(9), 2)]
    found = dict(member.train(start_P, shards, 0))
    mixed_P = start_P.copy()
    mixed_P[places] = own
    net = network(mixed_P)
    assert net.normalise.weight.tolist() == [2.0] * 16 and net.normalise.running_var.tolist() == [3.0] * 16
    expected = dict(member.train(mixed_P, [Shard("a", examples(12), 1)], 0))[0]
    np.testing.assert_allclose(found[0].weights_P, expected.weights_P, atol=1e-5)
    alone = dict(member.train(start_P, [Shard("b", examples(9), 2)], 0))[0]
    np.testing.assert_allclose(found[1].weights_P, alone.weights_P, atol=1e-5)


def test_the_gradient_of_the_servers_rows_is_a_predictions_and_leaves_statistics_alone():
    member = client()
    member.begin((64,), 10, 0)
    before = member.weights()
    loss, gradient_P = member.gradient(examples(50))
    assert loss > 0 and gradient_P.shape == before.shape and not gradient_P[-32:].any() and gradient_P[:-32].any()
    np.testing.assert_array_equal(member.weights(), before)


def test_a_setting_without_effect_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"members\.client\.batch_norm: 'local' has no effect in one shot"):
        build_plan(config(tmp_path, federated={"rounds": 1, "per_round": None}, client={"batch_norm": "local"}))
    member = client(batch_norm="local", model={"kind": "mlp", "hidden": [4]})
    with pytest.raises(Refused, match="batch_norm: 'local' has no effect: the network has no batch normalisation"):
        member.begin((64,), 10, 0)


def test_one_shot_merges_statistics_too(tmp_path):
    changes = {"federated": {"rounds": 1, "per_round": None}, "client": {"model": MODEL, "epochs": 2}}
    result = distens.run(config(tmp_path, merge="fedadam", **changes))
    state = Store(result.path).read_state(
        next(iter(Path(result.path).rglob("members/global/*/state.safetensors"))).relative_to(result.path).as_posix()
    )
    assert np.abs(state.arrays["normalise.running_mean"]).max() > 0.1
    assert (state.arrays["normalise.running_var"] > 0).all()


def test_a_client_alone_with_one_row_is_named():
    member = client(batch_size=4)
    member.begin((64,), 10, 0)
    found = dict(member.train(member.weights(), [Shard("c", examples(1), 1)], 0))
    assert isinstance(found[0], Diverged) and "client c: batch normalisation needs two rows" in str(found[0])
