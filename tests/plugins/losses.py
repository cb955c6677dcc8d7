"""Losses as users write them."""

import torch
from torch.nn import functional

NUMBER = 3


def focal(outputs, targets, gamma=2.0):
    log_probs_N = -functional.cross_entropy(outputs, targets, reduction="none")
    return -((1 - log_probs_N.exp()) ** gamma * log_probs_N).mean()


def by_row(outputs, targets):
    return functional.cross_entropy(outputs, targets, reduction="none")


def alone(outputs):
    return torch.zeros(())


NO_WEIGHTS = {}


def broken(outputs, targets):
    return functional.cross_entropy(outputs, targets, **NO_WEIGHTS["weights"])


def labels_alone(outputs, targets):
    return functional.nll_loss(outputs.log_softmax(1), targets)
