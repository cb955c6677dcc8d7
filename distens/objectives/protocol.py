"""What a member minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Protocol):
    """A frozen dataclass whose fields are its options."""

    def loss(self, logits_NC: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, a scalar. `targets` are labels_N (int64) or probs_NC."""
        ...


PLUGINS = (Objective,)
"""What a user's own plug-in of this family must be: one of these."""
