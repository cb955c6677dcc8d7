"""Members trained as one program equal members trained alone; every packable kind sits this exam."""

import copy
import dataclasses
import time

import numpy as np
import pytest
import torch
from torch import nn

from distens import packing, registry
from distens.data.dataset import Examples
from distens.errors import Diverged
from distens.members.classifier import Classifier
from distens.members.protocol import Packable
from distens.models.lenet import Lenet
from distens.models.mlp import Mlp
from distens.models.resnet import Resnet
from distens.objectives.cross_entropy import CrossEntropy
from distens.storage.checkpoint import Checkpoint
from distens.storage.store import Store
from distens.training import loop, packed
from distens.training.context import Context
from distens.training.cost import activations, multiplications
from distens.training.dropout import Masks, replace_dropouts
from distens.training.loop import Recipe
from distens.training.network import initialise
from distens.training.packed import Learner
from distens.training.stacked import NetworkStack, Unstackable, stack_kinds

CLOSE = {"atol": 2e-5, "rtol": 2e-4}


def examples(shape=(1, 8, 8), rows=150, classes=4, soft=False, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, *shape)).astype(np.float32)
    labels = rng.integers(classes, size=rows)
    targets = rng.dirichlet(np.ones(classes), size=rows).astype(np.float32) if soft else labels
    return Examples(inputs, targets, classes)


def recipe(**values):
    given = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.0, "schedule": "constant"}
    return Recipe(**{**given, "epochs": 1, "batch_size": 64, **values})


def zeros():
    linear = nn.Linear(2, 2)
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear


def outcomes(learners, data):
    return dict(packed.fit_pack(learners, data))


def alone(model, data, how, context, rows_N=None, smoothing=0.0):
    """The reference: torch's own modules, autograd and optimizer."""
    network = initialise(lambda: model.build(data.inputs.shape[1:], data.classes), context.seed)
    if rows_N is not None:
        data = dataclasses.replace(data, inputs=data.inputs[rows_N], targets=data.targets[rows_N])
    metrics = loop.fit_network(network, data, context, how, CrossEntropy(smoothing).loss)
    return network, metrics


def learner(model, data, how, seed, rows_N=None, smoothing=0.0, checkpoint=None):
    network = initialise(lambda: model.build(data.inputs.shape[1:], data.classes), seed)
    return Learner(network, how, Context(seed, checkpoint or Checkpoint()), rows_N, smoothing)


def same(one, other, **tolerance):
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, **(tolerance or CLOSE))


def test_one_step_by_hand():
    """Weights of zero give probabilities of 1/2; the row (2, -1) has label 0. Without smoothing the gradients of the
    logits are (-1/2, 1/2), so at learning rate 0.1 the first class' weights become (0.1, -0.05), its bias 0.05. With
    smoothing 0.2 the target is (0.9, 0.1), the gradients (-0.4, 0.4): at rate 0.5, (0.4, -0.2) and 0.2. Both losses are
    log 2."""
    data = Examples(np.array([[2.0, -1.0]], dtype=np.float32), np.array([0]), 2)
    learners = [
        Learner(zeros(), recipe(), Context(0)),
        Learner(zeros(), recipe(learning_rate=0.5), Context(1), label_smoothing=0.2),
    ]
    found = outcomes(learners, data)
    for each, row, bias in ((learners[0], (0.1, -0.05), 0.05), (learners[1], (0.4, -0.2), 0.2)):
        np.testing.assert_allclose(each.network.weight.detach().numpy(), [row, np.negative(row)], atol=1e-6)
        np.testing.assert_allclose(each.network.bias.detach().numpy(), [bias, -bias], atol=1e-6)
    assert [found[i]["train_loss"] for i in (0, 1)] == pytest.approx([np.log(2)] * 2, abs=1e-6)
    assert (found[0]["steps"], found[0]["parameters"], found[0]["pack"]) == (1, 6, 2)


