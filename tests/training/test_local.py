"""Local training of clients: numbers worked by hand, agreement with torch, and independence of who is beside whom."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from distens.data.dataset import Examples
from distens.errors import Diverged, Refused
from distens.merge.protocol import Correction
from distens.models.lenet import Lenet
from distens.models.mlp import Mlp
from distens.models.resnet import Resnet
from distens.training import flat, local
from distens.training.local import LocalTraining, Shard
from distens.training.loop import Recipe, learned_rows, order
from distens.training.network import initialise


def recipe(**changes):
    values = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.0, "schedule": "constant"}
    return Recipe(**{**values, "epochs": 2, "batch_size": 4, **changes})


def examples(rows, shape=(5,), classes=3, seed=0):
    rng = np.random.default_rng((seed, rows))
    inputs = rng.normal(size=(rows, *shape)).astype(np.float32)
    return Examples(inputs, rng.integers(classes, size=rows), classes)


def shards(sizes, shape=(5,), corrections=None):
    return [
        Shard(f"c{i}", examples(rows, shape, seed=i), 100 + i, (corrections or [Correction()] * len(sizes))[i])
        for i, rows in enumerate(sizes)
    ]


def built(model, shape=(5,), classes=3, seed=0):
    return initialise(lambda: model.build(shape, classes), seed)


def learned(network, some, how):
    start_P = flat.flatten_weights(network)
    found = dict(local.train_clients(copy.deepcopy(network), start_P, some, how))
    return [found[place] for place in range(len(some))]


def by_torch(network, shard, how):
    """One client by torch's own autograd: clip by the loss's gradient, pull, shift, SGD with momentum."""
    network = copy.deepcopy(network)
    start_P = torch.from_numpy(flat.flatten_weights(network))
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=how.recipe.learning_rate,
        momentum=how.recipe.momentum,
        weight_decay=how.recipe.weight_decay,
    )
    inputs, labels = torch.from_numpy(shard.examples.inputs), torch.from_numpy(shard.examples.targets)
    step, losses = 0, []
    used = learned_rows(network, len(labels), how.recipe.batch_size)
    while step < how.count(used):
        per_epoch = how.per_epoch(used)
        if step % per_epoch == 0:
            rows_N, losses = order(len(labels), shard.seed, step // per_epoch)[:used], []
        rows = rows_N[step % per_epoch * how.recipe.batch_size :][: how.recipe.batch_size]
        optimizer.zero_grad()
        found = network(inputs[rows])
        logits = found["logits"] if isinstance(found, dict) else found
        each = nn.functional.cross_entropy(logits, labels[rows], reduction="none")
        losses += each.tolist()
        each.mean().backward()
        if how.clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), how.clip)
        now_P = torch.cat([p.detach().flatten() for p in network.parameters()])
        extra_P = (how.pull + shard.correction.pull) * (now_P - start_P[: len(now_P)])
        if shard.correction.shift_P is not None:
            extra_P = extra_P + torch.from_numpy(shard.correction.shift_P)[: len(now_P)]
        first = 0
        for p in network.parameters():
            p.grad += extra_P[first : first + p.numel()].view(p.shape)
            first += p.numel()
        optimizer.step()
        step += 1
    return flat.flatten_weights(network), float(np.mean(losses))


class Normalised(nn.Module):
    """With batch normalisation; `torch.sin` makes it no chain of known layers.

    Its `eps` keeps rounding small, where the two rows of a batch are nearly alike.
    """

    def __init__(self, activation):
        super().__init__()
        self.first, self.normalise, self.last = nn.Linear(5, 6), nn.BatchNorm1d(6, eps=0.1), nn.Linear(6, 3)
        self.activation = activation

    def forward(self, inputs):
        return {"logits": self.last(self.activation(self.normalise(self.first(inputs))))}


class NormalisedImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.normalise, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=0.1), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.last(torch.relu(self.normalise(self.first(inputs))).mean((2, 3)))


class Decides(nn.Module):
    """A network whose code looks at its numbers, so that it runs for one client alone."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        hidden = torch.relu(self.first(inputs))
        return self.last(hidden if hidden.mean().item() > 0.3 else 2 * hidden)


