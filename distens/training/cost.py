"""The cost of one row in a network, measured in a forward pass of an example."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def multiplications(network: nn.Module, example: Tensor) -> int:
    """Return the number of multiplications in one row's forward pass.

    For each layer, that is its number of weights times the number of places (pixels of its output) where they are used.
    """

    def of(layer: nn.Module, out: Any) -> int:
        weight = getattr(layer, "weight", None)
        places = math.prod(out.shape[2:]) if isinstance(layer, nn.Conv2d) else 1
        return places * weight.numel() if isinstance(weight, Tensor) else 0

    return max(1, _sum(network, example, of))


def activations(network: nn.Module, example: Tensor) -> int:
    """Return the number of values in all layers' outputs for one row, and in the row itself.

    Only layers that have weights of their own count.
    """
    return example[0].numel() + _sum(network, example, lambda _, out: out[0].numel() if isinstance(out, Tensor) else 0)


def _sum(network: nn.Module, example: Tensor, count: Callable[[nn.Module, Any], int]) -> int:
    """Return the sum of count(layer, its output for the example) over all layers that have weights of their own."""
    found: list[int] = []
    layers = [m for m in network.modules() if next(m.parameters(recurse=False), None) is not None]
    handles = [layer.register_forward_hook(lambda m, _, out: found.append(count(m, out))) for layer in layers]
    learns, device = network.training, next((p.device for p in network.parameters()), example.device)
    try:
        with torch.inference_mode():
            network.eval()(example.to(device))  # in training mode it might draw random numbers, or update statistics
    finally:
        network.train(learns)
        for handle in handles:
            handle.remove()
    return sum(found)
