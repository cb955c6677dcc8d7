"""Chains seen inside a network's own code: `torch.fx` runs `forward` with symbols, and known calls become layers.

    forward of a user's class ──► graph of calls ──► layers, one after the other, and sums of two branches

A chain only looks like the network. What `forward` does beside calls of torch (an attribute, a branch by `training`, a
gradient of its own) is baked into the graph or lost, so whoever uses a chain compares it with the network.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from distens.training.dense import is_dense_layer
from distens.training.dropout import Dropout, dropout_call, replace_dropouts
from distens.training.islands import is_image_layer
from distens.training.layers import layer_kinds
from distens.training.network import local_chance
from distens.training.outputs import check_outputs
from distens.training.stages import Sum

MAX_TEXT = 200
"""The most characters of torch's own message in a reason."""


class NoChain(Exception):
    """An error: a network's code is no chain of known layers; the message completes "because …"."""


def trace_chain(network: nn.Module, example: Tensor) -> nn.Sequential:
    """Return a chain of layers that share a network's own weights and buffers, and compute the same as far as is seen.

    Args:
        network: on the CPU; its dropouts are replaced by ours, and its code runs with symbols, which it may keep.
        example: a few inputs (n, …), for the shapes.

    Raises:
        NoChain: it is none.
    """
    replace_dropouts(network)
    tracer = _Tracer()
    try:
        graph = tracer.trace(_Called(network.train()))
        shapes = _Shapes(fx.GraphModule(tracer.root, graph))
        with torch.no_grad(), local_chance("cpu"):
            network.eval()
            shapes.run(example)
    except Exception as error:  # the network's own code may raise anything when it is given symbols
        raise NoChain(f"forward cannot be traced ({type(error).__name__}: {_first_line(error)})") from error
    chain = nn.Sequential(*_Reader(tracer.root, shapes.values).read(graph))
    if layer_kinds(chain) == {"vmap"}:
        raise NoChain("forward's layers are not image layers, a flattening and dense layers, in this order")
    used = [id(p) for p in chain.parameters()]
    given = [id(p) for p in network.parameters()]
    repeated = [layer for layer in _leaves(chain) if next(layer.parameters(), None) is not None]
    if len(repeated) != len({id(layer) for layer in repeated}):
        raise NoChain("forward uses some layers twice")
    if set(used) != set(given):
        raise NoChain("forward leaves some weights out")
    return chain


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:MAX_TEXT]


def _leaves(chain: nn.Module) -> list[nn.Module]:
    """Return the layers of a chain in the order in which a stack computes them, each at every place where it stands."""
    if isinstance(chain, nn.Sequential | Sum):
        return [leaf for child in chain._modules.values() if child is not None for leaf in _leaves(child)]
    return [chain]


class _Called(nn.Module):
    """A module that calls a network with its inputs alone, so that all other arguments have their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Any:
        return self.network(inputs)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Dropout) or super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """An interpreter that keeps every node's value for the example.

    Attributes:
        values: node -> its value.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


# Calls ---------------------------------------------------------------------------------------------------------------


def _relu(inplace: bool = False) -> nn.Module:
    return nn.ReLU()


def _pool(
    kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: Any = False, **rest: Any
) -> nn.Module:
    if rest.get("return_indices"):
        raise TypeError("a pair is no layer's output")
    return nn.MaxPool2d(kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)


def _log_softmax(dim: int | None = None, dtype: Any = None, **rest: Any) -> nn.Module:
    if dtype is not None:
        raise TypeError("numbers of another type")
    return nn.LogSoftmax(dim)


