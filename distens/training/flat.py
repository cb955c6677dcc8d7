"""Flat weights: all numbers of a federation's network that a server merges, as one array."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from distens.errors import Refused
from distens.records import Floats, Integers


def flatten_weights(network: nn.Module) -> Floats:
    """Return all weights of a network, concatenated, and after them all running statistics, float32.

    Raises:
        Refused: weights are of another type, and could not be merged.
    """
    if not all(p.dtype is torch.float32 for p in network.parameters()):
        raise Refused("a client's network has weights that are not float32")
    return torch.cat([numbers.detach().float().flatten() for numbers in _numbers(network)]).cpu().numpy().copy()


def set_weights(network: nn.Module, weights_P: Floats) -> None:
    """Set the weights and running statistics of a network from the array that `flatten_weights` returned.

    A running variance that a merge made negative becomes zero.

    Raises:
        Refused: the array's size is not the network's number of weights and statistics.
    """
    numbers = _numbers(network)
    count = sum(part.numel() for part in numbers)
    if weights_P.shape != (count,):
        raise Refused(f"a network with {count:,} weights cannot take an array of shape {weights_P.shape}")
    source = torch.from_numpy(weights_P) if weights_P.flags.writeable else torch.tensor(weights_P)
    with torch.no_grad():
        for own, part in zip(numbers, source.split([own.numel() for own in numbers]), strict=True):
            own.copy_(part.view(own.shape))
        for name, buffer in network.named_buffers():
            if name.rpartition(".")[2] == "running_var":
                buffer.clamp_(min=0)


def own_places(network: nn.Module) -> Integers:
    """Return the places, in the array that `flatten_weights` returns, of all that belongs to batch normalisation."""
    own = {
        id(numbers)
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for numbers in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    numbers = _numbers(network)
    return np.flatnonzero(np.repeat([id(part) in own for part in numbers], [part.numel() for part in numbers]))


def count_statistics(network: nn.Module) -> int:
    """Return the number of running statistics, at the end of the array that `flatten_weights` returns."""
    statistics = statistics_names(network)
    return sum(buffer.numel() for name, buffer in network.named_buffers() if name in statistics)


def statistics_names(network: nn.Module) -> frozenset[str]:
    """Return the names of the buffers that are running means and variances of torch's normalisation.

    Its numbers of batches are none: they only count where `momentum` is None.
    """
    return frozenset(
        f"{path}.{name}".lstrip(".")
        for path, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for name in ("running_mean", "running_var")
        if module._buffers.get(name) is not None
    )


def _numbers(network: nn.Module) -> list[Tensor]:
    statistics = statistics_names(network)
    return [*network.parameters(), *(buffer for name, buffer in network.named_buffers() if name in statistics)]
