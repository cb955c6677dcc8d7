"""Shares of clients, computed from their numbers of rows of each class alone."""

from __future__ import annotations

import numpy as np

from distens.records import Floats, Integers


def disco(counts_KC: Integers, a: float = 0.5, b: float = 0.1, metric: str = "kl") -> Floats:
    """Return FedDisco's shares (K,), in proportion to max(0, n_k / n - a d_k + b); n_k / n where none is positive.

    d_k is the distance of client k's shares of classes D_k from equal shares T, divided by the sum of all clients'
    distances: `kl` sum D log (D / T), `l1` sum |D - T|, `l2` the length of D - T, `cosine` 1 - cos(D, T). Ye et al.
    2023, "FedDisco: Federated Learning with Discrepancy-Aware Collaboration" (ICML). Where we differ: distances are
    divided by their sum for every metric (in the published code only with `kl`), so that `a` means the same for all;
    and that code gives no shares where no term is positive.
    """
    rows_KC = np.asarray(counts_KC, dtype=np.float64)
    rows_K = rows_KC.sum(axis=1)
    apart_K = _distances(rows_KC / np.maximum(rows_K, 1)[:, None], metric)
    if apart_K.sum() > 0:
        apart_K /= apart_K.sum()
    terms_K = np.maximum(0.0, rows_K / rows_K.sum() - a * apart_K + b)
    return terms_K / terms_K.sum() if terms_K.any() else rows_K / rows_K.sum()


def _distances(shares_KC: Floats, metric: str) -> Floats:
    """Return each row's distance from equal shares of the classes."""
    even = 1.0 / shares_KC.shape[1]
    if metric == "kl":
        ratio_KC = np.where(shares_KC > 0, shares_KC / even, 1.0)
        divergence_K = (shares_KC * np.log(ratio_KC)).sum(axis=1)
        return np.maximum(0.0, divergence_K)  # rounding must not put equal shares below 0
    if metric == "cosine":
        cosine_K = shares_KC.sum(axis=1) / np.linalg.norm(shares_KC, axis=1) * np.sqrt(even)
        return np.maximum(0.0, 1.0 - cosine_K)
    return np.linalg.norm(shares_KC - even, ord=1 if metric == "l1" else 2, axis=1)


def class_shares(weights_KC: Floats | Integers) -> Floats:
    """Return a_k^c = n_k^c / sum_j n_j^c, (K, C), the clients' shares of the rows or other weights of each class.

    Shares are equal in a class that has none. Zhang et al. 2022, "Fine-tuning Global Model via Data-Free Knowledge
    Distillation for Non-IID Federated Learning", section 3.3.
    """
    weights = np.asarray(weights_KC, dtype=np.float64)
    total_C = weights.sum(axis=0)
    return np.where(total_C > 0, weights / np.where(total_C > 0, total_C, 1.0), 1.0 / len(weights))
