"""Stages of a stack whose backward step is done by autograd: image layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from distens.training.dropout import Dropout, Masks
from distens.training.normalising import GroupedBatchNorm, keeps_statistics
from distens.training.stages import Numbers, Sum

_IMAGE_LAYERS = (
    nn.Conv2d,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.ReLU,
    nn.GELU,
    nn.Tanh,
    nn.LeakyReLU,
    nn.SiLU,
    nn.ELU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Hardtanh,
    nn.ReLU6,
    nn.Dropout,
    Dropout,
    nn.Identity,
)


def is_image_layer(module: nn.Module) -> bool:
    """Return True if a layer, or a block of such layers, can be computed for many members side by side."""
    if type(module) is nn.BatchNorm2d:
        return keeps_statistics(module)
    if type(module) in _IMAGE_LAYERS:  # a subclass may compute anything
        return True
    children = list(module.children())
    if type(module) is Sum:
        return all(is_image_layer(layer) for branch in children for layer in branch.children())
    # A block's own code must work for any number of channels.
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return bool(children) and not own and all(map(is_image_layer, children))


class Island:
    """A first stage of a stack, which computes no gradients of its inputs."""

    def __init__(self, leaves: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        self._weights = [weight.detach().requires_grad_() for weight, _ in leaves.values()]
        self._gradients = [gradient for _, gradient in leaves.values()]
        self._result = torch.empty(0)

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        """Return the stage's outputs, detached."""
        with torch.enable_grad():
            self._result = self._call(values, masks)
        return self._result.detach()

    def _call(self, values: Tensor, masks: Masks | None) -> Tensor:
        raise NotImplementedError

    def backward(self, gradients: Tensor) -> None:
        """Write the gradients of the stage's weights."""
        found = torch.autograd.grad(self._result, self._weights, gradients)
        for place, gradient in zip(self._gradients, found, strict=True):
            place.copy_(gradient)


class ImageStage(Island):
    """A stage of image layers, (M, N, channels, height, width) -> (M, width, N), by grouped convolutions."""

    def __init__(self, modules: Sequence[nn.Module], numbers: Numbers) -> None:
        own = {id(p): numbers.leaves[id(p)] for module in modules for p in module.parameters()}
        super().__init__(own)
        weights = dict(zip(own, self._weights, strict=True))
        self._modules = [_grouped(module, numbers, weights) for module in modules]
        layers = [layer for module in self._modules for layer in module.modules()]
        self._masked = [layer for layer in layers if isinstance(layer, _GroupedDropout | GroupedBatchNorm)]
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
        for layer in self._masked:
            layer.masks = masks
        for module in self._modules:
            images = module(images)
        return images.unflatten(1, (members, -1)).permute(1, 2, 3, 4, 0).reshape(members, -1, rows)


def _grouped(module: nn.Module, numbers: Numbers, weights: Mapping[int, Tensor]) -> nn.Module:
    """Return a layer, or a block of layers, for M times the channels, in which members do not mix."""
    if isinstance(module, nn.Conv2d):
        return _GroupedConv(module, numbers.members, weights)
    if isinstance(module, nn.GroupNorm):
        return _GroupedNorm(module, numbers.members, weights)
    if isinstance(module, nn.BatchNorm2d):
        own = (None if p is None else weights[id(p)] for p in (module.weight, module.bias))
        return GroupedBatchNorm(module, numbers, *own)
    if isinstance(module, nn.MaxPool2d):
        return _Pool(module)
    if isinstance(module, Dropout):
        return _GroupedDropout(module, numbers)
    clone = copy.copy(module)
    clone._modules = {name: child and _grouped(child, numbers, weights) for name, child in module._modules.items()}
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


class _GroupedDropout(nn.Module):
    def __init__(self, dropout: Dropout, numbers: Numbers) -> None:
        super().__init__()
        self._layer, self._channels = dropout.layer, dropout.channels
        self._rates_M = numbers.rates_M[dropout.layer]
        self._active = bool((self._rates_M > 0).any())
        self.masks: Masks | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self.masks is None or not self._active:
            return images
        rows, channels, height, width = images.shape
        members = len(self._rates_M)
        pixels = 1 if self._channels else height * width
        mask = self.masks.take(self._layer, self._rates_M, channels // members * pixels, rows)
        shape = (rows, channels, 1, 1) if self._channels else images.shape
        return images * mask.view(members, -1, pixels, rows).permute(3, 0, 1, 2).reshape(shape)
