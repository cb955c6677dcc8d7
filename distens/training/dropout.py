"""Dropout with masks that depend on the member alone: the same in training alone or in a pack, on any device.

A mask follows from (seed, epoch, layer) and the sizes of the batches before it in the epoch. It is drawn from random
numbers of 16 bits, so a rate is exact to 1 in 65,536. (On the CPU torch's own dropout takes twenty times as long, as it
draws numbers one by one.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from distens.seeding import derive

_BLOCK = 1 << 18
"""The largest number of 16-bit numbers drawn at a time for one member and layer, unless a mask needs more."""


class Masks:
    """The masks of M members for one epoch.

    Args:
        seeds: the members' seeds.
        epoch: the epoch's number.
        device: where the masks lie; they are drawn on the CPU, so that they are the same on every device.
    """

    def __init__(self, seeds: Sequence[int], epoch: int, device: torch.device | str = "cpu") -> None:
        self._seeds, self._epoch, self._device = seeds, epoch, device
        self._streams: dict[str, _Stream] = {}

    def take(self, layer: str, rates_M: Tensor, width: int, rows: int) -> Tensor:
        """Return the next mask of a layer: (M, width, rows), 0 for a dropped value and 1 / (1 - rate) elsewhere."""
        if layer not in self._streams:
            seeds = [derive(seed, "dropout", layer, self._epoch) for seed in self._seeds]
            self._streams[layer] = _Stream(seeds, self._device)
        drawn = self._streams[layer].take(width * rows).view(-1, width, rows)
        first_kept_M = (rates_M * 65536).round().clamp(max=65535) - 32768
        mask = torch.empty(drawn.shape, device=drawn.device)
        torch.ge(drawn, first_kept_M.to(torch.int16)[:, None, None], out=mask)
        return mask.mul_((1 / (1 - rates_M))[:, None, None])


class _Stream:
    def __init__(self, seeds: Sequence[int], device: torch.device | str) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device = device
        self._drawn = torch.empty((len(seeds), 0), dtype=torch.int16, device=device)
        self._used = 0

    def take(self, count: int) -> Tensor:
        """Return (M, count) random int16; the rest of a block is thrown away if it is smaller than `count`."""
        if self._used + count > self._drawn.shape[1]:
            words = (max(count, min(_BLOCK, 32 * count)) + 3) // 4
            drawn = torch.empty((len(self._generators), words), dtype=torch.int64)
            for row, generator in zip(drawn, self._generators, strict=True):
                row.random_(-(2**63), None, generator=generator)
            self._drawn, self._used = drawn.view(torch.int16).to(self._device), 0
        self._used += count
        return self._drawn[:, self._used - count : self._used]


class Dropout(nn.Module):
    """A dropout layer that replaces `nn.Dropout` in training.

    Attributes:
        masks: one epoch's masks, set by the training loop of a single network.
        given: the mask itself, set by a stack; it takes precedence over `masks`.
    """

    given: Tensor | None

    def __init__(self, rate: float, layer: str) -> None:
        super().__init__()
        self.rate, self.layer = rate, layer
        self.masks: Masks | None = None
        self.register_buffer("given", None, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs (N, …) times their mask; unchanged outside of training."""
        if self.given is not None:
            return inputs * self.given
        if not self.training or not self.rate:
            return inputs
        assert self.masks is not None, "the trainer gives masks"
        rates = torch.tensor([self.rate], device=inputs.device)
        mask = self.masks.take(self.layer, rates, inputs[0].numel(), len(inputs))
        return inputs * mask[0].t().reshape(inputs.shape)


def replace_dropouts(network: nn.Module) -> list[Dropout]:
    """Replace every `nn.Dropout` in a network by ours, and return them."""
    adopted = []
    for layer, (parent, name, module) in _dropouts(network):
        if isinstance(module, nn.Dropout):
            setattr(parent, name, Dropout(module.p, layer))
        adopted.append(getattr(parent, name))
    return adopted


def dropout_rates(network: nn.Module) -> dict[str, float]:
    """Return the rate of every dropout layer, by the layer's name.

    A name is "<number of layers before it that are not dropout>.<number of dropouts just before it>". So networks that
    differ only in their dropout agree in the names of the dropout layers that they share.
    """
    return {
        layer: module.p if isinstance(module, nn.Dropout) else module.rate
        for layer, (_, _, module) in _dropouts(network)
    }


def _dropouts(network: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str, nn.Dropout | Dropout]]]:
    before = among = 0
    found = []
    for parent, name, module in _leaves(network):
        if isinstance(module, nn.Dropout | Dropout):
            found.append((f"{before}.{among}", (parent, name, module)))
            among += 1
        else:
            before, among = before + 1, 0
    yield from found


def _leaves(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for name, child in network.named_children():
        if next(child.children(), None) is None:
            yield network, name, child
        else:
            yield from _leaves(child)
