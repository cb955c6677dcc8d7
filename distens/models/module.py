"""A network of the user's own: a class of torch's modules, or a function that returns one, by its import path."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

from distens import addresses
from distens.errors import ConfigError, Refused, shorten_value

if TYPE_CHECKING:
    from torch import nn

FILLED_PARAMETERS = ("input_shape", "classes", "restoring")
"""Parameters of a user's constructor that are filled in if it has them: the shape of one row, C, and whether all
weights are stored already, so that none need be read from a file."""

OFFERED_PARAMETERS = ("in_features", "in_channels", "num_classes", "outputs")
"""Parameters that are filled in where the options do not set them: the number of a row's values, the channels of an
image, and twice C."""


@dataclass(frozen=True)
class Module:
    """A class of torch.nn.Module, or a function that returns one; its `forward` turns inputs (N, …) into outputs_NK.

        model: nets:Net
        model: {kind: nets:Net, options: {width: 64}}
        model: {kind: module, path: nets:Net, options: {width: {choices: [64, 128]}}}

    It must be importable on every machine that trains members or predicts. A constructor that reads weights from a file
    needs the file for training alone: a bundle holds all weights (see `build_network`).

    Attributes:
        path: `package.module:Class`, or a function instead of the class.
        options: arguments of the constructor. By name it also gets, if it takes them: `input_shape`, `in_features` and
            `in_channels`; `classes`, `num_classes` or `outputs`; and `restoring`.
    """

    path: Annotated[str, addresses.ImportAddress()]
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = find_network(self.path)
        if isinstance(found, type) and is_lightning(found):
            raise ValueError(
                f"path: {self.path} is a LightningModule, whose own training step would not be used here: make it a "
                f"member, {{kind: module, path: {self.path}}}, or name the network inside it"
            )
        check_options(found, self.options)

    @classmethod
    def adopts(cls, found: Any) -> bool:
        """Return True for a class of modules or a function."""
        from torch import nn

        return inspect.isroutine(found) or (isinstance(found, type) and issubclass(found, nn.Module))

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a new network; see `build_network` for errors."""
        return build_network(self.path, self.options, input_shape, classes)

    def rebuild(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a network for stored weights; see `build_network` for errors."""
        return build_network(self.path, self.options, input_shape, classes, restoring=True)


def find_network(path: str) -> Any:
    """Return the class of torch.nn.Module, or the function, at an address; its module is imported.

    Raises:
        ValueError: there is none.
    """
    try:
        found = addresses.find_object(path, "path")
    except ConfigError as error:
        raise ValueError(str(error)) from error
    if not Module.adopts(found):
        raise ValueError(
            f"path: {path} must be a subclass of torch.nn.Module, or a function that returns a network, "
            f"found {shorten_value(found)}"
        )
    if any(base.__module__.startswith("pytorch_lightning.") for base in getattr(found, "__mro__", ())):
        raise ValueError(f"path: {path} is a module of pytorch_lightning; import lightning.pytorch instead")
    return found


def check_options(called: Any, options: Mapping[str, Any]) -> None:
    """Check that a class or function can be called with these options, beside what is filled in.

    Raises:
        ValueError: an option is unknown, or cannot be set, or one that is needed is missing.
    """
    offered = [name for name in OFFERED_PARAMETERS if name not in options]
    addresses.check_arguments(called, options, (*FILLED_PARAMETERS, *offered))


def build_network(
    path: str, options: Mapping[str, Any], input_shape: tuple[int, ...], classes: int, restoring: bool = False
) -> nn.Module:
    """Return a new network of a user's class or function.

    Args:
        restoring: whether stored weights will replace all weights of the network: then files of weights that its
            constructor reads may be gone (see `distens.models._absent`).

    Raises:
        Refused: it cannot be made with these options, input shape and number of classes.
        OSError: it reads a file that is not on this machine.
    """
    from torch import nn

    from distens.models._absent import absent_weights

    called = find_network(path)
    given = _fill(called, path, options, input_shape, classes, restoring)
    try:
        with absent_weights() if restoring else nullcontext():
            made = called(**options, **given)
            if isinstance(made, nn.Module):
                return make_lazy_weights(made, input_shape)
    except MemoryError:
        raise
    except Exception as error:  # the user's own code may raise anything
        if "out of memory" in str(error) or (isinstance(error, OSError) and not restoring):
            raise
        hint = ""
        if restoring and "restoring" not in given:
            hint = (
                ". If it reads what only a training needs: a parameter `restoring` of the constructor is True when the "
                "weights are stored"
            )
        raise Refused(
            f"{path}: cannot be made with options {dict(options)}, {given}: {addresses.describe_failure(error)}{hint}"
        ) from error
    raise Refused(f"{path}: must return a torch.nn.Module, found {shorten_value(made)}")


def _fill(
    called: Any, path: str, options: Mapping[str, Any], input_shape: tuple[int, ...], classes: int, restoring: bool
) -> dict[str, Any]:
    """Return the arguments by name that a constructor takes beside its options."""
    known: dict[str, Any] = {"input_shape": input_shape, "in_features": prod(input_shape), "restoring": restoring}
    known |= dict.fromkeys(("classes", "num_classes", "outputs"), classes)
    if len(input_shape) == 3:
        known["in_channels"] = input_shape[0]
    takes = {name: p for name, p in inspect.signature(called).parameters.items() if name not in options}
    if (
        "in_channels" in takes
        and "in_channels" not in known
        and takes["in_channels"].default is inspect.Parameter.empty
    ):
        raise Refused(
            f"{path}: its in_channels is that of images (channels, height, width), found inputs of shape "
            f"{input_shape}. Give it as options.in_channels, or take in_features"
        )
    return {name: value for name, value in known.items() if name in takes}


def is_lightning(cls: type) -> bool:
    """Return True for a class of LightningModule; Lightning is not imported for it."""
    return any(base.__module__.startswith("lightning.pytorch.") for base in cls.__mro__)


def make_lazy_weights(network: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """Return the network, whose lazy layers (`nn.LazyLinear`) have been given their weights by two rows of zeros."""
    import torch
    from torch.nn.parameter import is_lazy

    if any(is_lazy(value) for value in (*network.parameters(), *network.buffers())):
        with torch.no_grad():
            network.eval()(torch.zeros((2, *input_shape)))
        network.train()
    return network
