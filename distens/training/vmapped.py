"""Stages that run the networks' own code: for many networks at once, by torch.func's vmap, or for a single one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from distens.training.dropout import DropoutCalls, Masks, RecordedMasks, replace_dropouts
from distens.training.islands import Island
from distens.training.network import local_chance
from distens.training.outputs import check_outputs
from distens.training.stages import Numbers


class Vmapped(Island):
    """A stage that is the whole network, (M, N, …) -> (M, C, N), by its own code under vmap.

    Args:
        template: one of the networks.
        buffers: name -> the members' buffers, (M, *shape); those that the code writes to are written here.
        example: a few rows, to see which masks a step needs.
    """

    def __init__(self, template: nn.Module, numbers: Numbers, buffers: Mapping[str, Tensor], example: Tensor) -> None:
        super().__init__(numbers.leaves)
        self._template, self._example, self._rates_M = template, example, numbers.rates_M
        self._module, self._buffers = copy.deepcopy(template), buffers
        self._names = [name for name, _ in self._module.named_parameters()]
        self._dropouts = replace_dropouts(self._module)
        self._active = {layer for layer, rates_M in self._rates_M.items() if (rates_M > 0).any()}
        self._drawn: dict[int, list[tuple[str, Sequence[int]]]] = {}

    def _call(self, values: Tensor, masks: Masks | None) -> Tensor:
        rows, learns = values.shape[1], masks is not None
        if self._module.training != learns:  # the network's code may read it
            self._module.train(learns)
        given = [] if masks is None else [self._take(masks, *each) for each in self._draws(rows)]

        def call(
            weights: Sequence[Tensor], buffers: Mapping[str, Tensor], given: Sequence[Tensor], inputs: Tensor
        ) -> Tensor:
            parameters = dict(zip(self._names, weights, strict=True))
            source = _Given(given, self._active)
            for dropout in self._dropouts:
                dropout.masks = source
            with DropoutCalls(source):
                found = torch.func.functional_call(self._module, {**parameters, **buffers}, (inputs,))
            return check_outputs(self._module, found, len(inputs))

        # Random numbers drawn by the network's own code would not follow from the member's seed: that is an error here,
        # and the members are trained alone.
        outputs_MNK = torch.vmap(call, randomness="error")(self._weights, dict(self._buffers), given, values)
        return outputs_MNK.transpose(1, 2)

    def _take(self, masks: Masks, layer: str, shape: Sequence[int]) -> Tensor:
        width = torch.Size(shape[1:]).numel()
        mask = masks.take(layer, self._rates_M[layer], width, shape[0])
        return mask.transpose(1, 2).reshape(-1, *shape)

    def _draws(self, rows: int) -> Sequence[tuple[str, Sequence[int]]]:
        """Return layer and shape of each mask that a step of a number of rows draws, in order."""
        if not self._active:
            return ()
        if rows not in self._drawn:
            inputs = self._example[torch.arange(rows) % len(self._example)]
            drawn = drawn_masks(self._template, inputs)
            self._drawn[rows] = [(layer, shape) for layer, _, shape in drawn if layer in self._active]
        return self._drawn[rows]


class Alone(Island):
    """A stage that is the only network of a stack, (1, N, …) -> (1, C, N), by its own code, which may do anything.

    Args:
        template: the network.
        buffers: name -> (1, *shape); what the code writes to its buffers is written here.
    """

    def __init__(self, template: nn.Module, numbers: Numbers, buffers: Mapping[str, Tensor]) -> None:
        super().__init__(numbers.leaves)
        self._module, self._buffers = copy.deepcopy(template), buffers
        self._dropouts = replace_dropouts(self._module.to(self._weights[0].device))
        for parameter, (weight, _) in zip(self._module.parameters(), numbers.leaves.values(), strict=True):
            parameter.data = weight[0]
        for name, buffer in self._module.named_buffers():
            buffer.data = buffers[name][0]
        self._weights = list(self._module.parameters())

    def _call(self, values: Tensor, masks: Masks | None) -> Tensor:
        learns = masks is not None
        if self._module.training != learns:
            self._module.train(learns)
        for dropout in self._dropouts:
            dropout.masks = masks
        with nullcontext() if masks is None else DropoutCalls(masks):
            found = self._module(values[0])
        if learns:
            for name, buffer in self._module.named_buffers():  # the code may have replaced it
                self._buffers[name][0] = buffer.detach()
        return check_outputs(self._module, found, values.shape[1]).t()[None]

    def backward(self, gradients: Tensor) -> None:
        """Write the gradients of the weights: zero for those that are not used."""
        found = torch.autograd.grad(self._result, self._weights, gradients, allow_unused=True)
        for place, gradient in zip(self._gradients, found, strict=True):
            place.zero_() if gradient is None else place.copy_(gradient)


class _Given:
    """A source of masks that were drawn in advance, in the order in which the network asks for them."""

    def __init__(self, masks: Sequence[Tensor], active: set[str]) -> None:
        self._masks, self._active = iter(masks), active

    def draw(self, layer: str, rate: float, shape: Sequence[int]) -> Tensor | None:
        """Return the next mask."""
        return next(self._masks) if layer in self._active else None


def drawn_masks(network: nn.Module, inputs: Tensor) -> Sequence[tuple[str, float, tuple[int, ...]]]:
    """Return (layer, rate, shape) of each mask that a step with these inputs draws, in order.

    The network and torch's generators stay as they are.
    """
    copied, source = copy.deepcopy(network), RecordedMasks()
    for dropout in replace_dropouts(copied):
        dropout.masks = source
    with torch.no_grad(), local_chance("cpu"), DropoutCalls(source):
        copied.cpu().train()(inputs)
    return source.drawn
