"""Metrics as users write them."""

import numpy as np
import sklearn.metrics


def f1_score(probs_NC, labels_N, average="macro"):
    return sklearn.metrics.f1_score(labels_N, probs_NC.argmax(axis=1), average=average)


def log_loss(probs_NC, labels_N):
    return -np.log(np.clip(probs_NC[np.arange(len(labels_N)), labels_N], 1e-12, None)).mean()


def log_likelihood(probs_NC, labels_N):
    return -log_loss(probs_NC, labels_N)


log_likelihood.higher_is_better = True


def median_error(predictions_N1, targets_N):
    return np.median(np.abs(predictions_N1[:, 0] - targets_N))


def of_all_classes(probs_NC, labels_N):
    if len(np.unique(labels_N)) < probs_NC.shape[1]:
        raise ValueError("a class is missing")
    return log_loss(probs_NC, labels_N)


def faulty(probs_NC, labels_N):
    return 1 // int((labels_N < 0).sum())


def each_row_error(probs_NC, labels_N):
    return probs_NC[:, 0]


def nan_loss(probs_NC, labels_N):
    return float("nan")


def unsure_loss(probs_NC, labels_N):
    return np.nan if (probs_NC.max(axis=1) > 0.999).all() else log_loss(probs_NC, labels_N)


def odd(probs_NC, labels_N):
    return 0.0


def accuracy(probs_NC, labels_N):
    return (probs_NC.argmax(axis=1) == labels_N).mean()


def alone(probs_NC):
    return 0.0