MIXED = [
    {"learning_rate": 0.05, "dropout": 0.0, "schedule": "constant", "epochs": 2},
    {"learning_rate": 0.02, "dropout": 0.3, "schedule": "cosine", "epochs": 3, "weight_decay": 0.1, "smoothing": 0.1},
    {"learning_rate": 0.01, "dropout": 0.5, "schedule": "constant", "epochs": 1, "bootstrap": True},
    {"learning_rate": 0.03, "dropout": 0.3, "schedule": "cosine", "epochs": 3, "momentum": 0.5, "bootstrap": True},
]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_a_pack_of_unlike_members_equals_each_alone(optimizer, soft):
    """They differ in all that members of a pack may differ in; 150 rows leave a last batch of 22."""
    data = examples(soft=soft)
    pack, expected = [], []
    for seed, how in enumerate(MIXED):
        model = Mlp(hidden=(16, 12), dropout=how["dropout"])
        scale = 0.1 if optimizer != "sgd" else 1.0
        values = {key: how[key] for key in ("schedule", "epochs", "weight_decay", "momentum") if key in how}
        steps = recipe(optimizer=optimizer, learning_rate=how["learning_rate"] * scale, **values)
        rows_N = np.random.default_rng(seed).integers(150, size=150) if "bootstrap" in how else None
        smoothing = how.get("smoothing", 0.0)
        pack.append(learner(model, data, steps, seed, rows_N, smoothing))
        expected.append(alone(model, data, steps, Context(seed), rows_N, smoothing))
    found = outcomes(pack, data)
    assert sorted(found) == [0, 1, 2, 3]
    for place, (network, metrics) in enumerate(expected):
        same(pack[place].network, network)
        assert found[place]["train_loss"] == pytest.approx(metrics["train_loss"], rel=1e-4)
        for name in ("epochs", "steps", "parameters"):
            assert found[place][name] == metrics[name]


class Odd(nn.Module):
    """A network that is no chain of layers, with a dropout in the middle."""

    def __init__(self, dropout):
        super().__init__()
        self.first, self.second = nn.Linear(64, 10), nn.Linear(10, 4)
        self.dropout, self.scale = nn.Dropout(dropout), nn.Parameter(torch.ones(10))

    def forward(self, inputs):
        hidden = self.first(inputs.flatten(1)).sin() * self.scale
        return self.second(self.dropout(hidden) + hidden)


@dataclasses.dataclass
class OddModel:
    dropout: float = 0.3

    def build(self, input_shape, classes):
        return Odd(self.dropout)


@pytest.mark.parametrize(
    ("model", "made_of"),
    [
        (Mlp(hidden=(8,), activation="gelu", dropout=0.2), {"dense"}),
        (Mlp(hidden=(8,), activation="tanh", dropout=0.2), {"dense"}),
        (Mlp(hidden=()), {"dense"}),
        (Lenet(width=0.5, dropout=0.2), {"images", "dense"}),
        (Resnet(width=4, dropout=0.2), {"images", "blocks", "dense"}),
        (OddModel(), {"vmap"}),
    ],
    ids=lambda value: getattr(value, "activation", type(value).__name__),
)
def test_every_architecture_takes_the_same_steps_stacked(model, made_of):
    """Few steps at a small rate: later, rounding alone drives trainings of deep networks apart."""
    data, how = examples(rows=40), recipe(learning_rate=0.02, momentum=0.9, epochs=2, batch_size=16)
    pack = [learner(model, data, how, seed) for seed in range(3)]
    assert NetworkStack([each.network for each in pack], torch.from_numpy(data.inputs[:2])).kinds == made_of
    assert stack_kinds(pack[0].network, torch.from_numpy(data.inputs[:2])) == made_of
    found = outcomes(pack, data)
    for seed, each in enumerate(pack):
        network, metrics = alone(model, data, how, Context(seed))
        same(each.network, network, atol=1e-4, rtol=1e-3)
        assert found[seed]["train_loss"] == pytest.approx(metrics["train_loss"], rel=1e-3)


