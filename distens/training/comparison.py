"""Comparison of a stack with its networks: nothing is stacked on trust that is more than a chain of torch's own layers.

Copies of the networks, with their weights shaken (so that no zero hides a layer), run alone and as a stack: in
prediction with two numbers of rows, and in training with nothing dropped. Outputs, gradients and buffers must agree.
Beside that, a network whose code draws random numbers, keeps something in an attribute, or lets one row's prediction
depend on another row, is never stacked: it may do next time what it did not do here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distens.training.dropout import DropoutCalls, Masks, RecordedMasks, replace_dropouts
from distens.training.network import local_chance
from distens.training.outputs import check_outputs
from distens.training.stages import Unstackable
from distens.training.watching import TORCHS_OWN, watched

ROWS = 3
"""The number of rows of a comparison; the second prediction has one less."""

MEMBERS_AT_A_TIME = 8

SHAKE = 0.05
"""The size of the changes of weights."""

MOST_DIFFERENT, MOST_DIFFERENT_DOUBLE = 1e-3, 1e-7
"""The largest difference of a stack's numbers from a single network's, relative to the largest of them, in float32 and
in float64; the differences of misread layers are far larger."""

MOST_DIFFERENT_GRADIENTS = 0.05
"""The same for gradients in float32, by their norms: rounding may turn a rectifier over."""


class Compared(Protocol):
    """What a comparison uses of a stack (see `distens.training.stacked.NetworkStack`).

    Example:
        In training::

            logits_MCN = stack.forward(inputs, masks)
            stack.backward(gradients_MCN)
            gradients = stack.blocks(stack.gradients)
    """

    gradients: Tensor
    buffers: dict[str, Tensor]

    def forward(self, inputs: Tensor, masks: Masks | None = None) -> Tensor:
        """Return logits (M, C, N)."""
        ...

    def backward(self, gradients_MCN: Tensor) -> None:
        """Write `gradients`."""
        ...

    def blocks(self, numbers: Tensor) -> list[Tensor]:
        """Return (M, *shape) for every weight array."""
        ...


@dataclass(frozen=True)
class Pass:
    """A forward pass of one network, and in training the backward pass.

    Attributes:
        logits_NC: the outputs.
        drawn: (layer, rate, shape) of each dropout that took place, in order.
        gradients: of each weight array; empty in prediction.
        buffers: name -> its value afterwards.
    """

    logits_NC: Tensor
    drawn: Sequence[tuple[str, float, tuple[int, ...]]]
    gradients: Sequence[Tensor]
    buffers: dict[str, Tensor]


def comparison_inputs(network: nn.Module, example: Tensor) -> Tensor:
    """Return a few rows like the example's, and unlike each other; the example's own if the network takes no others."""
    rows = example.cpu()[torch.arange(ROWS) % len(example)]
    varied = rows + torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    try:
        run_alone(copy.deepcopy(network), varied)
    except Unstackable:
        raise
    except Exception:  # the network's own code may need inputs of some kind, such as whole numbers
        return rows
    return varied


def run_alone(network: nn.Module, inputs: Tensor, gradients_NC: Tensor | None = None) -> Pass:
    """Run a network on the CPU, in training if gradients of its outputs are given, with nothing dropped.

    The network is changed, so give a copy.

    Raises:
        Unstackable: its code did something that stacks cannot follow, or some weights are not used.
        Exception: the network's own code failed.
    """
    source = RecordedMasks()
    for dropout in replace_dropouts(network.cpu()):
        dropout.masks = source
    if gradients_NC is None:
        before = [buffer._version for buffer in network.buffers()]
        with torch.no_grad(), watched(network.eval()):  # without `DropoutCalls`: none of them may drop anything
            logits_NC = check_outputs(network, network(inputs), len(inputs))
        if before != [buffer._version for buffer in network.buffers()]:
            raise Unstackable("predictions change a buffer")
        return Pass(logits_NC, source.drawn, [], dict(network.named_buffers()))
    with torch.enable_grad(), watched(network.train()), DropoutCalls(source):
        logits_NC = check_outputs(network, network(inputs), len(inputs))
    found = torch.autograd.grad(logits_NC, list(network.parameters()), gradients_NC, allow_unused=True)
    if any(gradient is None for gradient in found):
        raise Unstackable("some weights are not used")
    return Pass(logits_NC.detach(), source.drawn, found, dict(network.named_buffers()))


def written_buffers(network: nn.Module, example: Tensor) -> frozenset[str]:
    """Return the names of the buffers to which a pass in training writes; none if the network's own code fails."""
    copied = copy.deepcopy(network).cpu().train()
    before = {name: buffer.clone() for name, buffer in copied.named_buffers()}
    generator = torch.Generator().manual_seed(0)
    with suppress(Exception), torch.no_grad(), local_chance("cpu"):
        copied(example + torch.randn(example.shape, generator=generator))
    return frozenset(name for name, buffer in copied.named_buffers() if not torch.equal(buffer, before[name]))


def unlike_networks(networks: Sequence[nn.Module]) -> list[nn.Module]:
    """Return networks of which each is unlike the others in more than weights; those left out are like one of them."""
    found: dict[Any, nn.Module] = {}
    for network in networks:
        found.setdefault(_likeness(network), network)
    return list(found.values())


