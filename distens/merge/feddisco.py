"""Less weight where classes are lopsided (Ye et al. 2023, "FedDisco: Federated Learning with Discrepancy-Aware
Collaboration", ICML).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt

from distens.merge._weights import by_rows, total
from distens.merge.protocol import Merged, Round
from distens.records import Floats


@dataclass(frozen=True)
class FedDisco:
    """w = sum_k p_k w_k with p_k in proportion to max(0, n_k / n - a d_k + b).

    d_k is how far k's shares of classes D_k are from equal ones T, as a part of all the clients' distances: `kl`
    sum D log (D / T), `l1` sum |D - T|, `l2` the length of D - T, `cosine` 1 - cos(D, T). Where no term is positive,
    p_k is n_k / n.

    Where we differ: distances are divided by their sum whatever the metric (in the published code only with `kl`), so
    that `a` means the same for all.

    Attributes:
        a: how much the distance counts.
        b: what every client has beforehand; the larger, the closer to equal shares.
        metric: how distance is measured.
    """

    a: Annotated[float, Gt(0)] = 0.5
    b: Annotated[float, Ge(0)] = 0.1
    metric: Literal["kl", "l1", "l2", "cosine"] = "kl"

    def merge(self, round: Round) -> Merged:
        """Return the weighted mean (see `Merger`); `shares_K` are p_k."""
        rows_K = by_rows(round.updates)
        counts_KC = np.array([update.histogram_C for update in round.updates], dtype=np.float64)
        apart_K = _distances(counts_KC / counts_KC.sum(axis=1, keepdims=True), self.metric)
        if apart_K.sum() > 0:
            apart_K /= apart_K.sum()
        terms_K = np.maximum(0.0, rows_K - self.a * apart_K + self.b)
        shares_K = terms_K / terms_K.sum() if terms_K.any() else rows_K
        return Merged(total(round.updates, shares_K), shares_K=shares_K)


def _distances(shares_KC: Floats, metric: str) -> Floats:
    """Return each row's distance from equal shares of the classes."""
    even = 1.0 / shares_KC.shape[1]
    if metric == "kl":
        ratio_KC = np.where(shares_KC > 0, shares_KC / even, 1.0)
        return np.maximum(
            0.0, (shares_KC * np.log(ratio_KC)).sum(axis=1)
        )  # equal shares are at 0, not a rounding below
    if metric == "cosine":
        cosine_K = shares_KC.sum(axis=1) / np.linalg.norm(shares_KC, axis=1) * np.sqrt(even)
        return np.maximum(0.0, 1.0 - cosine_K)
    return np.linalg.norm(shares_KC - even, ord=1 if metric == "l1" else 2, axis=1)
