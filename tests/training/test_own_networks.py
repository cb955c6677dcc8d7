"""Users' own networks in packs: each equals itself trained one by one, or is not stacked, and it is said why."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from distens.data.dataset import Examples
from distens.members.classifier import Classifier
from distens.objectives.cross_entropy import CrossEntropy
from distens.storage.checkpoint import Checkpoint
from distens.storage.store import Store
from distens.training import loop, network, packed
from distens.training.context import Context
from distens.training.loop import Recipe
from distens.training.network import initialise
from distens.training.packed import Learner
from distens.training.stacked import NetworkStack, Unstackable, find_way

CLASSES = 4
IMAGES = (1, 8, 8)


def examples(shape=(12,), rows=70, seed=0):
    rng = np.random.default_rng(seed)
    return Examples(rng.normal(size=(rows, *shape)).astype(np.float32), rng.integers(CLASSES, size=rows), CLASSES)


def recipe(**values):
    given = {"optimizer": "sgd", "learning_rate": 0.02, "weight_decay": 0.0, "momentum": 0.9, "schedule": "constant"}
    return Recipe(**{**given, "epochs": 2, "batch_size": 16, **values})


class Own(nn.Module):
    """The base of the dense networks."""

    def __init__(self, dropout=0.2):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(12, 10), nn.Linear(10, 10), nn.Linear(10, CLASSES)
        self.rate = dropout


class Chain(Own):
    def __init__(self, dropout=0.2):
        super().__init__()
        self.body = nn.Sequential(self.first, nn.ReLU(inplace=True), nn.Dropout(dropout), self.inner, nn.Tanh())
        del self.first, self.inner

    def forward(self, inputs):
        return self.last(self.body(inputs.view(inputs.size(0), -1)))


class Functional(Own):
    def forward(self, inputs, scale=None):
        hidden = functional.gelu(self.first(torch.flatten(inputs, 1)))
        if scale is not None:
            hidden = hidden * scale
        return functional.log_softmax(self.last(self.inner(hidden).relu()), dim=1)


class Dropping(Own):
    """It calls dropout, by a rate of its own, and uses one layer of dropout at two places."""

    def __init__(self, dropout=0.2):
        super().__init__(dropout)
        self.drop = nn.Dropout(0.3)

    def forward(self, inputs):
        hidden = functional.dropout(torch.relu(self.first(inputs)), self.rate, self.training)
        return self.last(self.drop(torch.relu(self.inner(self.drop(hidden)))))


class Normalised(Own):
    def __init__(self):
        super().__init__()
        self.normalise, self.plain = nn.BatchNorm1d(12), nn.BatchNorm1d(10, affine=False, momentum=0.3)
        self.layer = nn.LayerNorm(10)

    def forward(self, inputs):
        hidden = self.plain(self.first(self.normalise(inputs))).relu()
        return self.last(torch.tanh(self.layer(self.inner(hidden))))


class Adding(Own):
    def forward(self, inputs):
        hidden = torch.relu(self.first(inputs))
        hidden = hidden + self.inner(torch.relu(hidden))
        hidden += functional.dropout(hidden, self.rate, self.training)
        return {"logits": self.last(hidden), "hidden": hidden}


class Activations(nn.Module):
    def __init__(self):
        super().__init__()
        made = [nn.LeakyReLU(0.2), nn.SiLU(), nn.ELU(0.7), nn.Sigmoid(), nn.Softplus(2.0), nn.Hardtanh(-0.3, 0.4)]
        layers = [layer for activation in made for layer in (nn.Linear(12, 12), activation)]
        self.body, self.last = nn.ModuleList([*layers, nn.Linear(12, 12)]), nn.Linear(12, CLASSES)

    def forward(self, inputs):
        for layer in self.body:
            inputs = layer(inputs)
        inputs = functional.leaky_relu(functional.silu(functional.elu(inputs, 0.5)), negative_slope=0.3)
        return self.last(functional.hardtanh(functional.softplus(functional.relu6(inputs.sigmoid())), 0.1, 0.9))


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3)
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(6, CLASSES)

    def forward(self, inputs):
        images = self.drop(functional.max_pool2d(functional.relu(self.first(inputs)), 2))
        images = functional.dropout2d(functional.avg_pool2d(self.second(images), 2), 0.2, self.training)
        return self.last(images.view(-1, 6))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        # Without biases, which have no gradient before batch normalisation: Adam would make whole steps of rounding.
        self.one = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.other = nn.Conv2d(channels, channels, 1, bias=False)
        self.first, self.second = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, inputs):
        out = functional.leaky_relu(self.first(self.one(inputs)), 0.1)
        out = self.second(self.other(out))
        out += inputs
        return functional.relu(out)


class ResidualImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 4, 3, padding=1), nn.ModuleList([Block(4), Block(4)])
        self.last = nn.Linear(4, CLASSES)

    def forward(self, inputs):
        images = self.stem(inputs)
        for block in self.blocks:
            images = block(images)
        return (self.last(images.mean((2, 3))), images)


class Vmapped(Own):
    """No chain of known layers: it is run by vmap, with batch normalisation, dropout and buffers."""

    def __init__(self, dropout=0.2):
        super().__init__(dropout)
        self.normalise, self.drop = nn.BatchNorm1d(10), nn.Dropout(0.3)
        self.register_buffer("table", torch.arange(10))
        self.register_buffer("signs", torch.randn(10).sign(), persistent=False)

    def forward(self, inputs):
        hidden = self.normalise(self.first(inputs)).sin()[:, self.table] * self.signs
        hidden = self.drop(functional.dropout(hidden, self.rate, self.training))
        return self.last(self.drop(torch.relu(self.inner(hidden))))


OWN = [
    (Chain, (12,), {"dense"}),
    (Functional, (3, 4), {"dense"}),
    (Dropping, (12,), {"dense"}),
    (Normalised, (12,), {"dense"}),
    (Adding, (12,), {"dense"}),
    (Activations, (12,), {"dense"}),
    (Images, IMAGES, {"images", "dense"}),
    (ResidualImages, IMAGES, {"images", "sums", "dense"}),
    (Vmapped, (12,), {"vmap"}),
]


def alone(build, data, how, context):
    trained = initialise(build, context.seed)
    return trained, loop.fit_network(trained, data, context, how, CrossEntropy().loss)


def learners(build, how, seeds, checkpoint=None):
    return [Learner(initialise(build, seed), how, Context(seed, checkpoint or Checkpoint())) for seed in seeds]


def same(one, other, **tolerance):
    """Parameters and buffers are equal; of a bias before batch normalisation only rounding is learned."""
    for name, value in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, **(tolerance or {"atol": 1e-4, "rtol": 1e-3}))


@pytest.mark.parametrize(("build", "shape", "kinds"), OWN, ids=lambda value: getattr(value, "__name__", ""))
def test_own_networks_take_the_same_steps_stacked(build, shape, kinds):
    """70 rows in batches of 16 leave a last batch of 6; statistics and numbers of batches are members' own."""
    data, how = examples(shape), recipe()
    pack = learners(build, how, range(3))
    example = torch.from_numpy(data.inputs[:2])
    way = find_way([each.network for each in pack], example)
    assert (way.kinds, way.chain is None) == (kinds, kinds == {"vmap"})
    found = dict(packed.fit_pack(pack, data))
    for seed, each in enumerate(pack):
        expected, metrics = alone(build, data, how, Context(seed))
        same(each.network, expected)
        assert found[seed]["train_loss"] == pytest.approx(metrics["train_loss"], rel=1e-3)
        assert (found[seed]["steps"], found[seed]["parameters"]) == (metrics["steps"], metrics["parameters"])
    together = network.stack([each.network for each in pack], shape, CLASSES)(data.inputs)
    for each, probs_NC in zip(pack, together, strict=True):
        np.testing.assert_allclose(probs_NC, network.predict_probs(each.network, data.inputs, CLASSES), atol=1e-5)