def _likeness(network: nn.Module) -> Any:
    """Return a value that networks share only if their modules and all attributes of these are the same."""
    found: list[Any] = []
    try:
        for path, module in network.named_modules():
            own = [(name, _hashable(value)) for name, value in vars(module).items() if name not in TORCHS_OWN]
            found.append((path, type(module), *own))
    except TypeError:
        return id(network)
    return tuple(found)


def _hashable(value: Any) -> Any:
    """Return a value as it is, containers as tuples. Raises TypeError for objects that may hold anything."""
    if isinstance(value, list | tuple):
        return (type(value), *map(_hashable, value))
    if value is None or isinstance(value, bool | int | float | str | type | FunctionType | BuiltinFunctionType):
        return type(value), value
    raise TypeError


def find_difference(
    build: Callable[[Sequence[nn.Module]], Compared],
    networks: Sequence[nn.Module],
    inputs: Tensor,
    learns: bool,
    double: bool,
) -> str:
    """Return a reason why a stack does not compute the same as its networks; empty if it does.

    Args:
        build: returns a stack of networks, in which nothing is dropped.
        inputs: see `comparison_inputs`.
        learns: whether the stack will be trained.
        double: whether to compare numbers of 64 bits, which networks of torch's own layers can compute.

    Raises:
        Unstackable: the networks cannot be stacked in any way.
    """
    distinct = unlike_networks(networks)
    if len(networks) > 1 == len(distinct):
        distinct *= 2
    for first in range(0, len(distinct), MEMBERS_AT_A_TIME):
        copies = [_copied(network, first + i, learns) for i, network in enumerate(distinct[first:][:MEMBERS_AT_A_TIME])]
        if double:
            copies = [network.double() for network in copies]
        try:
            stack = build(copies)
            found = _compare(stack, copies, inputs.double() if double else inputs, learns)
        except Unstackable:
            raise
        except Exception as error:  # the networks' own code may raise anything when it is run for many at once
            return f"it fails for many networks at once ({type(error).__name__}: {str(error).strip()[:200]})"
        if found:
            return found
    return ""


def _copied(network: nn.Module, place: int, shaken: bool) -> nn.Module:
    """Return a copy on the CPU; shaken: with changed weights and running statistics."""
    copied = copy.deepcopy(network).cpu()
    if not shaken:
        return copied
    generator = torch.Generator().manual_seed(place)

    def noise(numbers: Tensor) -> Tensor:
        return torch.randn(numbers.shape, generator=generator, dtype=numbers.dtype)

    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(noise(parameter), alpha=SHAKE)
        for module in copied.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.add_(noise(module.running_mean))
                assert module.running_var is not None
                module.running_var.mul_(noise(module.running_var).mul(SHAKE).exp())
    return copied


def _compare(stack: Compared, networks: Sequence[nn.Module], inputs: Tensor, learns: bool) -> str:
    members, double = len(networks), inputs.dtype is torch.float64
    most = MOST_DIFFERENT_DOUBLE if double else MOST_DIFFERENT
    alone = [[run_alone(network, inputs[:rows]).logits_NC for rows in (ROWS, ROWS - 1)] for network in networks]
    for whole, part in alone:
        if not _close(whole[: ROWS - 1], part, MOST_DIFFERENT):
            raise Unstackable("predictions of a row depend on the rows beside it")
    for logits_MNC in map(torch.stack, zip(*alone, strict=True)):
        rows = logits_MNC.shape[1]
        with torch.inference_mode():
            found_MCN = stack.forward(inputs[:rows].expand(members, *inputs[:rows].shape))
        if not _close(found_MCN.transpose(1, 2), logits_MNC, most):
            return "their outputs would change"
    if not learns:
        return ""
    each = torch.stack([inputs.roll(place, 0) for place in range(members)])
    generator = torch.Generator().manual_seed(1)
    slopes = torch.randn((members, *alone[0][0].shape), generator=generator, dtype=inputs.dtype)
    runs = [run_alone(network, own, slope) for network, own, slope in zip(networks, each, slopes, strict=True)]
    found_MCN = stack.forward(each, Masks([0] * members, 0))
    if not _close(found_MCN.transpose(1, 2), torch.stack([run.logits_NC for run in runs]), most):
        return "their outputs in training would change"
    stack.backward(slopes.transpose(1, 2).contiguous())
    for found, *own in zip(stack.blocks(stack.gradients), *(run.gradients for run in runs), strict=True):
        for mine, gradient in zip(found, own, strict=True):
            if not (_close(mine, gradient, most) if double else _near(mine, gradient)):
                return "their gradients would change"
    for name, found in stack.buffers.items():
        if not all(_close(mine, run.buffers[name], most) for mine, run in zip(found, runs, strict=True)):
            return f"their buffers would change ({name})"
    return ""


def _close(found: Tensor, wanted: Tensor, most: float) -> bool:
    if found.shape != wanted.shape:
        return False
    if not wanted.is_floating_point() or not wanted.numel():
        return torch.equal(found.cpu(), wanted)
    return bool((found.cpu() - wanted).abs().max() <= most * wanted.abs().max().clamp(min=1.0))


def _near(found: Tensor, wanted: Tensor) -> bool:
    return bool((found.cpu() - wanted).norm() <= MOST_DIFFERENT_GRADIENTS * wanted.norm() + MOST_DIFFERENT)
