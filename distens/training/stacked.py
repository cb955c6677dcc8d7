"""Stacks: many networks of one architecture computed as one, with one operation for a layer of all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distens.training import layers
from distens.training.dropout import Masks, dropout_rates
from distens.training.islands import Vmapped

_MAX_LOGIT_DIFFERENCE = 1e-3
"""The largest difference of a stack's logits from a single network's, relative to the largest logit; the differences of
misread layers are far larger."""


class Unstackable(Exception):
    """An error: these networks cannot be stacked."""


def stack_kinds(network: nn.Module) -> frozenset[str]:
    """Return the kinds of layers in a stack of such networks (see `NetworkStack`), without building or running one.

    Raises:
        Unstackable: there can be no such stack.
    """
    _check(network)
    return layers.layer_kinds(network)


class NetworkStack:
    """A stack of M networks of one architecture (they may differ in dropout rates).

    Args:
        networks: freshly built or trained; their weights are copied.
        example: a few inputs (n, …), on the CPU, to check the stack's outputs against the networks'.
        device: the device of the stack.
        learns: whether `backward` will be called.

    Attributes:
        weights: one vector of all networks' weights: for every weight array of the architecture, its M copies one after
            the other (`blocks` returns them as (M, *shape)). Batched matrix products need the M copies adjacent, and
            the optimizer needs all weights in one tensor.
        gradients: the gradients that `backward` writes, laid out like `weights`.
        kinds: the kinds of layers in it: `dense`, `images`, `blocks` (of image layers), `vmap`.

    Raises:
        Unstackable: the networks differ in more than dropout, or have buffers, hooks, frozen or shared weights, or
            weights that are not float32; or their own code fails, or computes other numbers, for many networks at once.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        example: Tensor,
        device: torch.device | str = "cpu",
        learns: bool = True,
    ) -> None:
        self._learns = learns
        self._names = [[name for name, _ in network.named_parameters()] for network in networks]
        self._shapes = [parameter.shape for parameter in networks[0].parameters()]
        for network in networks:
            if [parameter.shape for parameter in network.parameters()] != self._shapes:
                raise Unstackable("the networks differ in their shapes")
            _check(network)
        found = [dropout_rates(network) for network in networks]
        fullest = max(found, key=len)
        self._template = copy.deepcopy(networks[found.index(fullest)]).cpu().eval()
        self._rates = {name: torch.tensor([f.get(name, 0.0) for f in found], device=device) for name in fullest}
        self._example, self.kinds = example, layers.layer_kinds(self._template)
        with torch.no_grad():
            columns = zip(*(network.parameters() for network in networks), strict=True)
            self._assemble(torch.cat([torch.stack(column).flatten() for column in columns]).to(device))
            if self.kinds <= {"dense", "images"}:  # only torch's own layers, so no check is needed
                return
            problem = self._find_difference(networks)
            if problem and self.kinds != {"vmap"}:
                self.kinds = frozenset({"vmap"})
                self._assemble(self.weights)
                problem = self._find_difference(networks)
            if problem:
                raise Unstackable(f"the networks' layers cannot be stacked: {problem}")

    def _assemble(self, weights: Tensor) -> None:
        self.weights = weights
        self.gradients = torch.zeros_like(weights) if self._learns else weights  # nothing writes to them otherwise
        blocks = zip(self.blocks(weights), self.blocks(self.gradients), strict=True)
        leaves = {id(p): pair for p, pair in zip(self._template.parameters(), blocks, strict=True)}
        if "vmap" in self.kinds:
            self._stages = [Vmapped(self._template, leaves, self._rates, self._example)]
        else:
            self._stages = layers.build_chain(self._template, len(self), leaves, self._rates)

    def _find_difference(self, networks: Sequence[nn.Module]) -> str:
        """Return a reason why the stack does not compute the same as the networks; empty if it does."""
        networks_MNK = torch.stack([copy.deepcopy(n).cpu().eval()(self._example) for n in (networks[0], networks[-1])])
        try:
            with torch.inference_mode():
                example = self._example.to(self.device).expand(len(self), *self._example.shape)
                stack_MNK = self.forward(example).transpose(1, 2)[[0, -1]].cpu()
        except Exception as error:  # the networks' own code may raise anything when it is run for many at once
            return repr(error)
        if stack_MNK.shape != networks_MNK.shape:
            return "their outputs would have another shape"
        close = (stack_MNK - networks_MNK).abs().max() <= _MAX_LOGIT_DIFFERENCE * networks_MNK.abs().max().clamp(
            min=1.0
        )
        return "" if close else "their outputs would change"

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
        """Copy one member's weights into its network."""
        with torch.no_grad():
            for parameter, block in zip(network.parameters(), self.blocks(self.weights), strict=True):
                parameter.copy_(block[place])

    def named(self, place: int, numbers: Tensor) -> dict[str, Tensor]:
        """Return one member's part of numbers that are laid out like `weights`, by its network's parameter names."""
        return {name: block[place] for name, block in zip(self._names[place], self.blocks(numbers), strict=True)}

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
        weights = self.select_members(self.weights, places)
        self._names = [self._names[place] for place in places]
        self._rates = {layer: rates_M[list(places)] for layer, rates_M in self._rates.items()}
        self._assemble(weights)


def _check(network: nn.Module) -> None:
    if next(network.buffers(), None) is not None:
        raise Unstackable("the networks have buffers")
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        raise Unstackable("hooks change what the networks' layers compute")
    if not all(p.requires_grad and p.dtype is torch.float32 for p in network.parameters()):
        raise Unstackable("some weights are frozen, or are not float32")
    if len(list(network.parameters())) != len(list(network.named_parameters(remove_duplicate=False))):
        raise Unstackable("some weights are shared between layers")