@pytest.mark.parametrize("build", [Dropping, Vmapped])
def test_rates_of_dropout_that_is_called_are_members_own(build):
    data, how = examples(), recipe()
    rates = [0.0, 0.2, 0.6]
    builds = [lambda rate=rate: build(rate) for rate in rates]
    pack = [learners(one, how, [seed])[0] for seed, one in enumerate(builds)]
    assert len(dict(packed.fit_pack(pack, data))) == 3
    for seed, (one, each) in enumerate(zip(builds, pack, strict=True)):
        same(each.network, alone(one, data, how, Context(seed))[0])
    other = alone(builds[0], data, how, Context(2))[0]
    assert (pack[2].network.first.weight - other.first.weight).abs().max() > 1e-3


@pytest.mark.parametrize("build", [Normalised, ResidualImages, Vmapped], ids=lambda build: build.__name__)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_member_with_buffers_resumes_equal_in_a_pack_and_alone(tmp_path, build, optimizer):
    """Stopped after two of four epochs, one member goes on in a pack, the other in `loop.fit_network`."""
    data = examples(IMAGES if build is ResidualImages else (12,))
    how = recipe(optimizer=optimizer, learning_rate=0.003, epochs=4)
    store = Store(str(tmp_path))

    class Stopped(Exception):
        pass

    class StoppedTraining(Checkpoint):
        def save(self, state):
            super().save(state)
            if state.meta["epoch"] == 2 and self._name.endswith("b/checkpoint.safetensors"):
                raise Stopped

    pack = [
        Learner(initialise(build, seed), how, Context(seed, StoppedTraining(store, name, 0)))
        for seed, name in enumerate("ab")
    ]
    with pytest.raises(Stopped):
        dict(packed.fit_pack(pack, data))
    again = learners(build, how, [0], Checkpoint(store, "a", every_seconds=0))
    dict(packed.fit_pack(again, data))
    whole = learners(build, how, range(2))
    dict(packed.fit_pack(whole, data))
    resumed, _ = alone(build, data, how, Context(1, Checkpoint(store, "b", every_seconds=0)))
    for found, expected in ((again[0].network, whole[0].network), (resumed, whole[1].network)):
        # Not every weight: some networks have biases before batch normalisation (see `Block`).
        probs_NC, expected_NC = (network.predict_probs(one, data.inputs, CLASSES) for one in (found, expected))
        np.testing.assert_allclose(probs_NC, expected_NC, atol=1e-3)
        counts = {name: value for name, value in expected.state_dict().items() if "num_batches" in name}
        assert counts and all(found.state_dict()[name] == value == 20 for name, value in counts.items())


