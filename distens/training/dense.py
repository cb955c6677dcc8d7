"""Dense stages of a stack: activations (M, width, N), batched matrix products, backward steps written out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distens.training.dropout import Dropout, Masks
from distens.training.normalising import BatchNorm, LayerNorm, keeps_statistics
from distens.training.stages import Numbers, Reused, Stage, Sum

_relu_backward = torch.ops.aten.threshold_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_gelu_backward = torch.ops.aten.gelu_backward.grad_input
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input
_silu_backward = torch.ops.aten.silu_backward.grad_input
_elu_backward = torch.ops.aten.elu_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_softplus_backward = torch.ops.aten.softplus_backward.grad_input
_hardtanh_backward = torch.ops.aten.hardtanh_backward.grad_input
_log_softmax_backward = torch.ops.aten._log_softmax_backward_data


def _clamped_backward(module: Any, g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return _hardtanh_backward(g, x, module.min_val, module.max_val, grad_input=g)


_DERIVATIVES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda module, g, x, y: _relu_backward(g, y, 0, grad_input=g),
    nn.Tanh: lambda module, g, x, y: _tanh_backward(g, y, grad_input=g),
    nn.GELU: lambda module, g, x, y: _gelu_backward(g, x, approximate=module.approximate, grad_input=g),
    nn.LeakyReLU: lambda module, g, x, y: _leaky_relu_backward(g, x, module.negative_slope, False, grad_input=g),
    nn.SiLU: lambda module, g, x, y: _silu_backward(g, x, grad_input=g),
    nn.ELU: lambda module, g, x, y: _elu_backward(g, module.alpha, 1.0, 1.0, False, x, grad_input=g),
    nn.Sigmoid: lambda module, g, x, y: _sigmoid_backward(g, y, grad_input=g),
    nn.Softplus: lambda module, g, x, y: _softplus_backward(g, x, module.beta, module.threshold, grad_input=g),
    nn.Hardtanh: _clamped_backward,
    nn.ReLU6: _clamped_backward,
    nn.LogSoftmax: lambda module, g, x, y: _log_softmax_backward(g, y, 1, y.dtype),
}
"""Activation -> (module, gradients, inputs, outputs) -> gradients of the inputs; the gradients may be overwritten."""


def is_dense_layer(module: nn.Module) -> bool:
    """Return True if a layer can be a dense stage; it stands among rows (N, width)."""
    if type(module) is Sum:
        return all(is_dense_layer(layer) for branch in module.children() for layer in branch.children())
    if type(module) is nn.LogSoftmax:
        return module.dim in (1, -1)
    if type(module) is nn.LayerNorm:
        return len(module.normalized_shape) == 1
    if type(module) is nn.BatchNorm1d:
        return keeps_statistics(module)
    return type(module) in (nn.Linear, nn.Dropout, Dropout, nn.Identity, *_DERIVATIVES)  # a subclass may do anything


def dense_stages(modules: Sequence[nn.Module], numbers: Numbers, first: bool) -> list[Stage]:
    """Return the stages of dense layers.

    Args:
        first: True if nothing uses the gradients of their inputs.
    """
    stages: list[Stage] = []
    for module in modules:
        lead = first and not stages
        if isinstance(module, nn.Linear):
            stages.append(_Dense(module, numbers, lead))
        elif isinstance(module, nn.BatchNorm1d):
            stages.append(BatchNorm(module, numbers, lead))
        elif isinstance(module, nn.LayerNorm):
            stages.append(LayerNorm(module, numbers))
        elif isinstance(module, Dropout):
            stages.append(_Dropout(module.layer, numbers.rates_M[module.layer]))
        elif isinstance(module, Sum):
            branches = [dense_stages(list(branch.children()), numbers, first=False) for branch in module.children()]
            stages.append(_Sum(branches))
        elif not isinstance(module, nn.Identity):
            # Nothing else uses the outputs of such a stage, not even its own backward step.
            alone = bool(stages) and isinstance(stages[-1], _Dense | BatchNorm | LayerNorm | _Sum)
            stages.append(_Activation(module, alone))
    return stages


class Flat:
    """A stage that flattens, (M, N, …) -> (M, width, N), as a view."""

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        """Return the values as (M, width, N)."""
        return values.flatten(2).transpose(1, 2) if values.ndim > 3 else values.transpose(1, 2)

    def backward(self, gradients: Tensor) -> None:
        """Return None: nothing uses gradients of the inputs."""
        return None


class _Dense:
    def __init__(self, module: nn.Linear, numbers: Numbers, first: bool) -> None:
        self._weight, self._weight_gradient = numbers.leaves[id(module.weight)]
        self._turned = self._weight.transpose(1, 2)
        bias, self._bias_gradient = numbers.leaf(module.bias)
        self._bias = None if bias is None else bias.unsqueeze(2)
        self._first = first
        self._out, self._in = Reused(), Reused()
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


class _Activation:
    def __init__(self, module: nn.Module, alone: bool) -> None:
        self._derivative = _DERIVATIVES[type(module)]
        self._module: Any = nn.LogSoftmax(1) if isinstance(module, nn.LogSoftmax) else copy.copy(module)
        if hasattr(module, "inplace"):  # the inputs are needed in the backward step
            self._module.inplace = False
        self._in_place = alone and isinstance(module, nn.ReLU)
        self._values = self._result = torch.empty(0)

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        self._values = values
        self._result = values.relu_() if self._in_place else self._module(values)
        return self._result

    def backward(self, gradients: Tensor) -> Tensor:
        return self._derivative(self._module, gradients, self._values, self._result)


class _Dropout:
    def __init__(self, layer: str, rates_M: Tensor) -> None:
        self._layer, self._rates_M, self._active = layer, rates_M, bool((rates_M > 0).any())
        self._out = Reused()
        self._mask: Tensor | None = None

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        self._mask = None
        if masks is None or not self._active:
            return values
        self._mask = masks.take(self._layer, self._rates_M, *values.shape[1:])
        return torch.mul(values, self._mask, out=self._out.take(values, values.shape))

    def backward(self, gradients: Tensor) -> Tensor:
        return gradients if self._mask is None else gradients.mul_(self._mask)


class _Sum:
    def __init__(self, branches: Sequence[Sequence[Stage]]) -> None:
        self._first, self._second = branches
        self._out, self._copy = Reused(), Reused()

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        results = []
        for branch in (self._first, self._second):
            result = values
            for stage in branch:
                result = stage.forward(result, masks)
            results.append(result)
        return torch.add(*results, out=self._out.take(values, results[0].shape))

    def backward(self, gradients: Tensor) -> Tensor:
        found: list[Tensor] = []
        copied = self._copy.take(gradients, gradients.shape).copy_(gradients)
        for branch, given in ((self._first, copied), (self._second, gradients)):
            inner: Tensor | None = given
            for stage in reversed(branch):
                assert inner is not None
                inner = stage.backward(inner)
            assert inner is not None
            found.append(inner)
        return found[0].add_(found[1])
