"""Normalisation in a stack: every member's own statistics, updated as torch does for one network alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distens.training.dropout import Masks
from distens.training.stages import Numbers

_ONE_VALUE = "Expected more than 1 value per channel when training"
"""As torch says it."""


def keeps_statistics(module: Any) -> bool:
    """Return True for batch normalisation by running statistics, whose decay is a number.

    (Otherwise predictions depend on the rows beside a row, or the decay depends on the number of batches.)
    """
    return module.track_running_stats and module.running_mean is not None and module.momentum is not None


class BatchNorm:
    """A stage that is `nn.BatchNorm1d` of all members: (M, channels, N) -> the same."""

    def __init__(self, module: nn.BatchNorm1d, numbers: Numbers, first: bool) -> None:
        self._momentum, self._eps = module.momentum or 0.0, module.eps
        self._mean, self._variance, self._count = numbers.statistics(module)
        (self._weight, self._weight_gradient), (self._bias, self._bias_gradient) = (
            (None, None) if leaf[0] is None or leaf[1] is None else (leaf[0].view(-1), leaf[1].view(-1))
            for leaf in (numbers.leaf(module.weight), numbers.leaf(module.bias))
        )
        self._wanted = [not first, module.affine, module.affine]
        self._values = self._batch_mean = self._scale = torch.empty(0)
        self._learns, self._there_M1N = False, None

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        """Return the normalised values; in training, by the batch's statistics, which move the running ones."""
        self._learns, self._there_M1N = masks is not None, None
        if masks is not None:
            if values.shape[2] == 1:
                raise ValueError(f"{_ONE_VALUE}, got input size {values.shape[2]}")
            self._count += 1
            if masks.there_MN is not None:
                return self._forward_there(values, masks.there_MN.to(values.dtype).unsqueeze(1))
        self._values = values.reshape(1, -1, values.shape[2])
        out, self._batch_mean, self._scale = torch.native_batch_norm(
            self._values,
            self._weight,
            self._bias,
            self._mean,
            self._variance,
            self._learns,
            self._momentum,
            self._eps,
        )
        return out.view(values.shape)

    def backward(self, gradients: Tensor) -> Tensor:
        """Write the gradients of the weights and biases, and return those of the values."""
        if self._there_M1N is not None:
            return self._backward_there(gradients, self._there_M1N)
        found = torch.ops.aten.native_batch_norm_backward(
            gradients.reshape(self._values.shape),
            self._values,
            self._weight,
            self._mean,
            self._variance,
            self._batch_mean,
            self._scale,
            self._learns,
            self._eps,
            self._wanted,
        )
        self._write(*found[1:])
        return found[0].view(gradients.shape) if self._wanted[0] else gradients

    def _write(self, weight: Tensor, bias: Tensor) -> None:
        if self._weight_gradient is not None and self._bias_gradient is not None:
            self._weight_gradient.copy_(weight)
            self._bias_gradient.copy_(bias)

    def _forward_there(self, values: Tensor, there_M1N: Tensor) -> Tensor:
        """Return the values, normalised by the statistics of the rows that are there."""
        self._there_M1N = there_M1N
        count_M11 = there_M1N.sum(2, keepdim=True)
        mean_MC1 = (values * there_M1N).sum(2, keepdim=True) / count_M11
        variance_MC1 = ((values - mean_MC1).square() * there_M1N).sum(2, keepdim=True) / count_M11
        _move(self._mean, mean_MC1, self._momentum)
        _move(self._variance, variance_MC1 * (count_M11 / (count_M11 - 1)), self._momentum)
        self._scale = torch.rsqrt(variance_MC1 + self._eps)
        self._values = (values - mean_MC1) * self._scale
        if self._weight is None or self._bias is None:
            return self._values.clone()  # a stage behind may write to it
        shape = mean_MC1.shape
        return torch.addcmul(self._bias.view(shape), self._values, self._weight.view(shape))

    def _backward_there(self, gradients: Tensor, there_M1N: Tensor) -> Tensor:
        product_MC1 = (gradients * self._values).sum(2, keepdim=True)  # zero for the rows that are not there
        sum_MC1 = gradients.sum(2, keepdim=True)
        self._write(product_MC1.flatten(), sum_MC1.flatten())
        count_M11 = there_M1N.sum(2, keepdim=True)
        own = gradients - (sum_MC1 + self._values * product_MC1) / count_M11
        weight = 1.0 if self._weight is None else self._weight.view(sum_MC1.shape)
        return own.mul_(there_M1N).mul_(self._scale * weight)