def test_a_last_batch_of_one_row_is_left_out_where_batches_are_normalised():
    """17 rows in batches of 16: one step an epoch, alone and in a pack; without batch normalisation, two."""
    data, how = examples(rows=17), recipe()
    pack = learners(Normalised, how, range(2))
    found = dict(packed.fit_pack(pack, data))
    for seed, each in enumerate(pack):
        expected, metrics = alone(Normalised, data, how, Context(seed))
        same(each.network, expected)
        assert found[seed]["steps"] == metrics["steps"] == 2
        assert found[seed]["train_loss"] == pytest.approx(metrics["train_loss"], rel=1e-4)
    assert alone(Functional, data, how, Context(0))[1]["steps"] == 4


def test_a_lone_member_of_an_own_chain_is_a_stack_of_one():
    example = torch.zeros(2, 12)
    assert packed.gains_alone(Functional(), example, 64)
    assert not packed.gains_alone(Vmapped(), example, 64)


# What is not stacked, or not by layers --------------------------------------------------------------------------------


class Noise(Own):
    def forward(self, inputs):
        hidden = self.first(inputs)
        return self.last(hidden + 0.01 * torch.randn(10) if self.training else hidden)


class PythonNoise(Own):
    def forward(self, inputs):
        slope = 0.1 + 0.01 * random.random() if self.training else 0.1
        return self.last(functional.leaky_relu(self.first(inputs), slope))


