"""Stacks: many networks of one architecture computed as one, with one operation for a layer of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from distens.training import layers
from distens.training.comparison import find_difference
from distens.training.dropout import Masks
from distens.training.stages import Numbers, Stage, Unstackable
from distens.training.vmapped import Alone, Vmapped
from distens.training.ways import Way, candidate_ways, check_network, plain_kinds

__all__ = ["NetworkStack", "Unstackable", "find_way", "stack_kinds"]


def stack_kinds(network: nn.Module, example: Tensor) -> frozenset[str]:
    """Return the kinds of layers in a stack of such networks, from their structure, without running one.

    Any network that is no chain of layers is of the kind `vmap`; `find_way` looks into its code.

    Raises:
        Unstackable: there can be no such stack.
    """
    check_network(network)
    return plain_kinds(network, example)


def find_way(networks: Sequence[nn.Module], example: Tensor, learns: bool = True) -> Way:
    """Return the best way to stack networks that computes the same as they do alone.

    Args:
        networks: of one architecture.
        example: a few inputs (n, …), on the CPU.
        learns: whether the stack will be trained.

    Raises:
        Unstackable: there is none.
    """
    ways, inputs = candidate_ways(networks, example, learns)
    problem = ""
    for way in ways:
        if not way.compared:
            return way

        def build(copies: Sequence[nn.Module], way: Way = way) -> NetworkStack:
            return NetworkStack(copies, inputs, learns=learns, way=replace(way, rates=[{}] * len(copies)))

        before, problem = problem, find_difference(build, networks, inputs, learns, double=way.chain is not None)
        if not problem:
            return replace(way, note=way.note or before)
    raise Unstackable(f"the networks' layers cannot be stacked: {problem}")


class NetworkStack:
    """A stack of M networks of one architecture (they may differ in dropout rates).

    Args:
        networks: freshly built or trained; their weights and buffers are copied.
        example: a few inputs (n, …), on the CPU, to compare the stack's outputs with the networks'.
        device: the device of the stack.
        learns: whether `backward` will be called.
        way: the way to stack them; None: `find_way` finds it.

    Attributes:
        weights: one vector of all networks' weights: for every weight array of the architecture, its M copies one after
            the other (`blocks` returns them as (M, *shape)). Batched matrix products need the M copies adjacent, and
            the optimizer needs all weights in one tensor.
        gradients: the gradients that `backward` writes, laid out like `weights`.
        buffers: for every buffer of the architecture, (M, *shape); training moves running statistics in place.
        way: the way in which they are stacked.

    Raises:
        Unstackable: the networks differ in more than dropout, or have hooks, frozen or shared weights, or weights that
            are not float32; or their own code fails, or computes other numbers, for many networks at once; or it does
            something that stacks cannot follow (see `distens.training.comparison`).
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        example: Tensor,
        device: torch.device | str = "cpu",
        learns: bool = True,
        way: Way | None = None,
    ) -> None:
        self.way = way or find_way(networks, example, learns)
        self._example, self._learns = example, learns
        self._names = [[name for name, _ in network.named_parameters()] for network in networks]
        self._shapes = [parameter.shape for parameter in networks[0].parameters()]
        self._buffer_names = [_stored_buffers(network) for network in networks]
        self._rates = {
            layer: torch.tensor([rates.get(layer, 0.0) for rates in self.way.rates], device=device)
            for layer in self.way.layers
        }
        with torch.no_grad():
            columns = zip(*(network.parameters() for network in networks), strict=True)
            weights = torch.cat([torch.stack(column).flatten() for column in columns]).to(device)
            columns = zip(*(network.buffers() for network in networks), strict=True)
            names = [name for name, _ in self.way.template.named_buffers()]
            buffers = {name: self._joined(name, column, device) for name, column in zip(names, columns, strict=True)}
            self._assemble(weights, buffers)

    def _joined(self, name: str, column: Sequence[Tensor], device: torch.device | str) -> Tensor:
        """Return one buffer of all networks, (M, *shape); it takes the room of one if it is the same for all."""
        if (self._learns and name in self.way.written) or any(not torch.equal(one, column[0]) for one in column):
            return torch.stack(list(column)).to(device)
        return column[0].to(device).expand(len(column), *column[0].shape)

    @property
    def kinds(self) -> frozenset[str]:
        """Return the kinds of layers in it (see `distens.training.ways.Way`)."""
        return self.way.kinds

    def _assemble(self, weights: Tensor, buffers: dict[str, Tensor]) -> None:
        self.weights, self.buffers = weights, buffers
        self.gradients = torch.zeros_like(weights) if self._learns else weights  # nothing writes to them otherwise
        template = self.way.template
        blocks = zip(self.blocks(weights), self.blocks(self.gradients), strict=True)
        leaves = {id(p): pair for p, pair in zip(template.parameters(), blocks, strict=True)}
        own = {id(buffer): buffers[name] for name, buffer in template.named_buffers()}
        numbers = Numbers(len(self), leaves, own, self._rates)
        if "alone" in self.way.kinds:
            self._stages: list[Stage] = [Alone(template, numbers, buffers)]
        elif self.way.chain is None:
            self._stages = [Vmapped(template, numbers, buffers, self._example)]
        else:
            self._stages = layers.build_chain(self.way.chain, numbers)

    def blocks(self, numbers: Tensor) -> list[Tensor]:
        """Return views of numbers that are laid out like `weights`: (M, *shape) for every weight array of a network."""
        members = len(self)
        parts = numbers.split([members * shape.numel() for shape in self._shapes])
        return [part.view(members, *shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def flat(self, numbers: Tensor) -> list[Tensor]:
        """Return the views of `blocks` as (M, K), whatever the shape of a weight array."""
        return [block.flatten(1) for block in self.blocks(numbers)]

    def select_members(self, numbers: Tensor, places: Sequence[int]) -> Tensor:
        """Return the numbers of the members in `places`, from numbers that are laid out like `weights`."""
        return torch.cat([block[list(places)].flatten() for block in self.blocks(numbers)])

    def give(self, place: int, network: nn.Module) -> None:
        """Copy one member's weights and buffers into its network."""
        with torch.no_grad():
            for parameter, block in zip(network.parameters(), self.blocks(self.weights), strict=True):
                parameter.copy_(block[place])
            for buffer, found in zip(network.buffers(), self.buffers.values(), strict=True):
                buffer.copy_(found[place])

    def named(self, place: int, numbers: Tensor) -> dict[str, Tensor]:
        """Return one member's part of numbers that are laid out like `weights`, by its network's parameter names."""
        return {name: block[place] for name, block in zip(self._names[place], self.blocks(numbers), strict=True)}

    def state(self, place: int) -> dict[str, Tensor]:
        """Return one member's weights and buffers by the names in its network's `state_dict`."""
        buffers = zip(self._buffer_names[place], self.buffers.values(), strict=True)
        return {**self.named(place, self.weights), **{name: found[place] for name, found in buffers if name}}

    @property
    def device(self) -> torch.device:
        """Return the device of the stack."""
        return self.weights.device

    def __len__(self) -> int:
        return len(self._names)

    def forward(self, inputs: Tensor, masks: Masks | None = None) -> Tensor:
        """Return logits (M, C, N) of inputs (M, N, …); the next call may overwrite them.

        Args:
            inputs: if all members share their inputs, M may be an expanded axis (of stride 0).
            masks: the masks of dropout in training; None: prediction.
        """
        values = inputs
        for stage in self._stages:
            values = stage.forward(values, masks)
        return values

    def backward(self, gradients_MCN: Tensor) -> None:
        """Write `gradients`, given the gradients of the last `forward`'s logits; the given tensor is overwritten."""
        gradients: Tensor | None = gradients_MCN
        for stage in reversed(self._stages):
            assert gradients is not None
            gradients = stage.backward(gradients)

    def keep(self, places: Sequence[int]) -> None:
        """Keep only the members in `places`."""
        chosen = list(places)
        weights = self.select_members(self.weights, chosen)
        self._names = [self._names[place] for place in chosen]
        self._buffer_names = [self._buffer_names[place] for place in chosen]
        self._rates = {layer: rates_M[chosen] for layer, rates_M in self._rates.items()}
        buffers = {
            name: found[: len(chosen)] if found.stride(0) == 0 else found[chosen]
            for name, found in self.buffers.items()
        }
        self._assemble(weights, buffers)


def _stored_buffers(network: nn.Module) -> list[str]:
    """Return the name of every buffer; empty for those that are not in the network's `state_dict`."""
    stored = network.state_dict().keys()
    return [name if name in stored else "" for name, _ in network.named_buffers()]