@dataclass(frozen=True)
class Own:
    """A model of one network of one's own."""

    make: Callable[[], nn.Module]

    def build(self, input_shape, classes):
        return self.make()


def test_one_step_by_hand():
    """One row x = 2, label 0 of two classes, weights and biases zero: p = (1/2, 1/2), so the gradients are (-1, 1) of
    the weights and (-1/2, 1/2) of the biases. A step of 0.1 with a shift of 1 on the first weight and a pull that has
    nothing to pull yet: (-0.1)(-1 + 1) = 0, -0.1, 0.05, -0.05. The loss before it is log 2."""
    network = built(Mlp(hidden=()), (1,), 2)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    correction = Correction(pull=3.0, shift_P=np.array([1, 0, 0, 0], dtype=np.float32))
    shard = Shard("c", Examples(np.array([[2.0]], np.float32), np.array([0]), 2), 0, correction)
    (found,) = learned(network, [shard], LocalTraining(recipe(epochs=1)))
    np.testing.assert_allclose(found.weights_P, [0.0, -0.1, 0.05, -0.05], atol=1e-7)
    assert found.loss == pytest.approx(np.log(2))
    assert (found.steps, found.rate_sum) == (1, pytest.approx(0.1))


def test_a_clipped_gradient_by_hand():
    """The gradient (-1, 1, -1/2, 1/2) has norm sqrt(2.5); clipped to 1/2 a step of 1 goes 0.5 / sqrt(2.5) of it."""
    network = built(Mlp(hidden=()), (1,), 2)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    shard = Shard("c", Examples(np.array([[2.0]], np.float32), np.array([0]), 2), 0)
    (found,) = learned(network, [shard], LocalTraining(recipe(epochs=1, learning_rate=1.0), clip=0.5))
    np.testing.assert_allclose(found.weights_P, np.array([1, -1, 0.5, -0.5]) * 0.5 / np.sqrt(2.5), atol=1e-6)