class NumpyNoise(Own):
    def forward(self, inputs):
        return self.last(functional.leaky_relu(self.first(inputs), float(np.random.uniform(0, 0.1))))


class AlwaysDrops(Own):
    def forward(self, inputs):
        return self.last(functional.dropout(self.first(inputs), 0.2))


class Counts(Own):
    steps = 0

    def forward(self, inputs):
        self.steps += 1
        return self.last(self.first(inputs) if self.steps < 1000 else self.first(inputs).detach())


class Remembers(Own):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, inputs):
        self.seen.append(0)
        return self.last(self.first(inputs))


class WritesAttribute(Own):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(10)

    def forward(self, inputs):
        hidden = self.first(inputs)
        if self.training:
            self.mean.mul_(0.9).add_(hidden.detach().mean(0), alpha=0.1)
        return self.last(hidden - self.mean)


class ReplacesBuffer(Own):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, inputs):
        hidden = self.first(inputs)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return self.last(hidden - self.mean)


class CountsPredictions(Own):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        return self.last(self.first(inputs))


class BesideOthers(Own):
    def forward(self, inputs):
        hidden = self.inner(self.first(inputs))
        return self.last(hidden - hidden.mean(0))


class ByRows(Own):
    """Larger batches get another activation."""

    def forward(self, inputs):
        hidden = self.inner(self.first(inputs))
        return self.last(hidden.tanh() if inputs.shape[0] > 2 else hidden.relu())


class Decides(Own):
    def forward(self, inputs):
        logits = self.last(self.inner(self.first(inputs)))
        return logits if logits[0, 0].item() > 0 else -logits


class Unused(Own):
    def forward(self, inputs):
        return self.last(self.first(inputs))


class WithHook(Own):
    def __init__(self):
        super().__init__()
        self.last.register_full_backward_hook(lambda module, back, out: (back[0] * 2,))

    def forward(self, inputs):
        return self.last(self.inner(self.first(inputs)))


class WithWeightHook(Own):
    def __init__(self):
        super().__init__()
        self.last.weight.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))

    def forward(self, inputs):
        return self.last(self.inner(self.first(inputs)))


class Patched(Own):
    def __init__(self):
        super().__init__()
        self.last.forward = lambda inputs: functional.linear(inputs, 2 * self.last.weight)

    def forward(self, inputs):
        return self.last(self.inner(self.first(inputs)))


class Spectral(Own):
    def __init__(self):
        super().__init__()
        self.last = nn.utils.parametrizations.spectral_norm(self.last)

    def forward(self, inputs):
        return self.last(self.inner(self.first(inputs)))


class Cumulative(Own):
    def __init__(self):
        super().__init__()
        self.normalise = nn.BatchNorm1d(10, momentum=None)

    def forward(self, inputs):
        return self.last(self.inner(self.normalise(self.first(inputs))))