def test_a_diverging_member_is_named_and_touches_nobody():
    data, good = examples(), recipe(learning_rate=0.05, epochs=3)
    rates = [0.05, 1e30, 0.05]
    pack = [learner(Mlp(hidden=(8,)), data, dataclasses.replace(good, learning_rate=r), i) for i, r in enumerate(rates)]
    found = outcomes(pack, data)
    assert isinstance(found[1], Diverged) and "learning rate 1e+30" in str(found[1])
    for place in (0, 2):
        network, _ = alone(Mlp(hidden=(8,)), data, good, Context(place))
        same(pack[place].network, network)


def test_members_come_as_they_finish_and_leave():
    data = examples()
    epochs = [3, 1, 2]
    pack = [learner(Mlp(hidden=(8,)), data, recipe(epochs=e), i) for i, e in enumerate(epochs)]
    assert [place for place, _ in packed.fit_pack(pack, data)] == [1, 2, 0]


def test_chunks_cover_every_member(monkeypatch):
    monkeypatch.setattr(packed, "CACHE_BYTES", 1)
    data = examples()
    pack = [learner(Mlp(hidden=(8,)), data, recipe(), i) for i in range(2 * packed.MIN_MEMBERS_PER_CHUNK + 1)]
    found = outcomes(pack, data)
    assert sorted(found) == list(range(9)) and [found[i]["pack"] for i in range(9)] == [3] * 9
    network, _ = alone(Mlp(hidden=(8,)), data, recipe(), Context(8))
    same(pack[8].network, network)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_member_resumes_in_another_pack_or_alone(tmp_path, optimizer):
    """Both are stopped after two of four epochs. One goes on in a pack with a member that begins anew, the other in
    `loop.fit_network`; each ends where an uninterrupted training would."""
    data, model = examples(), Mlp(hidden=(8,), dropout=0.2)
    how = recipe(optimizer=optimizer, learning_rate=0.01, momentum=0.9, schedule="cosine", epochs=4)
    store = Store(str(tmp_path))

    def kept(name):
        return Checkpoint(store, name, every_seconds=0)

    class Stopped(Exception):
        pass

    class StoppedTraining(Checkpoint):
        def save(self, state):
            super().save(state)
            if state.meta["epoch"] == 2 and self._name.endswith("b/checkpoint.safetensors"):
                raise Stopped

    pack = [learner(model, data, how, i, checkpoint=StoppedTraining(store, n, 0)) for i, n in enumerate("ab")]
    with pytest.raises(Stopped):
        outcomes(pack, data)
    assert kept("a").load().meta["epoch"] == 2
    again = [learner(model, data, how, 2), learner(model, data, how, 0, checkpoint=kept("a"))]
    found = outcomes(again, data)
    assert found[1]["pack"] == 1  # members at different epochs take turns
    same(again[1].network, alone(model, data, how, Context(0))[0])
    same(again[0].network, alone(model, data, how, Context(2))[0])
    same(alone(model, data, how, Context(1, kept("b")))[0], alone(model, data, how, Context(1))[0])


def test_masks_keep_the_right_share_and_are_the_layers_own():
    """Of 40,000 numbers at rate 0.3, 12,000 ± 92 are dropped; the others are scaled by 1 / 0.7."""
    rates_M = torch.tensor([0.3, 0.0])
    masks = Masks([1, 2], epoch=0)
    first, second = masks.take("1.0", rates_M, 200, 200), masks.take("1.0", rates_M, 200, 200)
    assert abs(int((first[0] == 0).sum()) - 12_000) < 5 * 92
    assert first[0].max().item() == pytest.approx(1 / 0.7) and (first[1] == 1).all()
    assert not torch.equal(first[0], second[0])
    assert torch.equal(Masks([1], 0).take("1.0", rates_M[:1], 200, 200), first[:1])
    assert not torch.equal(Masks([1], 0).take("3.0", rates_M[:1], 200, 200), first[:1])
    assert not torch.equal(Masks([1], 1).take("1.0", rates_M[:1], 200, 200), first[:1])


