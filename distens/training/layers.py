"""The layers of stacked networks (see `distens.training.stacked`): which there are, and the stages made of them.

    dense layers     activations (M, width, N): batched matrix products, backward written out, buffers kept
    image layers     activations (N, M * channels, height, width), channels last: grouped convolutions, autograd
    other layers     torch.func's vmap over the network itself, autograd

Rows are never folded into members. Measured on one CPU thread, against networks one by one: dense layers are 3 to 8
times as fast, mostly because there is less Python and allocation; grouped convolutions are 1.5 times as fast in
channels-last layout, but 0.7 times in torch's default layout; vmap is 0.7 times as fast with large convolutions.
"""

from __future__ import annotations

from torch import nn

from distens.training.dense import Flat, dense_stages, is_dense_layer
from distens.training.dropout import Dropout
from distens.training.islands import ImageStage, is_image_layer
from distens.training.stages import Numbers, Stage, Sum


def layer_kinds(network: nn.Module) -> frozenset[str]:
    """Return the kinds of layers in a stack of such networks, from their structure alone.

    For a chain: `dense`, and `images`, `sums` and `blocks` (of image layers) if it has any; for any other network:
    `vmap`.
    """
    parts = _parts(network)
    if parts is None:
        return frozenset({"vmap"})
    images, _ = parts
    found = {"dense"} | ({"images"} if images else set())
    found |= {
        "sums" if type(layer) is Sum else "blocks" for layer in images if next(layer.children(), None) is not None
    }
    return frozenset(found)


def flattens_first(network: nn.Module) -> bool:
    """Return True if the first layer of a chain flattens its inputs."""
    return _flattens(_modules(network)[0])


def build_chain(network: nn.Module, numbers: Numbers) -> list[Stage]:
    """Return the stages of a stack of networks that are chains (see `layer_kinds`).

    Args:
        network: one of them, whose dropouts are ours (see `distens.training.dropout.replace_dropouts`).
        numbers: those of all, found by this network's.
    """
    parts = _parts(network)
    assert parts is not None, "not a chain"
    images, dense = parts
    first: Stage = ImageStage(images, numbers) if images else Flat()
    return [first, *dense_stages(dense, numbers, first=not images)]


def _parts(network: nn.Module) -> tuple[list[nn.Module], list[nn.Module]] | None:
    """Return a chain's image layers and its dense layers, which a flattening separates; None for any other network."""
    modules = _modules(network)
    flat = next((i for i, module in enumerate(modules) if _flattens(module)), -1)
    images, dense = modules[: max(flat, 0)], modules[flat + 1 :]
    if not all(map(is_image_layer, images)) or not all(map(is_dense_layer, dense)):
        return None
    computing = [module for module in dense if not isinstance(module, nn.Identity | nn.Dropout | Dropout)]
    if not computing:
        return (images, dense) if images else None
    if not images and not isinstance(computing[0], nn.Linear | nn.BatchNorm1d | nn.LayerNorm | Sum):
        return None  # there would be nothing to learn
    return images, dense


def _flattens(module: nn.Module) -> bool:
    return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)


def _modules(network: nn.Module) -> list[nn.Module]:
    if type(network) is not nn.Sequential:
        return [network]
    return [module for child in network for module in _modules(child)]
