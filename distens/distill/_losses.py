"""The losses that generators and students minimise, as functions of logits_NC that gradients pass through."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def divergence(student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of every row (N,), in nats (Hinton et al. 2015)."""
    log_teacher_NC = (teacher_NC / temperature).log_softmax(dim=1)
    log_student_NC = (student_NC / temperature).log_softmax(dim=1)
    return temperature**2 * (log_teacher_NC.exp() * (log_teacher_NC - log_student_NC)).sum(dim=1)


def hard_loss(ensemble_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Return mean[(1 - p) CE], p the ensemble's probability of the label, which passes no gradient on.

    Rows that the ensemble is sure of count for little (Co-Boosting, equation 6, with exponent 1).
    """
    loss_N = functional.cross_entropy(ensemble_NC, labels_N, reduction="none")
    return ((1 - (-loss_N.detach()).exp()) * loss_N).mean()


def disagreement_loss(student_NC: Tensor, ensemble_NC: Tensor, temperature: float, masked: bool) -> Tensor:
    """Return -mean[KL_T(student, ensemble)], low where the student does not yet predict what the ensemble predicts.

    Args:
        masked: count only rows for which the two predict different classes, all others as 0 (DENSE, equation 5).
    """
    loss_N = divergence(student_NC, ensemble_NC, temperature)
    if masked:
        loss_N = loss_N * (student_NC.argmax(dim=1) != ensemble_NC.argmax(dim=1))
    return -loss_N.mean()


def diversify(
    inputs: Tensor, ensemble: Callable[[Tensor], Tensor], directions_NC: Tensor, size: Tensor, temperature: float
) -> Tensor:
    """Return x + size * sign(grad_x sum u softmax(A(x) / T)), the diverse hard samples of Co-Boosting (section 3.3).

    Args:
        directions_NC: u, drawn from [-1, 1].
        size: the length of the move, in the inputs' own unit; one number for all, or one for each place of a row.
    """
    with torch.enable_grad():
        moved = inputs.detach().requires_grad_()
        said_NC = (ensemble(moved) / temperature).softmax(dim=1)
        (gradient,) = torch.autograd.grad((directions_NC * said_NC).sum(), [moved])
    return inputs + size * gradient.sign()
