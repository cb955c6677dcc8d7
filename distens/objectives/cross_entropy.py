"""Cross-entropy between targets and predicted probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy: the mean over rows of -sum_c q_c log p_c, in nats, where p = softmax(logits) and q is the target.

    For a label, q is one at the label and zero elsewhere; for a teacher's probabilities, q is these probabilities.

    Attributes:
        label_smoothing: e; q becomes (1 - e) q + e / C (Szegedy et al. 2016, "Rethinking the Inception Architecture",
            section 7).
    """

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0

    def loss(self, outputs_NK: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, a scalar. `targets` are labels_N (int64) or probs_NC."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs_NK, targets, label_smoothing=self.label_smoothing)
