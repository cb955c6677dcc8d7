"""Frozen networks that predict together: one differentiable call for the logits of all.

Networks of one architecture are stacked if it is a chain of torch's own layers (`distens.training.layers`); any other
network is called by itself. Measured on one CPU thread, LeNet-5, 128 images of 28x28, forward and backward to the
inputs, for 5 and 10 teachers:

    one by one                                                        124 ms   262 ms
    torch.func.stack_module_state and vmap                            122 ms   262 ms
    grouped convolutions in torch's default layout                    108 ms   225 ms
    grouped convolutions in channels-last layout                       79 ms   171 ms
    one by one, channels-last                                          71 ms   142 ms
    grouped, channels-last, the first layer's backward written out     48 ms   108 ms   <- used here

Torch is slow at the gradient of a first convolution's inputs when they have one channel. Dense layers gain a tenth. A
residual network is slower in channels-last layout (0.8 times as fast), so its layout stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distens.training.dropout import Dropout, replace_dropouts
from distens.training.layers import layer_kinds
from distens.training.outputs import check_outputs
from distens.training.stacked import Unstackable
from distens.training.ways import check_network

_FEW_CHANNELS = 4
"""For inputs of at most this many channels, the written-out backward step of a first convolution is the faster one."""

_CHAINED = (
    nn.Conv2d,
    nn.Linear,
    nn.GroupNorm,
    nn.Flatten,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.ReLU,
    nn.GELU,
    nn.Tanh,
    nn.Identity,
)
"""The layers of chains that are stacked here."""

Call = Callable[[Tensor], Tensor]


class FrozenTeachers:
    """Copies of networks as they are now, for prediction only.

    Args:
        networks: M networks of any architectures; they are copied, and stay as they are.
        device: the device of the inputs.
    """

    def __init__(self, networks: Sequence[nn.Module], device: str = "cpu") -> None:
        found = [_prepared(network) for network in networks]
        groups: dict[str, list[int]] = {}
        for place, (network, chain) in enumerate(found):
            groups.setdefault(str(network) if chain else f"alone {place}", []).append(place)
        self._calls: list[Call] = []
        for name, places in groups.items():
            chosen = [found[place][0].to(device).requires_grad_(False) for place in places]
            self._calls.append(_alone(chosen[0]) if name.startswith("alone ") else _stacked(chosen))
        order = [place for places in groups.values() for place in places]
        self._back = None if order == sorted(order) else torch.tensor(order, device=device).argsort()

    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits_MNC of inputs (N, …); gradients reach the inputs only."""
        logits_MNC = torch.cat([call(inputs) for call in self._calls])
        return logits_MNC if self._back is None else logits_MNC[self._back]


def _prepared(network: nn.Module) -> tuple[nn.Module, bool]:
    """Return a copy for prediction, and True if it is a chain that can be stacked."""
    network = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.requires_grad_()  # stacking refuses frozen parameters; predictions do not differ
    replace_dropouts(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Dropout):
                setattr(parent, name, nn.Identity())
    network.eval()
    try:
        check_network(network)
    except Unstackable:
        return network, False
    leaves = _leaves(network)
    chain = layer_kinds(network) <= {"dense", "images"} and all(type(leaf) in _CHAINED for leaf in leaves)
    return network, chain and _can_share_inputs(leaves)


def _leaves(network: nn.Module) -> list[nn.Module]:
    return [leaf for child in network for leaf in _leaves(child)] if isinstance(network, nn.Sequential) else [network]


def _can_share_inputs(layers: Sequence[nn.Module]) -> bool:
    """Return True if the first layer with weights can take inputs that all networks share."""
    first = next((layer for layer in layers if next(layer.parameters(), None) is not None), None)
    return isinstance(first, nn.Linear) or (isinstance(first, nn.Conv2d) and first.padding_mode == "zeros")


def _alone(network: nn.Module) -> Call:
    return lambda inputs: check_outputs(network, network(inputs), len(inputs))[None]


def _stacked(networks: Sequence[nn.Module]) -> Call:
    """Return the function from inputs (N, …) to logits_MNC of chains of one architecture."""
    shared, steps = True, []
    for layers in zip(*map(_leaves, networks), strict=True):
        step = _step(layers, shared)
        shared = shared and not isinstance(layers[0], nn.Conv2d | nn.Linear)
        steps.append(step)

    def call(inputs: Tensor) -> Tensor:
        for step in steps:
            inputs = step(inputs)
        return inputs

    return call


