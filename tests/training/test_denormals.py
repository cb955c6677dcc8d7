"""Denormal numbers are zero in every thread that trains, while it trains, and nowhere else.

The first input is always zero, so its weights have a gradient of zero, and they are denormal: plain steps leave them as
they are, unless denormals are taken for zero.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from distens.data.dataset import Examples
from distens.errors import Diverged
from distens.objectives.cross_entropy import CrossEntropy
from distens.training import flat, lightning, local, loop, packed
from distens.training.context import Context
from distens.training.local import LocalTraining, Shard
from distens.training.loop import Recipe
from distens.training.network import flush_denormals

TINY = 1e-40


def flushes():
    return (torch.tensor(TINY) * 1).item() == 0


@pytest.fixture(params=[False, True], ids=["kept before", "flushed before"])
def before(request):
    torch.set_flush_denormal(request.param)
    yield request.param
    torch.set_flush_denormal(False)


def recipe(**changes):
    values = {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 0.0, "momentum": 0.0, "schedule": "constant"}
    return Recipe(**{**values, "epochs": 2, "batch_size": 8, **changes})


def examples(rows=20):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(rows, 5)).astype(np.float32)
    inputs[:, 0] = 0
    return Examples(inputs, rng.integers(3, size=rows), 3)


class Chain(nn.Sequential):
    """Layers whose steps a stack has written out."""

    def __init__(self):
        super().__init__(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
        with torch.no_grad():
            self[0].weight[:, 0] = TINY


class Own(Chain):
    """A network whose own code runs, by vmap beside others."""

    def forward(self, inputs):
        hidden = self[0](inputs)
        return self[2](hidden.sin() + hidden.cumsum(1))


class Decides(Chain):
    """A network whose own code looks at its numbers, so that a client trains it alone."""

    def forward(self, inputs):
        hidden = self[0](inputs)
        return self[2](hidden if hidden.mean().item() > 0.3 else 2 * hidden)


def by_loop(make, how):
    network = make()
    loop.fit_network(network, examples(), Context(0), how, CrossEntropy().loss)
    yield network[0].weight


def by_packs(make, how):
    learners = [packed.Learner(make(), recipe(epochs=1), Context(0)), packed.Learner(make(), how, Context(1))]
    for place, found in packed.fit_pack(learners, examples()):
        if isinstance(found, Diverged):
            raise found
        yield learners[place].network[0].weight


def by_clients(make, how):
    network = make()
    shards = [Shard(str(rows), examples(rows), rows) for rows in (6, 12, 20)]
    for _, found in local.train_clients(network, flat.flatten_weights(network), shards, LocalTraining(how)):
        if isinstance(found, Diverged):
            raise found
        yield torch.from_numpy(found.weights_P[:30]).view(6, 5)


def by_lightning(make, how):
    network = make()
    course = lightning.TrainerOptions(how.epochs, how.batch_size, how.learning_rate)
    lightning.fit_module(network, examples(), Context(0), course, CrossEntropy().loss)
    yield network[0].weight


WAYS = [
    (by_loop, Chain),
    (by_loop, Own),
    (by_packs, Chain),
    (by_packs, Own),
    (by_clients, Chain),
    (by_clients, Own),
    (by_clients, Decides),
    (by_lightning, Own),
]


def first_weights_and_states(way, make):
    """Return the first input's weights of each network that was trained, and whether the caller's turns flush."""
    weights, states = [], []
    for found in way(make, recipe()):
        states.append(flushes())
        weights.append(found[:, 0].tolist())
    return weights, [*states, flushes()]


@pytest.mark.parametrize(("way", "make"), WAYS)
def test_denormals_are_zero_in_training_alone(way, make, before):
    kept = 0 if before else np.float32(TINY)  # read where they are not flushed, they are there
    assert make()[0].weight[:, 0].tolist() == [pytest.approx(kept, rel=1e-4, abs=0)] * 6
    weights, states = first_weights_and_states(way, make)
    assert weights
    assert all(each == [0.0] * 6 for each in weights)
    assert set(states) == {before}


@pytest.mark.parametrize(("way", "make"), WAYS)
def test_each_thread_that_trains_flushes_its_own(way, make):
    with ThreadPoolExecutor(1) as threads:
        weights, states = threads.submit(first_weights_and_states, way, make).result()
        assert weights
        assert all(each == [0.0] * 6 for each in weights)
        assert set(states) == {False} == {flushes()}


@pytest.mark.parametrize("way", [by_loop, by_packs, by_clients, by_lightning])
def test_a_training_that_fails_leaves_the_state_as_it_was(way, before):
    with pytest.raises(Diverged):
        list(way(Chain, recipe(learning_rate=1e30, epochs=20)))
    assert flushes() == before


def test_the_state_is_as_before_after_any_error_and_within_another(before):
    def fail():
        with flush_denormals(), flush_denormals():
            assert flushes()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert flushes() == before
    with flush_denormals():
        with flush_denormals():
            pass
        assert flushes()
    assert flushes() == before