def test_adopted_dropout_drops_in_training_alone():
    network = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5))
    (dropout,) = replace_dropouts(network)
    dropout.masks = Masks([0], 0)
    inputs = torch.ones(4, 3)
    assert 0.3 < (network.train()(inputs) == 0).float().mean() < 0.7
    assert torch.equal(network.eval()(inputs), network[0](inputs))


def shared():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    return network


def frozen():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[0].weight.requires_grad_(False)
    return network


def hooked():
    network = nn.Sequential(nn.Linear(4, 4))
    network[0].register_forward_hook(lambda module, inputs, out: 2 * out)
    return network


def misread():
    """A block whose own code counts channels, so that it means another thing when members stand beside each other."""

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1)

        def forward(self, inputs):
            return self.conv(inputs) / inputs.shape[1] * inputs.mean(dim=1, keepdim=True)

    return nn.Sequential(Counts(), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (shared, "shared"),
        (frozen, "frozen"),
        (hooked, "hooks"),
    ],
    ids=["shared", "frozen", "hooked"],
)
def test_networks_that_cannot_be_stacked_are_refused(build, why):
    with pytest.raises(Unstackable, match=why):
        NetworkStack([build(), build()], torch.zeros(2, 4))
    assert packed.advise(build(), torch.zeros(2, 4), 64, gpu=True)[0] == 1


def test_a_block_that_counts_channels_is_noticed():
    networks = [misread() for _ in range(3)]
    inputs = torch.rand(5, 1, 2, 2)
    stack = NetworkStack(networks, inputs[:2])
    assert stack.kinds == {"vmap"}
    with torch.inference_mode():
        found = stack.forward(inputs.expand(3, *inputs.shape)).transpose(1, 2)
        expected = torch.stack([network(inputs) for network in networks])
    torch.testing.assert_close(found, expected)


PACKABLE = [
    kind
    for kind in registry.names("members")
    if registry.has_capability(registry.find_plugin("members", kind, ""), Packable)
]


def members_of(kind):
    """Members that differ in every setting that the kind calls free, where it is one of the common ones."""
    cls = registry.find_plugin("members", kind, "")
    given = [
        {"learning_rate": 0.01, "epochs": 2, "rows": "all"},
        {"learning_rate": 0.03, "epochs": 1, "rows": "bootstrap"},
    ]
    spec = [{"kind": kind, **{k: v for k, v in values.items() if k in cls.varies_in_pack}} for values in given]
    assert packing.make_pack_key(spec[0]) == packing.make_pack_key(spec[1]) is not None
    return [registry.build_member(settings) for settings in spec]


@pytest.mark.parametrize("kind", PACKABLE)
def test_packed_members_equal_the_same_members_alone(kind):
    """Predictions to float tolerance, from training and from a stored state, one by one and stacked."""
    data = examples(shape=(6,))
    cls = registry.find_plugin("members", kind, "")
    together, apart = members_of(kind), members_of(kind)
    found = dict(cls.fit_pack(together, data, [Context(4), Context(5)]))
    expected = [member.fit(data, Context(seed)) for member, seed in zip(apart, (4, 5), strict=True)]
    stacked_MNC = cls.stack(together)(data.inputs)
    for place, (member, lone) in enumerate(zip(together, apart, strict=True)):
        np.testing.assert_allclose(member.predict(data.inputs), lone.predict(data.inputs), atol=1e-5)
        np.testing.assert_allclose(stacked_MNC[place], member.predict(data.inputs), atol=1e-6)
        assert found[place]["parameters"] == expected[place]["parameters"]
        loaded = members_of(kind)[place]
        loaded.load(member.state())
        np.testing.assert_array_equal(loaded.predict(data.inputs), member.predict(data.inputs))