def _step(layers: Sequence[Any], shared: bool) -> Call:
    """Return the function of one layer of all networks together.

    Images lie as (N, M * channels, height, width), rows as (M, N, width). Values that all networks still share
    (`shared`: no layer with weights came before) have no axis M.
    """
    first, members = layers[0], len(layers)
    if isinstance(first, nn.Conv2d):
        return _convolution(layers, shared)
    if isinstance(first, nn.Linear):
        return _dense(layers, shared)
    if isinstance(first, nn.GroupNorm):
        weight, bias = (_stack_parameter(layers, name, flat=True) for name in ("weight", "bias"))
        return lambda x: functional.group_norm(x, first.num_groups * members, weight, bias, first.eps)
    if isinstance(first, nn.Flatten) and not shared:
        return lambda x: x.unflatten(1, (members, -1)).transpose(0, 1).flatten(2)
    return first


def _stack_parameter(layers: Sequence[Any], name: str, flat: bool) -> Tensor | None:
    if getattr(layers[0], name) is None:
        return None
    numbers = torch.stack([getattr(layer, name) for layer in layers])
    return numbers.flatten(0, 1) if flat else numbers


def _dense(layers: Sequence[nn.Linear], shared: bool) -> Call:
    members = len(layers)
    if shared:
        weight, bias = (_stack_parameter(layers, name, flat=True) for name in ("weight", "bias"))
        assert weight is not None
        return lambda x: functional.linear(x, weight, bias).unflatten(-1, (members, -1)).transpose(0, 1)
    weight, bias = (_stack_parameter(layers, name, flat=False) for name in ("weight", "bias"))
    assert weight is not None
    turned = weight.transpose(1, 2)
    if bias is None:
        return lambda x: torch.bmm(x, turned)
    bias = bias.unsqueeze(1)
    return lambda x: torch.baddbmm(bias, x, turned)


def _convolution(layers: Sequence[nn.Conv2d], shared: bool) -> Call:
    first = layers[0]
    groups = first.groups if shared else first.groups * len(layers)
    weight, bias = (_stack_parameter(layers, name, flat=True) for name in ("weight", "bias"))
    assert weight is not None
    if weight.is_cuda:
        return lambda x: functional.conv2d(x, weight, bias, first.stride, first.padding, first.dilation, groups)
    weight = weight.contiguous(memory_format=torch.channels_last)
    simple = first.groups == 1 and first.in_channels <= _FEW_CHANNELS and not isinstance(first.padding, str)
    written = shared and simple and {*first.stride, *first.dilation} == {1}

    def call(images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        if written:
            out: Any = _FirstConvolution.apply(images, weight, bias, first.padding)
        else:
            out = functional.conv2d(images, weight, bias, first.stride, first.padding, first.dilation, groups)
        return out.contiguous(memory_format=torch.channels_last)  # a result of one channel may have another layout

    return call


class _FirstConvolution(torch.autograd.Function):
    """A convolution of images with few channels, by steps of one pixel; gradients reach the images only."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.sizes, ctx.padding = images.shape, padding
        return functional.conv2d(images, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the images' gradient: a matrix product, whose columns are added up where the kernel met each pixel."""
        (weight,), (out,) = ctx.saved_tensors, gradients
        rows, channels, height, width = ctx.sizes
        down, along = ctx.padding
        units, _, kernel_height, kernel_width = weight.shape
        flat = out.permute(0, 2, 3, 1).reshape(-1, units)
        columns = torch.mm(weight.reshape(units, -1).t(), flat.t())
        columns = columns.view(channels, kernel_height, kernel_width, rows, *out.shape[2:])
        images = out.new_zeros(channels, rows, height + 2 * down, width + 2 * along)
        for i in range(kernel_height):
            for j in range(kernel_width):
                images[:, :, i : i + out.shape[2], j : j + out.shape[3]] += columns[:, i, j]
        inner = images[:, :, down : down + height, along : along + width]
        return inner.transpose(0, 1), None, None, None
