"""The protocol of objectives: the losses that members minimise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Protocol):
    """A frozen dataclass whose fields are its options.

    The training loop calls it for every batch:

        >>> import torch
        >>> from distens import registry
        >>> objective = registry.make_plugin("objectives", "cross_entropy", "objective")
        >>> loss = objective.loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
        >>> f"{loss.item():.4f}"  # ln 2
        '0.6931'
    """

    def loss(self, outputs_NK: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, a scalar.

        Args:
            outputs_NK: the network's outputs.
            targets: labels_N (int64), predictions_NK, or numbers of the outputs' shape.
        """
        ...


PLUGINS = (Objective,)
"""What a user's own plug-in of this family must be: one of these."""


ADOPTER = "function"
"""The plug-in that is made of a user's function or class which is no plug-in itself."""


class Adopts(Objective, Protocol):
    """An objective that wraps something which is no plug-in, found by its address.

    The registry makes one of `objective: losses:focal`::

        if cls.adopts(addresses.find_object("losses:focal", "objective")):
            objective = cls(path="losses:focal")
    """

    @classmethod
    def adopts(cls, found: Any) -> bool:
        """Return True if such an object can be wrapped."""
        ...

    @property
    def path(self) -> str:
        """Return the address: an option."""
        ...


class SmoothsLabels(Objective, Protocol):
    """An objective with an option that mixes labels with the uniform distribution.

    A member of a pack passes the option's value to the pack's training, as members of one pack may differ in it::

        smoothing = objective.label_smoothing if registry.has_capability(objective, SmoothsLabels) else 0.0
    """

    @property
    def label_smoothing(self) -> float:
        """Return e, an option: a label's target q becomes (1 - e) q + e / C."""
        ...
