"""The logits that weighted teachers predict together."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distens.counts import class_shares
from distens.distill.protocol import Average
from distens.errors import Refused
from distens.records import Integers

_MIN_PROBABILITY = 1e-30


class TeacherEnsemble:
    """A function from teachers' logits and weights to the logits of all teachers together.

    Args:
        counts_MC: the number of rows of each class that each teacher learned from.

    Raises:
        Refused: the average is `classwise`, and there are no counts.
    """

    def __init__(self, average: Average, counts_MC: Integers | None, device: str = "cpu") -> None:
        if average == "classwise" and counts_MC is None:
            raise Refused(
                "average: 'classwise' needs the number of rows of each class that each teacher had; 'probabilities' "
                "does not"
            )
        self._average, self._shares_MC = average, torch.zeros(0)
        if average == "classwise":
            self._shares_MC = torch.tensor(class_shares(np.asarray(counts_MC)), dtype=torch.float32).to(device)

    def __call__(self, logits_MNC: Tensor, weights_M: Tensor) -> Tensor:
        """Return logits_NC, which are finite. The weights need not sum to one, and may all be 0."""
        if self._average == "logits":
            return torch.einsum("m,mnc->nc", weights_M, logits_MNC) / weights_M.sum().clamp(min=1e-6)
        log_MNC = logits_MNC.log_softmax(dim=2)
        top_NC = log_MNC.detach().amax(dim=0)
        probs_MNC = (log_MNC - top_NC).exp()
        if self._average == "probabilities":
            mixed_NC = torch.einsum("m,mnc->nc", weights_M, probs_MNC) / weights_M.sum().clamp(min=1e-6)
        else:
            weights_MC = weights_M[:, None].to(probs_MNC) * self._shares_MC.to(probs_MNC)
            mixed_NC = torch.einsum("mc,mnc->nc", weights_MC, probs_MNC) / weights_MC.sum(dim=0).clamp(min=1e-6)
        return mixed_NC.clamp(min=_MIN_PROBABILITY).log() + top_NC


def temperature(asked: float | None, average: Average) -> float:
    """Return the temperature that was asked for, or the usual one of the kind of mean.

    It is 4 for logits, as in the papers, because means of logits are far apart; and 1 for probabilities, which express
    already how sure the teachers are.
    """
    return asked if asked is not None else 4.0 if average == "logits" else 1.0
