"""Ways to stack networks of one architecture: by their layers, as given or as seen in their code, or by vmap."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distens.training import layers
from distens.training.comparison import comparison_inputs, run_alone, unlike_networks
from distens.training.dropout import Dropout, dropout_rates, replace_dropouts
from distens.training.stages import Unstackable
from distens.training.tracing import NoChain, trace_chain

Rates = Mapping[str, float]
"""Dropout layer -> rate."""


@dataclass(frozen=True)
class Way:
    """A way to compute networks of one architecture together.

    Attributes:
        kinds: the kinds of layers: `dense`, `images`, `blocks` (of image layers), `vmap`; `alone` for a single network
            whose own code runs.
        template: one of the networks, a copy on the CPU.
        chain: a chain of layers that share the template's numbers; None: the template's own code runs, by vmap.
        layers: the names of all dropout layers.
        rates: of each network.
        written: the names of the buffers that training writes to.
        mixes: whether in training a row's outputs depend on the other rows of its batch.
        compared: whether stacks must be compared with their networks.
        note: the reason why it is no better way; empty if there is no better one.
    """

    kinds: frozenset[str]
    template: nn.Module
    chain: nn.Module | None
    layers: Sequence[str]
    rates: Sequence[Rates]
    written: frozenset[str]
    mixes: bool
    compared: bool = True
    note: str = ""

    @property
    def how(self) -> str:
        """Return the way in words."""
        if self.chain is None:
            return f"by vmap over their own code: {self.note}"
        return "by their layers" if self.chain is self.template else "by the layers that are seen in their forward"


def check_network(network: nn.Module) -> None:
    """Raise Unstackable if a network cannot be stacked in any way, whatever its code computes."""
    for module in network.modules():
        if any(getattr(module, name) for name in _HOOKS):
            raise Unstackable("hooks change what the networks' layers compute")
        if "forward" in vars(module):
            raise Unstackable("a layer's forward is replaced")
    for parameter in network.parameters():
        if not parameter.requires_grad or parameter.dtype is not torch.float32:
            raise Unstackable("some weights are frozen, or are not float32")
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise Unstackable("hooks change the gradients of some weights")
    if len(list(network.parameters())) != len(list(network.named_parameters(remove_duplicate=False))):
        raise Unstackable("some weights are shared between layers")


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def plain_kinds(network: nn.Module, example: Tensor) -> frozenset[str]:
    """Return the kinds of layers of a network that is a chain of layers itself, from its structure; else `vmap`."""
    kinds = layers.layer_kinds(network)
    fits = example.ndim == 4 if "images" in kinds else example.ndim == 2 or layers.flattens_first(network)
    return kinds if fits else frozenset({"vmap"})


def candidate_ways(networks: Sequence[nn.Module], example: Tensor, learns: bool) -> tuple[list[Way], Tensor]:
    """Return the ways in which networks may be stacked, the best first, and inputs to compare them with.

    Raises:
        Unstackable: there is none.
    """
    for network in networks:
        check_network(network)
    shapes = [_shapes(network) for network in networks]
    if any(other != shapes[0] for other in shapes):
        raise Unstackable("the networks differ in their shapes")
    rates = [dropout_rates(network) for network in networks]
    template = _copied(networks[rates.index(max(rates, key=len))])
    kinds = plain_kinds(template, example)
    if kinds <= {"dense", "images"}:
        if any(_options(network) != _options(template) for network in networks):
            raise Unstackable("the networks' layers differ in their options")
        return [_plain(kinds, template, rates, compared=False)], example
    inputs = comparison_inputs(template, example)
    called, written, mixes = [{} for _ in networks], frozenset[str](), False
    if learns:
        called, written, mixes = _look_into(networks, inputs)
    rates = [{**own, **calls} for own, calls in zip(rates, called, strict=True)]
    found, why = [], "the code of its blocks works for one network alone"
    if "blocks" not in kinds:
        try:
            traced = _copied(template)
            chain = trace_chain(traced, inputs)
            found.append(Way(layers.layer_kinds(chain), traced, chain, _names(rates, chain), rates, written, mixes))
        except NoChain as error:
            why = str(error)
    elif not any(called):
        found.append(_plain(kinds, template, rates))
    note = "" if found else why
    vmap = Way(frozenset({"vmap"}), template, None, _names(rates), rates, written, mixes, note=note)
    return [*found, vmap], inputs


def _plain(kinds: frozenset[str], template: nn.Module, rates: Sequence[Rates], compared: bool = True) -> Way:
    chain = _copied(template)
    replace_dropouts(chain)
    written = frozenset(name for name, _ in chain.named_buffers())
    return Way(kinds, chain, chain, _names(rates, chain), rates, written, bool(written), compared)


def lone_way(network: nn.Module, written: frozenset[str]) -> Way:
    """Return the way of a stack that is a single network, whose own code runs, and writes to some buffers."""
    template, rates = _copied(network), [dropout_rates(network)]
    return Way(frozenset({"alone"}), template, None, _names(rates), rates, written, mixes=True, compared=False)


def _names(rates: Sequence[Rates], chain: nn.Module | None = None) -> list[str]:
    seen = [layer.layer for layer in chain.modules() if isinstance(layer, Dropout)] if chain is not None else []
    return sorted({*seen, *(layer for own in rates for layer in own)})


def _copied(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).cpu().eval()


def _shapes(network: nn.Module) -> list[Any]:
    buffers = [(buffer.shape, buffer.dtype) for buffer in network.buffers()]
    return [*(parameter.shape for parameter in network.parameters()), *buffers]


def _options(network: nn.Module) -> list[Any]:
    """Return type and options of every layer that is no dropout."""
    found: list[Any] = []
    for layer in network.modules():
        if type(layer) not in (nn.Dropout, Dropout, nn.Identity, nn.Sequential):
            own = {name: value for name, value in vars(layer).items() if name[0] != "_"}
            found.append((type(layer), {**own, "training": None, "inplace": None}))
    return found


def _look_into(networks: Sequence[nn.Module], inputs: Tensor) -> tuple[list[Rates], frozenset[str], bool]:
    """Return each network's rates of the dropouts that its own code calls, and `Way.written` and `Way.mixes`.

    (See `distens.training.dropout.DropoutCalls` for the names of such dropouts.)
    """
    found, places, written, mixes = [], set(), set[str](), False
    like = unlike_networks(networks)
    for network in like if len(like) == 1 else networks:
        before = dict(_copied(network).named_buffers())
        try:
            logits_NC = run_alone(_copied(network), inputs).logits_NC
            trained = run_alone(_copied(network), inputs, torch.ones_like(logits_NC))
            part = run_alone(_copied(network), inputs[:-1], torch.ones_like(logits_NC[:-1]))
        except Unstackable:
            raise
        except Exception as error:  # the network's own code may raise anything
            raise Unstackable(f"forward fails ({type(error).__name__}: {str(error).strip()[:200]})") from error
        called = [(layer, rate, shape) for layer, rate, shape in trained.drawn if layer.startswith("call ")]
        places.add(tuple((layer, shape) for layer, _, shape in called))
        found.append({layer: rate for layer, rate, _ in called})
        mixes = mixes or not torch.allclose(trained.logits_NC[:-1], part.logits_NC, atol=1e-4)
        written |= {name for name, buffer in trained.buffers.items() if not torch.equal(buffer, before[name])}
    if len(places) > 1:
        raise Unstackable("the networks call dropout at different places")
    return found * len(networks) if len(like) == 1 else found, frozenset(written), mixes
