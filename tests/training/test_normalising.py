"""Normalisation of several members at once: numbers worked by hand, and torch's own."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from distens.training.dropout import Masks
from distens.training.stacked import NetworkStack


def normalised(weight, bias, mean=0.0, variance=1.0):
    """A network of one value a row: batch normalisation by itself, before a layer that passes the value on."""
    network = nn.Sequential(nn.BatchNorm1d(1, eps=0.0, momentum=0.1), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        network[0].weight.fill_(weight)
        network[0].bias.fill_(bias)
        network[0].running_mean.fill_(mean)
        network[0].running_var.fill_(variance)
        network[1].weight.fill_(1.0)
    return network


def test_two_members_statistics_by_hand():
    """Rows 1, 3 have mean 2, variance 1, so they become -1, 1; times 2 plus 1: -1, 3. Rows 0, 4 have mean 2, variance 4
    and become -1, 1 too; times 1 plus 0. The unbiased variances are 2 and 8. Running means, from 0 and from 10:
    0.9 0 + 0.1 2 = 0.2 and 0.9 10 + 0.1 2 = 9.2; variances, from 1 and 4: 0.9 + 0.2 = 1.1 and 3.6 + 0.8 = 4.4.
    Slopes (1, 0) of the outputs: the bias gets 1, the weight 1 times the normalised row -1. Predictions then use the
    running statistics: a row of 0.2 and of 9.2 is their mean, so the biases come out."""
    stack = NetworkStack([normalised(2.0, 1.0), normalised(1.0, 0.0, 10.0, 4.0)], torch.zeros(2, 1))
    assert stack.kinds == {"dense"}
    inputs = torch.tensor([[[1.0], [3.0]], [[0.0], [4.0]]])
    found = stack.forward(inputs, Masks([0, 0], 0))
    np.testing.assert_allclose(found[:, 0], [[-1, 3], [-1, 1]], atol=1e-6)
    stack.backward(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]))
    weight, bias, passed = (block.flatten() for block in stack.blocks(stack.gradients))
    np.testing.assert_allclose(weight, [-1, -1], atol=1e-6)
    np.testing.assert_allclose(bias, [1, 1], atol=1e-6)
    np.testing.assert_allclose(passed, [-1, -1], atol=1e-6)  # of the layer behind: the value itself
    np.testing.assert_allclose(stack.buffers["0.running_mean"].flatten(), [0.2, 9.2], atol=1e-6)
    np.testing.assert_allclose(stack.buffers["0.running_var"].flatten(), [1.1, 4.4], atol=1e-6)
    assert stack.buffers["0.num_batches_tracked"].tolist() == [1, 1]
    predicted = stack.forward(torch.tensor([[[0.2]], [[9.2]]]))
    np.testing.assert_allclose(predicted.flatten(), [1.0, 0.0], atol=1e-6)
    assert stack.buffers["0.num_batches_tracked"].tolist() == [1, 1]


def test_rows_that_are_not_there_count_in_no_statistic():
    """The first member has the rows 1, 3 and a filler 100, the second 0, 4, 8: mean 4, variance 32/3, unbiased 16."""
    stack = NetworkStack([normalised(2.0, 1.0), normalised(1.0, 0.0)], torch.zeros(2, 1))
    masks = Masks([0, 0], 0)
    masks.there_MN = torch.tensor([[True, True, False], [True, True, True]])
    found = stack.forward(torch.tensor([[[1.0], [3.0], [100.0]], [[0.0], [4.0], [8.0]]]), masks)
    np.testing.assert_allclose(found[0, 0, :2], [-1, 3], atol=1e-6)
    np.testing.assert_allclose(found[1, 0], np.array([-4, 0, 4]) / np.sqrt(32 / 3), atol=1e-6)
    np.testing.assert_allclose(stack.buffers["0.running_mean"].flatten(), [0.2, 0.4], atol=1e-6)
    np.testing.assert_allclose(stack.buffers["0.running_var"].flatten(), [0.9 + 0.2, 0.9 + 1.6], atol=1e-6)


def dense(affine=True):
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, affine=affine), nn.ReLU(), nn.Linear(6, 3))


def images(affine=True):
    norm = nn.BatchNorm2d(4, affine=affine)
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("build", "shape"), [(dense, (5,)), (images, (1, 4, 4))])
def test_short_batches_beside_full_ones_are_torchs_short_batches(build, shape, affine):
    """Members of 7, 4 and 2 rows in a batch of 7, filled up with rows whose gradients are zero."""
    networks = [build(affine) for _ in range(3)]
    stack = NetworkStack(networks, torch.zeros(2, *shape))
    rows, inputs, slopes = [7, 4, 2], torch.randn(3, 7, *shape), torch.randn(3, 7, 3)
    masks = Masks([0, 0, 0], 0)
    masks.there_MN = torch.arange(7) < torch.tensor(rows)[:, None]
    slopes[~masks.there_MN] = 0.0
    found = stack.forward(inputs, masks)
    stack.backward(slopes.transpose(1, 2).contiguous())
    for place, (network, count) in enumerate(zip(networks, rows, strict=True)):
        expected = copy.deepcopy(network).train()
        logits = expected(inputs[place, :count])
        torch.testing.assert_close(found[place, :, :count].t(), logits.detach(), atol=1e-5, rtol=1e-4)
        wanted = torch.autograd.grad(logits, list(expected.parameters()), slopes[place, :count])
        for block, gradient in zip(stack.blocks(stack.gradients), wanted, strict=True):
            torch.testing.assert_close(block[place], gradient, atol=1e-4, rtol=1e-3)
        for name, buffer in expected.named_buffers():
            torch.testing.assert_close(stack.buffers[name][place], buffer)


@pytest.mark.parametrize("build", [dense, images])
def test_a_batch_of_one_value_is_an_error_as_torch_has_it(build):
    shape = (5,) if build is dense else (1, 3, 3)
    built = dense() if build is dense else nn.Sequential(*images()[:4], nn.Linear(4, 3))
    stack = NetworkStack([built, built], torch.zeros(2, *shape))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        built.train()(torch.zeros(1, *shape))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        stack.forward(torch.zeros(2, 1, *shape), Masks([0, 0], 0))


def test_members_that_leave_take_their_statistics():
    networks = [normalised(1.0, 0.0, mean, 1.0 + mean) for mean in (1.0, 2.0, 3.0)]
    stack = NetworkStack(networks, torch.zeros(2, 1))
    stack.keep([0, 2])
    assert stack.buffers["0.running_mean"].flatten().tolist() == [1.0, 3.0]
    stack.forward(torch.tensor([[[1.0], [3.0]]] * 2), Masks([0, 0], 0))
    stack.give(1, networks[2])
    assert networks[2][0].running_mean.item() == pytest.approx(2.9)
    assert networks[2][0].num_batches_tracked.item() == 1
    assert networks[1][0].running_mean.item() == 2.0


def test_a_prediction_after_dropout_can_be_gone_back_through():
    """In prediction nothing is dropped, so the gradients of a prediction pass a layer of dropout as they are."""
    networks = [nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.9), nn.Linear(2, 2)) for _ in range(2)]
    stack = NetworkStack(networks, torch.zeros(2, 2))
    inputs = torch.rand(2, 3, 2)
    stack.forward(inputs, Masks([0, 0], 0))
    stack.forward(inputs)
    stack.backward(torch.ones(2, 2, 3))
    expected = torch.autograd.grad(networks[1].eval()(inputs[1]).sum(), list(networks[1].parameters()))
    for block, gradient in zip(stack.blocks(stack.gradients), expected, strict=True):
        torch.testing.assert_close(block[1], gradient)