def _alone(layer: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return a maker of a layer for a call with the layer's own options, and perhaps `inplace`."""

    def make(*args: Any, inplace: bool = False, **options: Any) -> nn.Module:
        return layer(*args, **options)

    return make


_CALLS: Mapping[Any, Callable[..., nn.Module]] = {
    **dict.fromkeys((torch.relu, torch.relu_, functional.relu, "relu", "relu_"), _relu),
    **dict.fromkeys((torch.tanh, functional.tanh, "tanh", "tanh_"), nn.Tanh),
    **dict.fromkeys((torch.sigmoid, functional.sigmoid, "sigmoid", "sigmoid_"), nn.Sigmoid),
    **dict.fromkeys((torch.log_softmax, functional.log_softmax, "log_softmax"), _log_softmax),
    functional.gelu: nn.GELU,
    functional.leaky_relu: _alone(nn.LeakyReLU),
    functional.silu: _alone(nn.SiLU),
    functional.elu: _alone(nn.ELU),
    functional.relu6: _alone(nn.ReLU6),
    functional.hardtanh: _alone(nn.Hardtanh),
    functional.softplus: nn.Softplus,
    functional.max_pool2d: _pool,
    torch.max_pool2d: _pool,
    functional.avg_pool2d: nn.AvgPool2d,
    functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}
"""A function, or the name of a tensor's method -> a maker of its layer, called with its arguments after the first."""

_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
_SHAPINGS = (torch.flatten, torch.reshape, "flatten", "view", "reshape", "contiguous")
_MEANS = (torch.mean, "mean")


class _Reader:
    """A reader of a graph: every value that is computed from the inputs by known layers is a path of these layers.

    Args:
        values: node -> its value for the example.
    """

    def __init__(self, root: nn.Module | Mapping[str, Any], values: Mapping[fx.Node, Any]) -> None:
        assert isinstance(root, nn.Module)
        self._root, self._values = root, values
        self._paths: dict[fx.Node, list[nn.Module]] = {}
        self._dropouts: list[nn.Module] = []
        self._calls = 0
        self._unknown = ""

    def read(self, graph: fx.Graph) -> list[nn.Module]:
        """Return the path of the output. Raises NoChain if it has none."""
        for node in graph.nodes:
            if node.op == "placeholder":
                self._paths[node] = []
            elif node.op == "output":
                path = self._paths.get(self._output(node))
                if path is None:
                    raise NoChain(self._unknown or "forward's output is not computed from its inputs")
                order = [id(layer) for layer in _leaves(nn.Sequential(*path)) if isinstance(layer, Dropout)]
                if order != list(map(id, self._dropouts)):
                    raise NoChain("forward's dropouts would be drawn in another order")
                return path
            elif any(arg in self._paths for arg in node.all_input_nodes):
                path = self._path(node)
                if path is not None:
                    self._paths[node] = path
                elif isinstance(self._values[node], Tensor) and not self._unknown:
                    self._unknown = self._words(node)
        raise AssertionError("a graph has an output")

    def _output(self, node: fx.Node) -> fx.Node:
        """Return the node of the logits, which may be one of several outputs."""
        rows = len(next(iter(self._values.values())))
        logits = check_outputs(self._root, self._values[node], rows)
        return next(given for given in node.all_input_nodes if self._values[given] is logits)

    def _path(self, node: fx.Node) -> list[nn.Module] | None:
        """Return a node's path; None if the node is no known layer of one value, or sum of two."""
        others = [arg for arg in node.all_input_nodes if arg not in self._paths]
        if node.target in _ADDS:
            return self._sum(node)
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node) or first not in self._paths:
            return None
        layers = self._shaping(node, first) if node.target in _SHAPINGS else None
        if node.target not in _SHAPINGS:
            if others or any(arg in self._paths for arg in node.all_input_nodes if arg is not first):
                return None
            layers = self._layers(node, first)
        return None if layers is None else [*self._paths[first], *layers]

    def _sum(self, node: fx.Node) -> list[nn.Module] | None:
        if len(node.args) != 2 or node.kwargs:
            return None
        one, other = (self._paths.get(arg) if isinstance(arg, fx.Node) else None for arg in node.args)
        shapes = {getattr(self._values.get(arg), "shape", None) for arg in node.args if isinstance(arg, fx.Node)}
        if one is None or other is None or len(shapes) != 1:
            return None
        common = 0
        while common < min(len(one), len(other)) and one[common] is other[common]:
            common += 1
        return [*one[:common], Sum(nn.Sequential(*one[common:]), nn.Sequential(*other[common:]))]

    def _shaping(self, node: fx.Node, first: fx.Node) -> list[nn.Module] | None:
        """Return a flattening, or nothing for a shape that stays; None for any other shape."""
        before, after = self._values[first].shape, self._values[node].shape
        if before == after:
            return []
        return [nn.Flatten()] if after == (before[0], before[1:].numel()) else None

    def _layers(self, node: fx.Node, first: fx.Node) -> list[nn.Module] | None:
        shape = self._values[first].shape
        if node.op == "call_module":
            return self._module(node, shape)
        options, named = node.args[1:], dict[str, Any](node.kwargs)
        try:
            if node.target in (functional.dropout, functional.dropout2d):
                _, rate, training, _ = dropout_call(first, *options, **named)  # pyright: ignore[reportArgumentType]
                return self._dropout(rate, node.target is functional.dropout2d, shape) if training else []
            if node.target in _MEANS:
                return _pooling(shape, *options, **named)  # pyright: ignore[reportArgumentType]
            layer = _CALLS[node.target](*options, **named)
        except (KeyError, TypeError, ValueError):
            return None
        return [layer] if _stands(layer, shape) else None

    def _module(self, node: fx.Node, shape: torch.Size) -> list[nn.Module] | None:
        assert isinstance(node.target, str)
        module = self._root.get_submodule(node.target)
        if len(node.args) != 1 or node.kwargs:
            return None
        if type(module) is Dropout:
            return self._drops(Dropout(module.rate, module.layer))
        if type(module) is nn.Dropout2d:
            return self._dropout(module.p, True, shape)
        if type(module) is nn.Identity:
            return []
        if type(module) is nn.Flatten:
            return self._shaping(node, node.args[0])  # pyright: ignore[reportArgumentType]
        return [module] if _stands(module, shape) else None

    def _dropout(self, rate: Any, channels: bool, shape: torch.Size) -> list[nn.Module] | None:
        """Return the dropout of a call in training; None for channels of what is no image."""
        if channels and len(shape) != 4:
            return None
        self._calls += 1
        return self._drops(Dropout(float(rate), f"call {self._calls - 1}", channels))

    def _drops(self, dropout: Dropout) -> list[nn.Module]:
        self._dropouts.append(dropout)
        return [dropout]

    def _words(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"forward has a layer {type(self._root.get_submodule(str(node.target))).__name__}"
        return f"forward calls {getattr(node.target, '__name__', node.target)}"


def _stands(layer: nn.Module, shape: torch.Size) -> bool:
    """Return True if a layer is known for values of a shape: (N, width), or images (N, channels, height, width)."""
    return (len(shape) == 2 and is_dense_layer(layer)) or (len(shape) == 4 and is_image_layer(layer))


def _pooling(
    shape: torch.Size, dim: int | Sequence[int] = (), keepdim: bool = False, dtype: Any = None
) -> list[nn.Module] | None:
    """Return the layers of a mean over images' height and width; None for any other mean."""
    places = {place % 4 for place in ((dim,) if isinstance(dim, int) else dim)}
    if len(shape) != 4 or places != {2, 3} or dtype is not None:
        return None
    return [nn.AdaptiveAvgPool2d(1)] if keepdim else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