@pytest.mark.parametrize(
    "how",
    [
        LocalTraining(recipe()),
        LocalTraining(recipe(momentum=0.9, weight_decay=0.01, epochs=3)),
        LocalTraining(recipe(), clip=0.3, pull=0.5),
        LocalTraining(recipe(), steps=7, pull=0.1),
    ],
)
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Mlp(hidden=(6,)), (5,)),
        (Lenet(width=0.5), (1, 8, 8)),
        (Resnet(width=4), (1, 8, 8)),
        (Own(lambda: Normalised(torch.relu)), (5,)),
        (Own(NormalisedImages), (1, 8, 8)),
        (Own(lambda: Normalised(torch.sin)), (5,)),
        (Own(Decides), (5,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_clients_beside_each_other_learn_what_each_would_alone(model, shape, how):
    """Unequal numbers of rows: short batches, fewer steps, and one with fewer rows than a batch; as torch does it."""
    network = built(model, shape)
    count = flat.flatten_weights(network).size
    shift_P = np.random.default_rng(0).normal(size=count).astype(np.float32) * 0.01
    corrections = [Correction(), Correction(0.2, shift_P), Correction(), Correction(0.0, -shift_P)]
    some = shards([9, 3, 14, 8], shape, corrections)
    for shard, found in zip(some, learned(network, some, how), strict=True):
        weights_P, loss = by_torch(network, shard, how)
        atol = 2e-4 if isinstance(model, Own) else 2e-5
        np.testing.assert_allclose(found.weights_P, weights_P, atol=atol)
        assert found.loss == pytest.approx(loss, abs=atol / 2)
        assert found.steps == how.count(learned_rows(network, len(shard.examples.inputs), how.recipe.batch_size))


def test_adam_alone_and_beside_others():
    network, how = built(Mlp(hidden=(6,))), LocalTraining(recipe(optimizer="adamw", learning_rate=0.01))
    some = shards([9, 3, 14])
    together = learned(network, some, how)
    for place, shard in enumerate(some):
        np.testing.assert_allclose(learned(network, [shard], how)[0].weights_P, together[place].weights_P, atol=1e-5)


def test_dropout_is_a_clients_own():
    network = built(Mlp(hidden=(16,), dropout=0.5))
    some = shards([9, 3, 14])
    together = learned(network, some, LocalTraining(recipe()))
    plain = learned(built(Mlp(hidden=(16,))), some, LocalTraining(recipe()))
    for place, shard in enumerate(some):
        alone = learned(network, [shard], LocalTraining(recipe()))[0]
        np.testing.assert_allclose(alone.weights_P, together[place].weights_P, atol=1e-6)
        assert np.abs(alone.weights_P - plain[place].weights_P).max() > 1e-3


def test_a_client_that_diverges_leaves_the_others_as_they_are():
    network = built(Mlp(hidden=(6,)))
    some = shards([9, 8, 14])
    some[1].examples.inputs[0, 0] = np.inf
    found = learned(network, some, LocalTraining(recipe()))
    assert isinstance(found[1], Diverged) and "client c1" in str(found[1])
    for place in (0, 2):
        alone = learned(network, [some[place]], LocalTraining(recipe()))[0]
        np.testing.assert_allclose(found[place].weights_P, alone.weights_P, atol=1e-6)


def test_weights_of_another_size_are_refused():
    network = built(Mlp(hidden=(6,)))
    with pytest.raises(Refused, match=r"57 weights cannot take an array of shape \(3,\)"):
        flat.set_weights(network, np.zeros(3, np.float32))
    with pytest.raises(Refused, match="not float32"):
        flat.flatten_weights(nn.Linear(3, 3).double())


def test_weights_go_out_and_back():
    network, other = built(Lenet(), (1, 8, 8), seed=1), built(Lenet(), (1, 8, 8), seed=2)
    weights_P = flat.flatten_weights(network)
    weights_P.flags.writeable = False
    flat.set_weights(other, weights_P)
    assert np.array_equal(flat.flatten_weights(other), weights_P)


def test_running_statistics_follow_the_weights():
    network, other = built(Own(lambda: Normalised(torch.relu))), built(Own(lambda: Normalised(torch.relu)), seed=1)
    with torch.no_grad():
        network.normalise.running_mean.copy_(torch.arange(6.0))
        network.normalise.running_var.fill_(4.0)
        network.normalise.num_batches_tracked.fill_(7)
    weights_P = flat.flatten_weights(network)
    assert flat.count_statistics(network) == 12 and flat.count_statistics(built(Mlp())) == 0
    np.testing.assert_array_equal(weights_P[-12:], [*range(6), *[4.0] * 6])
    weights_P[-1] = -0.5
    flat.set_weights(other, weights_P)
    assert other.normalise.running_mean.tolist() == list(range(6))
    assert other.normalise.running_var.tolist() == [4.0] * 5 + [0.0]  # a merge may leave less than nothing
    assert other.normalise.num_batches_tracked.item() == 0


def test_a_client_of_one_row_cannot_normalise_batches_and_the_others_do():
    network, how = built(Own(lambda: Normalised(torch.relu))), LocalTraining(recipe())
    some = shards([9, 1, 6])
    found = learned(network, some, how)
    assert isinstance(found[1], Diverged) and "client c1: batch normalisation needs two rows" in str(found[1])
    for place in (0, 2):
        weights_P, _ = by_torch(network, some[place], how)
        np.testing.assert_allclose(found[place].weights_P, weights_P, atol=2e-5)


class Averaging(Normalised):
    """It keeps a running mean of its own making."""

    def __init__(self):
        super().__init__(torch.relu)
        self.register_buffer("seen", torch.zeros(5))

    def forward(self, inputs):
        if self.training:
            self.seen.mul_(0.9).add_(inputs.mean(0), alpha=0.1)
        return super().forward(inputs - self.seen)


class FrozenFirst(Normalised):
    def __init__(self):
        super().__init__(torch.relu)
        self.first.requires_grad_(False)


@pytest.mark.parametrize(
    ("make", "why"),
    [(Averaging, "forward writes to the buffer seen, which is no running statistic"), (FrozenFirst, "frozen")],
)
def test_clients_networks_that_nobody_could_merge_are_refused(make, why):
    with pytest.raises(Refused, match=f"clients' networks cannot be trained: .*{why}"):
        learned(built(Own(make)), shards([9, 6]), LocalTraining(recipe()))
