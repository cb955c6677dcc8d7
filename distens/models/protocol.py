"""The protocols of models: architectures of networks, chosen by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn


class Model(Protocol):
    """A frozen dataclass whose fields are the architecture's options.

    A member builds its network from it:

        >>> import torch
        >>> from distens import registry
        >>> model = registry.make_plugin("models", {"kind": "mlp", "hidden": [8]}, "model")
        >>> tuple(model.build((4,), classes=3)(torch.zeros(5, 4)).shape)
        (5, 3)
    """

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a freshly initialised network: inputs (N, *input_shape) -> outputs_NK.

        Initialisation draws from torch's global generator, which the caller has seeded.

        Raises:
            Refused: the architecture does not fit the input shape.
        """
        ...


PLUGINS = (Model,)
"""What a user's own plug-in of this family must be: one of these."""


ADOPTER = "module"
"""The plug-in that is made of a user's network class or function which is no plug-in itself."""


class Adopts(Model, Protocol):
    """A model that wraps something which is no plug-in, found by its address.

    The registry makes one of `model: nets:Net`::

        if cls.adopts(addresses.find_object("nets:Net", "model")):
            model = cls(path="nets:Net")
    """

    @classmethod
    def adopts(cls, found: Any) -> bool:
        """Return True if such an object can be wrapped."""
        ...

    @property
    def path(self) -> str:
        """Return the address: an option."""
        ...


class Widens(Model, Protocol):
    """A model that has a width, so that it can be made as large as an ensemble.

    The baseline `larger_single` asks for it, and is left out where no network has it:

        >>> from distens import registry
        >>> registry.make_plugin("models", {"kind": "mlp", "hidden": [8]}, "model").widened(2.5).hidden
        (20,)
    """

    def widened(self, factor: float) -> Model:
        """Return the same architecture with every hidden width times `factor` (at least 1)."""
        ...


class Rebuilds(Model, Protocol):
    """A model whose networks cannot be built without memory, because a user's code makes them.

    Other models' networks are built on torch's `meta` device when a member is loaded, and these for real::

        network = model.rebuild(input_shape, classes)
        network.load_state_dict(stored)
    """

    def rebuild(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a network as `build` does, for weights that are stored: whatever weights it starts with are replaced.

        Raises:
            Refused: it cannot be made.
        """
        ...
