"""The mean squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SquaredError:
    """The squared error: the mean over rows and outputs of (output - target)^2.

    It is for numbers. A `regressor` computes it on targets that it has scaled to mean zero and variance one.
    """

    def loss(self, outputs_NK: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, a scalar. `targets` are numbers of the outputs' shape."""
        from torch.nn.functional import mse_loss

        return mse_loss(outputs_NK, targets)
