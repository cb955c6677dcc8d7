"""The layers of stacked networks (see `distens.training.stacked`), each with a forward and a backward step.

    dense layers     activations (M, width, N): batched matrix products, backward written out, buffers kept
    image layers     activations (N, M * channels, height, width), channels last: grouped convolutions, autograd
    other layers     torch.func's vmap over the network itself, autograd

Rows are never folded into members. Measured on one CPU thread, against networks one by one: dense layers are 3 to 8
times as fast, mostly because there is less Python and allocation; grouped convolutions are 1.5 times as fast in
channels-last layout, but 0.7 times in torch's default layout; vmap is 0.7 times as fast with convolutions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distens.training.dropout import Masks
from distens.training.islands import ImageStage, Leaves, is_image_layer


class _Stage(Protocol):
    def forward(self, values: Tensor, masks: Masks | None) -> Tensor: ...

    def backward(self, gradients: Tensor) -> Tensor | None: ...


def layer_kinds(network: nn.Module) -> frozenset[str]:
    """Return the kinds of layers in a stack of such networks, from their structure alone.

    For a chain: `dense`, and `images` and `blocks` (of image layers) if it has any; for any other network: `vmap`.
    """
    parts = _parts(network)
    if parts is None:
        return frozenset({"vmap"})
    images, _ = parts
    blocks = any(next(layer.children(), None) is not None for layer in images)
    return frozenset({"dense"} | ({"images"} if images else set()) | ({"blocks"} if blocks else set()))


def build_chain(template: nn.Module, members: int, leaves: Leaves, rates_M: Mapping[str, Tensor]) -> list[_Stage]:
    """Return the stages of a stack of networks that are chains (see `layer_kinds`).

    Args:
        template: one of the networks.
        members: the number of networks.
        rates_M: dropout layer -> each member's rate, in the order of the layers.
    """
    parts = _parts(template)
    assert parts is not None, "not a chain"
    images, dense = parts
    stages: list[_Stage] = [ImageStage(images, members, leaves) if images else _Flat()]
    names = iter(rates_M)
    for module in dense:
        if isinstance(module, nn.Linear):
            bias = None if module.bias is None else leaves[id(module.bias)]
            stages.append(_Dense(leaves[id(module.weight)], bias, first=isinstance(stages[-1], _Flat)))
        elif isinstance(module, nn.Dropout):
            layer = next(names)
            stages.append(_Dropout(layer, rates_M[layer]))
        elif not isinstance(module, nn.Identity):
            stages.append(_Activation(module))
    return stages


def _parts(network: nn.Module) -> tuple[list[nn.Module], list[nn.Module]] | None:
    """Return a chain's image layers and its dense layers, which a flattening separates; None for any other network."""
    modules = _modules(network)
    flat = next((i for i, module in enumerate(modules) if _flattens(module)), -1)
    images, dense = modules[: max(flat, 0)], modules[flat + 1 :]
    if not all(map(is_image_layer, images)) or not dense or type(dense[-1]) is not nn.Linear:
        return None
    if any(type(module) not in _DENSE_LAYERS for module in dense):  # a subclass may compute anything
        return None
    computing = (module for module in dense if not isinstance(module, nn.Identity | nn.Dropout))
    if not images and not isinstance(next(computing), nn.Linear):
        return None  # a first activation would overwrite the inputs
    return images, dense


def _flattens(module: nn.Module) -> bool:
    return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)


def _modules(network: nn.Module) -> list[nn.Module]:
    if type(network) is not nn.Sequential:
        return [network]
    return [module for child in network for module in _modules(child)]


class _Buffer:
    """A buffer for one result, kept between steps: fresh pages would cost as much as the arithmetic."""

    def __init__(self) -> None:
        self._kept = self._view = torch.empty(0)

    def take(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        if torch.is_inference_mode_enabled():  # several threads may predict at once
            return like.new_empty(shape)
        if self._view.shape != shape:
            count = math.prod(shape)
            if self._kept.numel() < count:
                self._kept = like.new_empty(count)
            self._view = self._kept[:count].view(shape)
        return self._view


class _Flat:
    """A stage that flattens, (M, N, …) -> (M, width, N), as a view."""

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        return values.flatten(2).transpose(1, 2) if values.ndim > 3 else values.transpose(1, 2)

    def backward(self, gradients: Tensor) -> None:
        return None


class _Dense:
    def __init__(self, weight: tuple[Tensor, Tensor], bias: tuple[Tensor, Tensor] | None, first: bool) -> None:
        (self._weight, self._weight_gradient), self._first = weight, first
        self._turned = self._weight.transpose(1, 2)
        self._bias, self._bias_gradient = (None, None) if bias is None else (bias[0].unsqueeze(2), bias[1])
        self._out, self._in = _Buffer(), _Buffer()
        self._values = self._weight

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        self._values = values
        out = self._out.take(values, (*self._weight.shape[:2], values.shape[2]))
        if self._bias is None:
            return torch.bmm(self._weight, values, out=out)
        return torch.baddbmm(self._bias, self._weight, values, out=out)

    def backward(self, gradients: Tensor) -> Tensor:
        torch.bmm(gradients, self._values.transpose(1, 2), out=self._weight_gradient)
        if self._bias_gradient is not None:
            torch.sum(gradients, 2, out=self._bias_gradient)
        if self._first:
            return gradients  # the first layer: nothing uses gradients of the inputs
        return torch.bmm(self._turned, gradients, out=self._in.take(gradients, self._values.shape))


_relu_backward = torch.ops.aten.threshold_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_gelu_backward = torch.ops.aten.gelu_backward.grad_input
_DERIVATIVES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda module, g, x, y: _relu_backward(g, y, 0, grad_input=g),
    nn.Tanh: lambda module, g, x, y: _tanh_backward(g, y, grad_input=g),
    nn.GELU: lambda module, g, x, y: _gelu_backward(g, x, approximate=module.approximate, grad_input=g),
}
"""Activation -> (module, gradients, inputs, outputs) -> gradients of the inputs, in place."""

_DENSE_LAYERS = (nn.Linear, nn.Dropout, nn.Identity, *_DERIVATIVES)


class _Activation:
    def __init__(self, module: nn.Module) -> None:
        self._module, self._derivative = module, _DERIVATIVES[type(module)]
        self._values = self._result = torch.empty(0)

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        self._values = values
        # Nothing else uses the outputs of the dense layer before, so a rectifier may work in place.
        self._result = values.relu_() if isinstance(self._module, nn.ReLU) else self._module(values)
        return self._result

    def backward(self, gradients: Tensor) -> Tensor:
        return self._derivative(self._module, gradients, self._values, self._result)


class _Dropout:
    def __init__(self, layer: str, rates_M: Tensor) -> None:
        self._layer, self._rates_M, self._active = layer, rates_M, bool((rates_M > 0).any())
        self._out, self._mask = _Buffer(), torch.empty(0)

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        if masks is None or not self._active:
            return values
        self._mask = masks.take(self._layer, self._rates_M, *values.shape[1:])
        return torch.mul(values, self._mask, out=self._out.take(values, values.shape))

    def backward(self, gradients: Tensor) -> Tensor:
        return gradients.mul_(self._mask) if self._active else gradients
