"""A user's own function, or a loss of torch's, as the objective of a network."""

import numpy as np
import pytest
import torch

from distens import registry
from distens.data.dataset import Examples
from distens.errors import ConfigError, Refused
from distens.training.context import Context

MARGIN = {"kind": "torch.nn:MultiMarginLoss", "options": {"margin": 0.5}}


def make(spec):
    return registry.make_plugin("objectives", spec, "objective")


def test_the_short_form_is_the_long_one():
    short, long = make("plugins.losses:focal"), make({"kind": "function", "path": "plugins.losses:focal"})
    assert registry.resolve_options(short) == registry.resolve_options(long)
    assert registry.resolve_options(short) == {"kind": "function", "path": "plugins.losses:focal", "options": {}}


def test_a_focal_loss_by_hand():
    """Probabilities 1/4 and 3/4: -(1 - p)^2 ln p is .7798 and .0180, on average .3989."""
    outputs_NC = torch.log(torch.tensor([[0.25, 0.75], [0.25, 0.75]]))
    loss = make({"kind": "plugins.losses:focal", "options": {"gamma": 2.0}}).loss(outputs_NC, torch.tensor([0, 1]))
    assert loss.shape == ()
    assert loss.item() == pytest.approx((0.75**2 * np.log(4) + 0.25**2 * np.log(4 / 3)) / 2, abs=1e-6)
    plain = make({"kind": "plugins.losses:focal", "options": {"gamma": 0.0}}).loss(outputs_NC, torch.tensor([0, 1]))
    assert plain.item() == pytest.approx((np.log(4) + np.log(4 / 3)) / 2, abs=1e-6)


def test_a_loss_of_torch():
    """Margin 1/2: max(0, .5 - 0 + 1) / 2 = .75 for the first row, max(0, .5 - 1) = 0 for the second."""
    loss = make(MARGIN).loss(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(0.375)


def test_a_member_learns_with_it():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 2)).astype(np.float32)
    examples = Examples(inputs, (inputs[:, 0] > 0).astype(np.int64), classes=2)
    model = {"kind": "mlp", "hidden": [8]}
    member = registry.build_member({"kind": "classifier", "model": model, "objective": MARGIN, "learning_rate": 0.01})
    member.fit(examples, Context(seed=1))
    assert (member.predict(inputs).argmax(1) == examples.targets).mean() > 0.9


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("plugins.losses:nothing", "has no class or function 'nothing'"),
        ("plugins.losses:NUMBER", "must be a class"),
        ("plugins.losses:alone", "must take two arguments"),
        ({"kind": "plugins.losses:focal", "options": {"gama": 1}}, "options.gama: unknown option of focal"),
        ({"kind": "plugins.losses:focal", "gamma": 1}, "objective.gamma: unknown option"),
        ({"kind": "plugins.losses:focal", "options": {"targets": 1}}, "cannot be set"),
        ({"kind": "torch.nn:MultiMarginLoss", "options": {"margn": 1}}, "unknown option of MultiMarginLoss"),
        ({"kind": "function", "path": "plugins.losses:NUMBER"}, "must be a function"),
    ],
)
def test_what_it_cannot_be_is_refused(spec, words):
    with pytest.raises(ConfigError, match=words):
        make(spec)


def test_a_loss_for_each_row_is_refused():
    with pytest.raises(Refused, match=r"one number, found a tensor of shape \(2,\)"):
        make("plugins.losses:by_row").loss(torch.zeros(2, 2), torch.tensor([0, 1]))


def test_a_stranger_s_loss_is_not_imported():
    assert list(registry.find_unimported("objectives", "stranger:loss", "here")) == [("here", "stranger")]
    long = {"kind": "function", "path": "stranger:loss"}
    assert list(registry.find_unimported("objectives", long, "here")) == [("here", "stranger")]