class TwoHeads(Own):
    def forward(self, inputs):
        hidden = self.inner(self.first(inputs))
        return self.last(hidden), hidden


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (Noise, "forward draws random numbers of its own"),
        (PythonNoise, "forward draws random numbers of its own"),
        (NumpyNoise, "forward draws random numbers of its own"),
        (AlwaysDrops, "forward draws random numbers of its own"),
        (Counts, "forward changes steps"),
        (Remembers, "forward changes seen"),
        (WritesAttribute, "forward changes mean"),
        (ReplacesBuffer, "forward changes mean"),
        (CountsPredictions, "predictions change a buffer"),
        (BesideOthers, "predictions of a row depend on the rows beside it"),
        (ByRows, "predictions of a row depend on the rows beside it"),
        (Decides, r"it fails for many networks at once \(RuntimeError: .*item"),
        (Unused, "some weights are not used"),
        (WithHook, "hooks change what"),
        (WithWeightHook, "hooks change the gradients"),
        (Patched, "a layer's forward is replaced"),
        (Spectral, "it fails for many networks at once"),
        (Cumulative, "it fails for many networks at once"),
        (
            TwoHeads,
            r"forward fails \(Refused: TwoHeads: forward must return logits .*found tuple with entry 0 \(3, 4\)",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_followed_is_trained_one_by_one_and_it_is_said_why(build, why):
    example, networks = torch.zeros(2, 12), [build() for _ in range(2)]
    state, python = torch.get_rng_state(), random.getstate()
    with pytest.raises(Unstackable, match=why):
        find_way(networks, example)
    size, reason = packed.advise(networks[0], example, 64, gpu=True)
    assert size == 1 and reason.startswith("trained one by one, as ")
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == python
    assert networks[0].training


class Slope(Own):
    """A flag that differs from member to member, in training alone."""

    def __init__(self):
        super().__init__()
        self.slope = torch.rand(()).item()

    def forward(self, inputs):
        hidden = self.inner(self.first(inputs))
        return self.last(functional.leaky_relu(hidden, self.slope if self.training else 0.1))


class Scaled(Own):
    """A plain tensor that differs from member to member."""

    def __init__(self):
        super().__init__()
        self.scale = torch.rand(10)

    def forward(self, inputs):
        return self.last(self.inner(self.first(inputs) * self.scale))


class ZeroHead(Own):
    """Members with other activations behind a head of zeros: untrained, all predict the same."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.last.weight)
        self.act = torch.tanh if torch.rand(()) < 0.5 else torch.relu

    def forward(self, inputs):
        return self.last(self.act(self.inner(self.first(inputs))))


@pytest.mark.parametrize("build", [Slope, Scaled, ZeroHead], ids=lambda build: build.__name__)
def test_members_that_differ_in_more_than_weights_are_not_stacked(build):
    networks = [initialise(build, seed) for seed in range(12)]
    with pytest.raises(Unstackable, match="would change"):
        find_way(networks, torch.zeros(2, 12))
    assert find_way(networks[:1] * 3, torch.zeros(2, 12)).kinds


def test_layers_with_other_options_are_not_stacked():
    networks = [nn.Sequential(nn.Linear(4, 4), activation, nn.Linear(4, 2)) for activation in (nn.ReLU(), nn.Tanh())]
    with pytest.raises(Unstackable, match="differ in their options"):
        NetworkStack(networks, torch.zeros(2, 4))


@dataclasses.dataclass(frozen=True)
class SlopeModel:
    def build(self, input_shape, classes):
        return Slope()


def test_members_whose_networks_turn_out_to_differ_are_trained_one_by_one():
    data = examples()
    members = [Classifier(model=SlopeModel(), epochs=1) for _ in range(2)]
    assert members[0].pack_advice((12,), CLASSES, gpu=False)[0] > 1  # two of one seed are alike
    found = dict(Classifier.fit_pack(members, data, [Context(0), Context(1)]))
    assert len(found) == 2 and all(found[place].get("pack", 1) == 1 for place in range(2))
    alone_too = Classifier(model=SlopeModel(), epochs=1)
    alone_too.fit(data, Context(1))
    np.testing.assert_allclose(members[1].predict(data.inputs), alone_too.predict(data.inputs), atol=1e-6)


class Doubled(torch.autograd.Function):
    """A rectifier whose gradient is twice the true one: what torch.fx sees of it is the rectifier alone."""

    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(inputs)
        return torch.relu(inputs)

    @staticmethod
    def backward(ctx, *gradients):
        (inputs,) = ctx.saved_tensors
        return 2 * gradients[0] * (inputs > 0)


class OwnGradient(Own):
    def forward(self, inputs):
        return self.last(Doubled.apply(self.inner(self.first(inputs))))


class Detached(Own):
    def forward(self, inputs):
        hidden = self.first(inputs)
        return self.last(hidden + self.inner(hidden.detach()))


class InTraining(Own):
    def forward(self, inputs):
        hidden = self.inner(self.first(inputs))
        return self.last(hidden.tanh() if self.training else hidden.relu())


class InPlace(Own):
    """The rectifier works in place, so that the sum is of two rectified values."""

    def forward(self, inputs):
        hidden = self.first(inputs)
        return self.last(self.inner(functional.relu(hidden, inplace=True)) + hidden)


class Twice(Own):
    def forward(self, inputs):
        return self.last(self.inner(self.inner(self.first(inputs)).relu()))


class Branches(Own):
    def forward(self, inputs):
        hidden = self.first(inputs)
        if hidden.shape[1] == 10:
            hidden = self.inner(hidden)
        return self.last(hidden)


class Scalar(Own):
    def forward(self, inputs):
        return self.last(self.inner(self.first(inputs)) / 2)


class Frozen(Own):
    def forward(self, inputs):
        with torch.no_grad():
            hidden = torch.relu(inputs)
        return self.last(self.inner(self.first(hidden)))


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (Detached, "forward calls detach"),
        (InTraining, "their outputs would change"),
        (InPlace, "their outputs would change"),
        (Twice, "forward uses some layers twice"),
        (Branches, r"forward cannot be traced \(TraceError: symbolically traced variables"),
        (Scalar, "forward calls truediv"),
        (Frozen, "forward's layers are not image layers, a flattening and dense layers"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_chain_runs_by_vmap_and_it_is_said_why(build, why):
    data, how = examples(), recipe()
    pack = learners(build, how, range(3))
    way = find_way([each.network for each in pack], torch.zeros(2, 12))
    assert way.kinds == {"vmap"} and why.partition(r" \(")[0] in way.note
    size, reason = packed.advise(pack[0].network, torch.zeros(2, 12), 16, gpu=False)
    assert size > 1 and "(stacked by vmap over their own code: " in reason
    dict(packed.fit_pack(pack, data))
    for seed, each in enumerate(pack):
        same(each.network, alone(build, data, how, Context(seed))[0])


def test_members_whose_logits_only_the_classes_tell_are_predicted_one_by_one():
    networks = [TwoHeads() for _ in range(2)]
    inputs = examples().inputs
    together = network.stack(networks, (12,), CLASSES)(inputs)
    for one, probs_NC in zip(networks, together, strict=True):
        np.testing.assert_array_equal(probs_NC, network.predict_probs(one, inputs, CLASSES))


def test_a_gradient_of_ones_own_is_noticed():
    with pytest.raises(Unstackable, match=r"generate_vmap_rule|fails for many networks at once"):
        find_way([OwnGradient(), OwnGradient()], torch.zeros(2, 12))
    assert not packed.gains_alone(OwnGradient(), torch.zeros(2, 12), 16)


def test_the_way_is_in_the_advice():
    example = torch.zeros(2, 12)
    assert (
        "cheaper together than one by one (stacked by the layers that are seen in their forward)"
        in (packed.advise(Functional(), example, 16, gpu=False)[1])
    )
    size, reason = packed.advise(Vmapped(), example, 100_000, gpu=False)
    assert size == 1 and "keep a CPU busy (stacked by vmap over their own code: forward calls sin)" in reason


def test_one_buffer_is_kept_where_all_members_have_the_same():
    stack = NetworkStack([Vmapped() for _ in range(3)], torch.zeros(2, 12))
    assert stack.buffers["table"].stride(0) == 0 and stack.buffers["signs"].stride(0) == 10
    stack.keep([0, 2])
    assert len(stack.buffers["table"]) == len(stack.buffers["normalise.running_mean"]) == 2
    assert set(stack.state(1)) == set(Vmapped().state_dict())
