from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distens import registry
from distens.errors import ConfigError, Refused
from distens.models.lenet import Lenet
from distens.models.mlp import Mlp
from distens.models.protocol import Widens
from distens.models.resnet import Resnet
from distens.objectives.cross_entropy import CrossEntropy
from distens.training.network import count_parameters, initialise, parameters, predict_probs

OWN = {"module": {"path": "user_module:Wide"}}
MODELS = {name: {"kind": name, **OWN.get(name, {})} for name in registry.names("models")}
WIDE = [name for name in MODELS if registry.has_capability(registry.find_plugin("models", name, "model"), Widens)]
SHAPES = {"image": (1, 8, 8), "large image": (3, 32, 32)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", MODELS)
def test_every_model_turns_images_into_logits(kind, shape):
    model = registry.make_plugin("models", MODELS[kind], "model")
    network = initialise(lambda: model.build(shape, 5), seed=3)
    inputs = np.random.default_rng(0).normal(size=(7, *shape)).astype(np.float32)
    probs_NC = predict_probs(network, inputs, classes=5)
    assert probs_NC.shape == (7, 5)
    assert probs_NC.dtype == np.float32
    np.testing.assert_allclose(probs_NC.sum(axis=1), 1, atol=1e-6)
    assert np.ptp(probs_NC, axis=0).max() > 1e-4, "outputs do not depend on inputs"


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_trains_on_one_row(kind):
    network = registry.make_plugin("models", MODELS[kind], "model").build((1, 8, 8), 3)
    network.train()(torch.ones(1, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_which_models_have_a_width():
    assert WIDE == ["lenet", "mlp", "resnet"]


@pytest.mark.parametrize("kind", WIDE)
def test_every_model_with_a_width_widens(kind):
    model = registry.make_plugin("models", kind, "model")
    shape = (1, 8, 8)
    small, same, large = (count_parameters(model.widened(f), shape, 3) for f in (0.01, 1.0, 2.0))
    assert same == count_parameters(model, shape, 3)
    assert 0 < small < same < large
    assert large == parameters(model.widened(2.0).build(shape, 3)), "counted without making it, and made"


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_starts_from_the_seed_alone_and_leaves_global_chance_alone(kind):
    model = registry.make_plugin("models", MODELS[kind], "model")
    before = torch.get_rng_state()
    first = initialise(lambda: model.build((1, 8, 8), 3), seed=1).state_dict()
    torch.rand(5)
    torch.set_rng_state(before)
    again = initialise(lambda: model.build((1, 8, 8), 3), seed=1).state_dict()
    other = initialise(lambda: model.build((1, 8, 8), 3), seed=2).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_mlp_counts():
    """2 inputs, 3 hidden, 2 classes: 2*3 weights + 3 biases, then 3*2 + 2: 17. Widened by 1.5, 5 hidden (4.5 rounds to
    4 by Python's rule, half to even): 2*4 + 4 + 4*2 + 2 = 22. Without hidden layers: 2*2 + 2 = 6."""
    assert count_parameters(Mlp(hidden=(3,)), (2,), 2) == 17
    assert count_parameters(Mlp(hidden=(3,)).widened(1.5), (2,), 2) == 22
    assert count_parameters(Mlp(hidden=()), (2,), 2) == 6


def test_lenet_counts():
    """1x8x8, 10 classes: 1*6*25 + 6 = 156; 6*16*25 + 16 = 2,416; 16 channels of 2x2 pixels: 64*120 + 120 = 7,800;
    120*84 + 84 = 10,164; 84*10 + 10 = 850; together 21,386."""
    assert count_parameters(Lenet(), (1, 8, 8), 10) == 21_386


def test_resnet_counts():
    """1x8x8, 10 classes, width 16, one block a stage; a norm of c channels has 2 c numbers.

    Stem 9*16 + 32 = 176; stage one 2*9*16*16 + 2*32 = 4,672; stage two 9*16*32 + 9*32*32 + 2*64 + shortcut 16*32 =
    14,464; stage three 9*32*64 + 9*64*64 + 2*128 + 32*64 = 57,600; last 64*10 + 10 = 650; together 77,562.
    """
    assert count_parameters(Resnet(), (1, 8, 8), 10) == 77_562


@pytest.mark.parametrize("kind", ["lenet", "resnet"])
@pytest.mark.parametrize("shape", [(30,), (1, 3, 3)])
def test_image_models_refuse_what_is_no_image(kind, shape):
    with pytest.raises(Refused, match=rf"{kind}.*images.*{len(shape) and shape[0]}"):
        registry.make_plugin("models", kind, "model").build(shape, 2)


def test_dropout_needs_hidden_layers():
    with pytest.raises(ConfigError, match=r"dropout: 0.5 has no effect without hidden layers"):
        registry.make_plugin("models", {"kind": "mlp", "hidden": [], "dropout": 0.5}, "model")


@pytest.mark.parametrize(
    ("smoothing", "target", "expected"),
    [
        (0.0, torch.tensor([1]), -math.log(0.75)),
        (0.2, torch.tensor([1]), -(0.1 * math.log(0.25) + 0.9 * math.log(0.75))),
        (0.0, torch.tensor([[0.5, 0.5]]), -(0.5 * math.log(0.25) + 0.5 * math.log(0.75))),
        (0.0, torch.tensor([[0.0, 1.0]]), -math.log(0.75)),
    ],
)
def test_cross_entropy_by_hand(smoothing, target, expected):
    """Logits (0, ln 3) are probabilities (1/4, 3/4). A label 1 costs -ln 3/4 = 0.2877; smoothed by 0.2 it is the target
    (0.1, 0.9): 0.3975; the target (1/2, 1/2): 0.8370."""
    logits_NC = torch.tensor([[0.0, math.log(3.0)]])
    assert CrossEntropy(smoothing).loss(logits_NC, target).item() == pytest.approx(expected, abs=1e-6)