@pytest.mark.parametrize("kind", PACKABLE)
def test_packable_members_say_how_many_gain(kind):
    size, why = members_of(kind)[0].pack_advice((6,), 4, gpu=False)
    assert size >= 1 and why


class Decides(nn.Module):
    """A network whose code looks at its numbers, so that it can run for one member alone."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, inputs):
        logits = self.layer(inputs.flatten(1))
        return logits if logits.sum().item() > 0 else -logits


@dataclasses.dataclass(frozen=True)
class DecidesModel:
    def build(self, input_shape, classes):
        return Decides()


def test_a_network_that_cannot_be_stacked_is_found_out_and_trained_alone():
    """Advice runs no such code in the driver, a stack refuses it, training and asking it go one by one."""
    data = examples(shape=(6,))
    member = Classifier(model=DecidesModel(), epochs=2)
    for gpu in (False, True):
        assert member.pack_advice((6,), 4, gpu)[0] >= 1
    network, _ = alone(DecidesModel(), data, member._recipe(), Context(0))
    assert "pack" not in member.fit(data, Context(0))
    same(member._network, network, atol=0, rtol=0)
    with pytest.raises(Unstackable, match="item"):
        outcomes([learner(DecidesModel(), data, recipe(), seed) for seed in range(2)], data)
    two = [member, copy.deepcopy(member)]
    np.testing.assert_array_equal(Classifier.stack(two)(data.inputs)[1], member.predict(data.inputs))


def test_a_member_that_cannot_even_be_built_is_not_the_planners_to_name():
    """LeNet needs images; a member that is refused is refused where it is trained, and the run goes on."""
    planner = packing.Planner("auto", lambda: 1, 0.0, on_gpu=lambda settings: False, input_shape=(4,), classes=3)
    assert planner.size({"kind": "classifier", "model": {"kind": "lenet"}}, left=5) == 1
    assert planner.size({"kind": "classifier", "model": {"kind": "mlp"}}, left=5) == 5


class Chancy(Decides):
    """A network that draws chance of its own."""

    def forward(self, inputs):
        hidden = self.layer(inputs.flatten(1))
        return hidden + torch.randn_like(hidden) if self.training else hidden


def test_chance_of_a_networks_own_is_no_packs():
    """In a pack it would not follow from the member's seed; as it is refused, members are trained one by one."""
    learners = [Learner(Chancy(), recipe(), Context(seed)) for seed in range(2)]
    with pytest.raises(Unstackable, match="random"):
        outcomes(learners, examples(shape=(6,)))