class GroupedBatchNorm(nn.Module):
    """`nn.BatchNorm2d` of all members: images (N, M * channels, height, width) -> the same.

    Attributes:
        masks: those of the pass; None: prediction.
    """

    def __init__(self, module: nn.BatchNorm2d, numbers: Numbers, weight: Tensor | None, bias: Tensor | None) -> None:
        super().__init__()
        self._momentum, self._eps, self._members = module.momentum or 0.0, module.eps, numbers.members
        self._statistics = numbers.statistics(module)
        self._weight, self._bias = weight, bias
        self.masks: Masks | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised images; in training, by the batch's statistics, which move the running ones."""
        mean, variance, count = self._statistics
        weight, bias = (None if p is None else p.flatten() for p in (self._weight, self._bias))
        if self.masks is not None:
            count += 1
            if self.masks.there_MN is not None:
                return self._forward_there(images, self.masks.there_MN, weight, bias)
        return functional.batch_norm(
            images, mean, variance, weight, bias, self.masks is not None, self._momentum, self._eps
        )

    def _forward_there(self, images: Tensor, there_MN: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        rows, width, tall, wide = images.shape
        there = there_MN.t().to(images.dtype).repeat_interleave(width // self._members, 1).view(rows, width, 1, 1)
        count = there.sum(0, keepdim=True) * (tall * wide)
        mean = (images * there).sum((0, 2, 3), keepdim=True) / count
        variance = ((images - mean).square() * there).sum((0, 2, 3), keepdim=True) / count
        with torch.no_grad():
            _move(self._statistics[0], mean, self._momentum)
            _move(self._statistics[1], variance * (count / (count - 1)), self._momentum)
        out = (images - mean) * torch.rsqrt(variance + self._eps)
        return out if weight is None or bias is None else out * weight[:, None, None] + bias[:, None, None]


def _move(running: Tensor, found: Tensor, momentum: float) -> None:
    running.mul_(1 - momentum).add_(found.flatten(), alpha=momentum)


class LayerNorm:
    """A stage that is `nn.LayerNorm` over the width of all members: (M, width, N) -> the same."""

    def __init__(self, module: nn.LayerNorm, numbers: Numbers) -> None:
        self._shape, self._eps = list(module.normalized_shape), module.eps
        (self._weight, self._weight_gradient) = numbers.leaf(module.weight)
        (self._bias, self._bias_gradient) = numbers.leaf(module.bias)
        self._values = self._result = self._mean = self._scale = torch.empty(0)

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        """Return the normalised values."""
        self._values = values.transpose(1, 2).contiguous()
        self._result, self._mean, self._scale = torch.native_layer_norm(
            self._values, self._shape, None, None, self._eps
        )
        out = self._result if self._weight is None else self._result * self._weight.unsqueeze(1)
        return (out if self._bias is None else out + self._bias.unsqueeze(1)).transpose(1, 2)

    def backward(self, gradients: Tensor) -> Tensor:
        """Write the gradients of the weights and biases, and return those of the values."""
        turned = gradients.transpose(1, 2).contiguous()
        if self._bias_gradient is not None:
            torch.sum(turned, 1, out=self._bias_gradient)
        if self._weight is not None and self._weight_gradient is not None:
            torch.sum(turned * self._result, 1, out=self._weight_gradient)
            turned = turned * self._weight.unsqueeze(1)
        found = torch.ops.aten.native_layer_norm_backward(
            turned, self._values, self._shape, self._mean, self._scale, None, None, [True, False, False]
        )
        return found[0].transpose(1, 2)
