"""A probabilistic random forest and expected improvement (Hutter et al. 2011, "SMAC"; 2014, "Runtime prediction")."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr
from sklearn.ensemble import RandomForestRegressor

from distens.records import Floats

TREES = 20


class Forest:
    """A regression forest that predicts a mean and a variance.

    Each leaf has the mean and variance of its rows. The forest's variance follows from the law of total variance over
    trees: mean(leaf variance) + variance(leaf means).
    """

    def __init__(self, features_MD: Floats, values_M: Floats, seed: int) -> None:
        forest = RandomForestRegressor(TREES, max_features=5 / 6, min_samples_split=3, random_state=seed, n_jobs=1)
        forest.fit(features_MD.astype(np.float32), values_M)
        self._trees = [member.tree_ for member in forest.estimators_]

    def predict(self, features_PD: Floats) -> tuple[Floats, Floats]:
        """Return (mean_P, variance_P)."""
        features = np.ascontiguousarray(features_PD, dtype=np.float32)
        leaves = [tree.apply(features) for tree in self._trees]
        means = np.stack([tree.value[:, 0, 0][leaf] for tree, leaf in zip(self._trees, leaves, strict=True)])
        inside = np.stack([tree.impurity[leaf] for tree, leaf in zip(self._trees, leaves, strict=True)])
        return means.mean(axis=0), np.maximum(inside.mean(axis=0) + means.var(axis=0), 0.0)


def expected_improvement(mean_P: Floats, variance_P: Floats, best: float) -> Floats:
    """Return E[max(best - y, 0)] for y ~ Normal(mean, variance): the expected improvement on `best`."""
    std_P = np.sqrt(variance_P)
    sure = std_P < 1e-12
    z = (best - mean_P) / np.where(sure, 1.0, std_P)
    hoped = (best - mean_P) * ndtr(z) + std_P * np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    return np.where(sure, np.maximum(best - mean_P, 0.0), hoped)


def fence_outliers(values_M: Floats) -> Floats:
    """Return the values with very bad ones lowered to Tukey's fence, upper quartile + 1.5 interquartile ranges.

    A negative log-likelihood has no upper limit: one member at 20 among many near 0.3 would make the forest uncertain
    about all settings near it, and expected improvement would pursue that uncertainty. The order of good values does
    not change. (Not in the paper, which minimises an error rate.)
    """
    low, high = np.quantile(values_M, [0.25, 0.75])
    return np.minimum(values_M, high + 1.5 * (high - low)) if high > low else values_M
