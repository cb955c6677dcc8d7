"""Dropout with masks that depend on the member alone: the same in training alone or in a pack, on any device.

A mask follows from (seed, epoch, layer) and the sizes of the batches before it in the epoch. It is drawn from random
numbers of 16 bits, so a rate is exact to 1 in 65,536. (On the CPU torch's own dropout takes twenty times as long, as it
draws numbers one by one.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from distens.seeding import derive

_BLOCK = 1 << 18
"""The largest number of 16-bit numbers drawn at a time for one member and layer, unless a mask needs more."""


class MaskSource(Protocol):
    """A source of masks for the dropout in a network's own code.

    Example:
        A dropout layer asks it in training::

            mask = source.draw(layer, rate, inputs.shape)
            return inputs if mask is None else inputs * mask
    """

    def draw(self, layer: str, rate: float, shape: Sequence[int]) -> Tensor | None:
        """Return the next mask of a layer, of the given shape (rows, …); None: nothing is dropped."""
        ...


class Masks:
    """The masks of M members for one epoch.

    Args:
        seeds: the members' seeds.
        epoch: the epoch's number.
        device: where the masks lie; they are drawn on the CPU, so that they are the same on every device.

    Attributes:
        there_MN: true for the rows that count in the statistics of a batch; None: all.
    """

    def __init__(self, seeds: Sequence[int], epoch: int, device: torch.device | str = "cpu") -> None:
        self._seeds, self._epoch, self._device = seeds, epoch, device
        self._streams: dict[str, _Stream] = {}
        self.there_MN: Tensor | None = None

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

    def draw(self, layer: str, rate: float, shape: Sequence[int]) -> Tensor | None:
        """Return the next mask of a layer of the only member, of the given shape (rows, …); None for a rate of 0."""
        if not rate:
            return None
        rates_M = torch.tensor([rate], device=self._device)
        return self.take(layer, rates_M, math.prod(shape[1:]), shape[0])[0].t().reshape(shape)


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
        rate: the share of values that is dropped.
        layer: the layer's name (see `dropout_rates` and `DropoutCalls`).
        channels: True if whole channels of images are dropped, as `nn.Dropout2d` does.
        masks: the source of its masks, set by whoever trains the network.
    """

    def __init__(self, rate: float, layer: str, channels: bool = False) -> None:
        super().__init__()
        self.rate, self.layer, self.channels = rate, layer, channels
        self.masks: MaskSource | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs (N, …) times their mask; unchanged outside of training."""
        if not self.training or (self.masks is None and not self.rate):
            return inputs
        assert self.masks is not None, "the trainer gives masks"
        shape = (*inputs.shape[:2], 1, 1) if self.channels else inputs.shape
        mask = self.masks.draw(self.layer, self.rate, shape)
        return inputs if mask is None else inputs * mask


class DropoutCalls(TorchFunctionMode):
    """A mode in which a network's calls of `F.dropout` and `F.dropout2d` drop by masks of a source.

    A pass's k-th call in training is the layer "call k". (`nn.Dropout2d` makes such a call.)

    Attributes:
        masks: the source of the masks.
        count: the number of such calls since the mode was entered.
    """

    def __init__(self, masks: MaskSource) -> None:
        super().__init__()
        self.masks, self.count = masks, 0

    def __enter__(self) -> DropoutCalls:
        self.count = 0
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the call's result."""
        if func is not functional.dropout and func is not functional.dropout2d:
            return func(*args, **(kwargs or {}))
        inputs, rate, training, inplace = dropout_call(*args, **(kwargs or {}))
        shape = inputs.shape
        if func is functional.dropout2d:
            if inputs.ndim != 4:  # torch takes other axes for channels then
                return func(*args, **(kwargs or {}))
            shape = (*shape[:2], 1, 1)
        if not training:
            return inputs
        self.count += 1
        mask = self.masks.draw(f"call {self.count - 1}", rate, shape)
        if mask is None:
            return inputs
        return inputs.mul_(mask) if inplace else inputs * mask


class RecordedMasks:
    """A source that drops nothing, and keeps who asked for a mask.

    Attributes:
        drawn: (layer, rate, shape) of each mask, in order.
    """

    def __init__(self) -> None:
        self.drawn: list[tuple[str, float, tuple[int, ...]]] = []

    def draw(self, layer: str, rate: float, shape: Sequence[int]) -> None:
        """Keep what was asked; return None: nothing is dropped."""
        self.drawn.append((layer, float(rate), tuple(shape)))


def dropout_call(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> tuple[Any, ...]:
    """Return the arguments of a call of `F.dropout` or `F.dropout2d`, with torch's defaults."""
    return input, p, training, inplace


def replace_dropouts(network: nn.Module) -> list[Dropout]:
    """Replace every `nn.Dropout` in a network by ours, and return them."""
    adopted = []
    for layer, (parent, name, module) in _dropouts(network):
        if type(module) is nn.Dropout:
            setattr(parent, name, Dropout(module.p, layer).train(module.training))
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


def _dropouts(network: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str, Any]]]:
    before = among = 0
    found = []
    for parent, name, module in _leaves(network):
        if type(module) in (nn.Dropout, Dropout):  # a subclass may drop in another way
            found.append((f"{before}.{among}", (parent, name, module)))
            among += 1
        else:
            before, among = before + 1, 0
    yield from found


def _leaves(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for name, child in network._modules.items():  # a layer that is used at several places counts at each
        if child is None:
            continue
        if next(child.children(), None) is None:
            yield network, name, child
        else:
            yield from _leaves(child)
