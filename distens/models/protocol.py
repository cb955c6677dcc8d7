"""The protocol of models: architectures of networks, chosen by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn


class Model(Protocol):
    """A frozen dataclass whose fields are the architecture's options.

    A member builds its network from it, and the baseline `larger_single` builds a wider one:

        >>> import torch
        >>> from distens import registry
        >>> model = registry.make_plugin("models", {"kind": "mlp", "hidden": [8]}, "model")
        >>> tuple(model.build((4,), classes=3)(torch.zeros(5, 4)).shape)
        (5, 3)
        >>> model.widened(2.5).hidden
        (20,)
    """

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a freshly initialised network: inputs (N, *input_shape) -> outputs_NK.

        Initialisation draws from torch's global generator, which the caller has seeded.

        Raises:
            Refused: the architecture does not fit the input shape.
        """
        ...

    def widened(self, factor: float) -> Model:
        """Return the same architecture with every hidden width times `factor` (at least 1)."""
        ...


PLUGINS = (Model,)
"""What a user's own plug-in of this family must be: one of these."""