class Notices(nn.Module):
    """A block whose code fails, without a word, if members stand beside each other."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, inputs):
        found = self.conv(inputs)
        assert found.shape[1] == 2
        return found


def test_a_block_that_fails_beside_others_is_run_as_it_is():
    networks = [nn.Sequential(Notices(), nn.Flatten(), nn.Linear(8, 4)) for _ in range(3)]
    inputs = torch.rand(5, 1, 2, 2)
    assert stack_kinds(networks[0], inputs) == {"images", "blocks", "dense"}
    stack = NetworkStack(networks, inputs[:2])
    assert stack.kinds == {"vmap"}
    with torch.inference_mode():
        found = stack.forward(inputs.expand(3, *inputs.shape)).transpose(1, 2)
        torch.testing.assert_close(found, torch.stack([network(inputs) for network in networks]))


def test_what_only_looks_like_a_chain_is_none():
    """An activation before the first weights would work in place on the inputs; another Flatten keeps other axes."""
    rows = torch.zeros(2, 4)
    assert stack_kinds(nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.ReLU(), nn.Linear(4, 4)), rows) == {"vmap"}
    assert stack_kinds(nn.Sequential(nn.Flatten(2), nn.Linear(4, 4)), rows) == {"vmap"}
    assert stack_kinds(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 4))), rows) == {"dense"}
    assert stack_kinds(nn.Sequential(nn.Linear(4, 4)), torch.zeros(2, 3, 4)) == {"vmap"}


def test_cost_by_hand_and_the_network_is_left_as_it_was():
    """A 1x4x4 image, two 3x3 filters to 2x2 pixels: 18 weights at 4 places; then 8 inputs to 3 outputs: 72 + 24 = 96
    multiplications, and 16 + 8 + 3 numbers."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(), nn.Flatten(), nn.Linear(8, 3))
    before = torch.get_rng_state()
    example = torch.zeros(2, 1, 4, 4)
    assert (multiplications(network, example), activations(network, example)) == (96, 27)
    assert network.training and not any(m._forward_hooks for m in network.modules())
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_stacked_to_ask_for_advice(monkeypatch):
    """A stack is built where members are trained, once for a lone member."""
    built = []

    class Counted(NetworkStack):
        def __init__(self, networks, *given, **how):
            built.append(len(networks))
            super().__init__(networks, *given, **how)

    monkeypatch.setattr(packed, "NetworkStack", Counted)
    member = Classifier(epochs=1)
    assert [member.pack_advice((6,), 4, gpu)[0] > 1 for gpu in (False, True)] == [True, True]
    assert built == []
    assert member.fit(examples(shape=(6,)), Context(0))["pack"] == 1
    assert built == [1]


def test_an_objective_of_ones_own_is_trained_one_by_one():
    class Own(CrossEntropy):
        def loss(self, logits_NC, targets):
            return super().loss(logits_NC, targets) * 2

    @dataclasses.dataclass(frozen=True)
    class Other:
        def loss(self, logits_NC, targets):
            return CrossEntropy().loss(logits_NC, targets)

    data = examples(shape=(6,))
    members = [Classifier(objective=objective, epochs=1) for objective in (Other(), Other())]
    assert members[0].pack_advice((6,), 4, gpu=False)[0] == 1
    found = dict(Classifier.fit_pack(members, data, [Context(0), Context(1)]))
    lone = Classifier(objective=Own(), epochs=1)
    assert "pack" not in found[0] and copy.deepcopy(members[1]).predict(data.inputs).shape == (150, 4)
    assert lone.fit(data, Context(0))["train_loss"] > 1.5 * found[0]["train_loss"]


def test_advice_follows_the_arithmetic():
    wide = Mlp(hidden=(2048, 2048))
    sizes = [packed.advise(model.build((64,), 10), torch.zeros(2, 64), 64, gpu=False)[0] for model in (Mlp(), wide)]
    assert sizes[0] > 8 and sizes[1] == 1
    assert packed.advise(Resnet().build((1, 8, 8), 10), torch.zeros(2, 1, 8, 8), 64, gpu=False)[0] == 1
    assert packed.advise(Mlp().build((64,), 10), torch.zeros(2, 64), 64, gpu=True)[0] == packed.MAX_MEMBERS_ON_GPU


def test_saving_a_pack_counts_as_a_whole(monkeypatch):
    """Four members of 50 ms each: after their 200 ms of saving, as much training comes before the next ones. Were each
    member's own 50 ms counted, the other three's saving would be taken for training, and every epoch would save."""
    monkeypatch.setattr("distens.training.checkpoint.TRAINING_PER_SAVING", 1)
    saved = []

    class Slow(Checkpoint):
        def save(self, state):
            saved.append(state.meta["epoch"])
            time.sleep(0.05)

    slow = [Slow(every_seconds=0.02) for _ in range(4)]
    pack = [learner(Mlp(hidden=(8,)), examples(), recipe(epochs=60), i, checkpoint=c) for i, c in enumerate(slow)]
    began = time.perf_counter()
    outcomes(pack, examples())
    training = time.perf_counter() - began - 0.05 * len(saved)
    assert len(saved) % 4 == 0 and 1 <= len(saved) // 4 <= 1 + training / 0.2 + 1
