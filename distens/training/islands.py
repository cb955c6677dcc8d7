"""Stages of a stack whose backward step is done by autograd: image layers, and whole networks under vmap."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from distens.training.dropout import Dropout, Masks, replace_dropouts

Leaves = Mapping[int, tuple[Tensor, Tensor]]
"""The id of a parameter of the template -> its weights and gradients in the stack, both (M, *shape)."""

_IMAGE_LAYERS = (
    nn.Conv2d,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.ReLU,
    nn.GELU,
    nn.Tanh,
    nn.Identity,
)


def is_image_layer(module: nn.Module) -> bool:
    """Return True if a layer, or a block of such layers, can be computed for many members side by side."""
    if type(module) in _IMAGE_LAYERS:  # a subclass may compute anything
        return True
    children = list(module.children())  # a block; its own code must work for any number of channels
    return bool(children) and not list(module.parameters(recurse=False)) and all(map(is_image_layer, children))


class _Island:
    """A first stage of a stack, which computes no gradients of its inputs."""

    def __init__(self, leaves: Leaves) -> None:
        self._weights = [weight.detach().requires_grad_() for weight, _ in leaves.values()]
        self._gradients = [gradient for _, gradient in leaves.values()]
        self._result = torch.empty(0)

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        with torch.enable_grad():
            self._result = self._call(values, masks)
        return self._result.detach()

    def _call(self, values: Tensor, masks: Masks | None) -> Tensor:
        raise NotImplementedError

    def backward(self, gradients: Tensor) -> None:
        found = torch.autograd.grad(self._result, self._weights, gradients)
        for place, gradient in zip(self._gradients, found, strict=True):
            place.copy_(gradient)


class ImageStage(_Island):
    """A stage of image layers, (M, N, channels, height, width) -> (M, width, N), by grouped convolutions."""

    def __init__(self, modules: Sequence[nn.Module], members: int, leaves: Leaves) -> None:
        own = {id(p): leaves[id(p)] for module in modules for p in module.parameters()}
        super().__init__(own)
        weights = dict(zip(own, self._weights, strict=True))
        self._modules = [_grouped(module, members, weights) for module in modules]
        first = modules[0]
        self._shares = isinstance(first, nn.Conv2d) and first.groups == 1

    def _call(self, values: Tensor, masks: Masks | None) -> Tensor:
        members, rows, channels, height, width = values.shape
        if self._shares and values.stride(0) == 0:  # the first convolution reads shared inputs only once
            images = values[0]
        else:
            images = values.permute(1, 3, 4, 0, 2).reshape(rows, height, width, members * channels).permute(0, 3, 1, 2)
        if not images.is_cuda:
            images = images.contiguous(memory_format=torch.channels_last)
        for module in self._modules:
            images = module(images)
        return images.unflatten(1, (members, -1)).permute(1, 2, 3, 4, 0).reshape(members, -1, rows)


def _grouped(module: nn.Module, members: int, weights: Mapping[int, Tensor]) -> nn.Module:
    """Return a layer, or a block of layers, for M times the channels, in which members do not mix."""
    if isinstance(module, nn.Conv2d):
        return _GroupedConv(module, members, weights)
    if isinstance(module, nn.GroupNorm):
        return _GroupedNorm(module, members, weights)
    if isinstance(module, nn.MaxPool2d):
        return _Pool(module)
    clone = copy.copy(module)
    clone._modules = {name: child and _grouped(child, members, weights) for name, child in module._modules.items()}
    return clone


class _GroupedConv(nn.Module):
    def __init__(self, conv: nn.Conv2d, members: int, weights: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._conv, self._members = conv, members
        self._weight = weights[id(conv.weight)]
        self._bias = None if conv.bias is None else weights[id(conv.bias)]
        plain = conv.groups == 1 and conv.in_channels == 1 and conv.padding_mode == "zeros"
        steps = (*conv.stride, *conv.dilation)
        self._unfolds = plain and set(steps) == {1} and not isinstance(conv.padding, str)

    def forward(self, images: Tensor) -> Tensor:
        conv = self._conv
        shared = images.shape[1] == conv.in_channels
        if shared and self._unfolds and torch.is_inference_mode_enabled() and not images.is_cuda:
            return self._unfolded(images)
        weight, bias = self._weight.flatten(0, 1), None if self._bias is None else self._bias.flatten()
        if not images.is_cuda:
            weight = weight.contiguous(memory_format=torch.channels_last)
        groups = conv.groups if shared else conv.groups * self._members
        out = functional.conv2d(images, weight, bias, conv.stride, conv.padding, conv.dilation, groups)
        return out if out.is_cuda else out.contiguous(memory_format=torch.channels_last)  # of one channel it may not be

    def _unfolded(self, images: Tensor) -> Tensor:
        """Return the convolution, computed as one matrix product in channels-last layout.

        On a CPU, that is four times as fast for inputs of one channel.
        """
        conv = self._conv
        height, width = (int(size) for size in conv.kernel_size)
        down, along = (int(size) for size in conv.padding)
        padded = functional.pad(images, (along, along, down, down))
        patches = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
        rows, out_height, out_width = patches.shape[:3]
        weight = self._weight.flatten(0, 1).flatten(1).t()
        flat = patches.reshape(rows * out_height * out_width, -1)
        out = flat @ weight if self._bias is None else torch.addmm(self._bias.flatten(), flat, weight)
        return out.view(rows, out_height, out_width, -1).permute(0, 3, 1, 2)


class _Pool(nn.Module):
    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self._pool = pool
        options = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        self._halves = options in ((2, 2, 0, 1, False), ((2, 2), (2, 2), 0, 1, False))

    def forward(self, images: Tensor) -> Tensor:
        rows, channels, height, width = images.shape
        # In prediction alone: for the backward step, pooling must remember the place of each maximum.
        if not self._halves or not torch.is_inference_mode_enabled() or images.is_cuda or height % 2 or width % 2:
            return self._pool(images)
        pairs = images.permute(0, 2, 3, 1).reshape(rows, height // 2, 2, width * channels)
        pairs = torch.maximum(pairs[:, :, 0], pairs[:, :, 1]).view(rows, height // 2, width // 2, 2, channels)
        return torch.maximum(pairs[:, :, :, 0], pairs[:, :, :, 1]).permute(0, 3, 1, 2)


class _GroupedNorm(nn.Module):
    def __init__(self, norm: nn.GroupNorm, members: int, weights: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._groups, self._eps = norm.num_groups * members, norm.eps
        self._weight, self._bias = (None if p is None else weights[id(p)] for p in (norm.weight, norm.bias))

    def forward(self, images: Tensor) -> Tensor:
        weight, bias = (None if p is None else p.flatten() for p in (self._weight, self._bias))
        return functional.group_norm(images, self._groups, weight, bias, self._eps)


class Vmapped(_Island):
    """A stage that is the whole network, (M, N, …) -> (M, C, N), by its own code under vmap."""

    def __init__(self, template: nn.Module, leaves: Leaves, rates_M: Mapping[str, Tensor], example: Tensor) -> None:
        super().__init__(leaves)
        self._module = copy.deepcopy(template)
        self._parameters = [name for name, _ in self._module.named_parameters()]
        self._rates_M, self._widths = rates_M, {}
        with torch.no_grad():
            layers = {layer.layer: layer for layer in replace_dropouts(self._module)}
            handles = [layer.register_forward_hook(self._see) for layer in layers.values()]
            self._module.eval()(example)
        for handle in handles:
            handle.remove()
        for layer in layers.values():
            layer.given = torch.ones(())
        self._buffers = {m.layer: f"{path}.given" for path, m in self._module.named_modules() if isinstance(m, Dropout)}

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, Dropout)
        self._widths[layer.layer] = inputs[0].shape[1:]

    def _call(self, values: Tensor, masks: Masks | None) -> Tensor:
        rows, learns = values.shape[1], masks is not None
        if self._module.training != learns:  # the network's code may read it; `given` does not depend on it
            self._module.train(learns)
        given: dict[str, Tensor] = {}
        for layer, path in self._buffers.items():
            shape = self._widths[layer]
            if masks is not None:
                mask = masks.take(layer, self._rates_M[layer], shape.numel(), rows)
                given[path] = mask.transpose(1, 2).reshape(len(values), rows, *shape)
            else:
                given[path] = values.new_ones(len(values))

        def call(weights: Sequence[Tensor], given: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
            parameters = dict(zip(self._parameters, weights, strict=True))
            return torch.func.functional_call(self._module, {**parameters, **given}, (inputs,))

        # Random numbers drawn by the network's own code would not follow from the member's seed: that is an error here,
        # and the members are trained alone.
        outputs_MNK = torch.vmap(call, randomness="error")(self._weights, given, values)
        return outputs_MNK.transpose(1, 2)
