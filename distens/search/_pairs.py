"""The pair surrogate: it predicts the diversity of two settings, with a spread (DivBO specification, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm
import numpy as np

from distens.records import Floats, Integers
from distens.search._trees import Partners, read_trees

TREES, LEARNING_RATE = 50, 0.2
"""Half of LightGBM's trees at twice its rate: as good on held-out pairs, at half of the time."""


class PairSurrogate:
    """A surrogate of diversity: `models` boosted-tree models from [enc(i); enc(j)] to Div(i, j), their mean and spread.

    Its rows are all ordered pairs of observed members, including each member with itself (so that the surrogate learns
    a diagonal of zeros). If there are more than `max_rows`, it learns from a random part of them: both orders of a pair
    stay together, and half of the pairs, if there are enough, have a `kept` member. Pairs with kept members are those
    to be predicted later, but without the other pairs nothing is learned about pairs of new settings (250 members,
    5,000 rows: Kendall's tau of held-out pairs is 0.67 with pairs of kept members alone). Columns that are constant or
    repeat another column are left out, as many "active" bits are.

    Two traps are avoided. Models that differ only in their seed would be identical, so rows (80% per tree) and columns
    (80%) are sampled. With LightGBM's default of 20 rows per leaf the model is constant for 5 members and blunt for 20,
    so a leaf needs a 500th of the rows, between 3 and 20. (Kendall's tau on held-out pairs in a space of 12 families,
    20 members: 0.81 with 3, 0.62 with 20; 1 row per leaf would leave no variance.) Even so the spread over models is
    about a tenth of the true error, so that samples from it are close to the mean.

    Args:
        features_MD: encoded settings of the observed members.
        div_MM: their diversity.
        kept: indices of the members whose pairs matter most, the pool.
        models: the number of models.
        max_rows: the largest number of rows to learn from.
    """

    def __init__(
        self, features_MD: Floats, div_MM: Floats, kept: Integers, models: int, max_rows: int, seed: int
    ) -> None:
        i, j = pair_rows(len(features_MD), kept, max_rows, np.random.default_rng(seed))
        options = {
            "objective": "regression",
            "learning_rate": LEARNING_RATE,
            "num_leaves": 31,
            "min_data_in_leaf": int(np.clip(len(i) // 500, 3, 20)),
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "feature_fraction": 0.8,
            "use_missing": False,
            "feature_pre_filter": False,
            "num_threads": 1,
            "deterministic": True,
            "force_col_wise": True,
            "verbosity": -1,
        }
        _, columns = np.unique(features_MD, axis=1, return_index=True)
        columns = np.sort(columns)
        self._columns = columns[np.ptp(features_MD[:, columns], axis=0) > 0]
        known_MD = features_MD[:, self._columns]
        rows = lightgbm.Dataset(np.hstack([known_MD[i], known_MD[j]]), div_MM[i, j], params=options)
        seeds = np.random.default_rng(seed + 1).integers(2**31 - 1, size=models).tolist()
        self._models = [read_trees(lightgbm.train({**options, "seed": s}, rows, TREES)) for s in seeds]

    def towards(self, right_QD: Floats) -> PairPredictor:
        """Return an object that predicts pairs with these Q settings."""
        return PairPredictor([Partners(trees, right_QD[:, self._columns]) for trees in self._models], self._columns)


class PairPredictor:
    """A predictor of (mean_PQ, std_PQ) over the models for pairs with Q settings, each the mean of both orders."""

    def __init__(self, partners: Sequence[Partners], columns: Integers) -> None:
        self._partners, self._columns = partners, columns

    def predict(self, left_PD: Floats) -> tuple[Floats, Floats]:
        """Return (mean_PQ, std_PQ) for pairs of P settings with the Q settings."""
        left_PD = left_PD[:, self._columns]
        return self.over([partners.predict(left_PD) for partners in self._partners])

    def predict_one(self, place: int) -> tuple[Floats, Floats]:
        """Return (mean_PQ, std_PQ) for pairs of one of the Q settings with all of them: P = 1."""
        return self.over([partners.predict_one(place) for partners in self._partners])

    def over(self, predicted: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Return the mean and the standard deviation of the models' predictions."""
        return np.mean(predicted, axis=0), np.std(predicted, axis=0)


def pair_rows(members: int, kept: Integers, max_rows: int, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Return (i, j) of the ordered pairs to learn from: every (i, i), and both orders of as many pairs as fit."""
    first, second = np.triu_indices(members, k=1)
    fit = max(0, (max_rows - members) // 2)
    if len(first) > fit:
        order = rng.permutation(len(first))
        matters = (np.isin(first, kept) | np.isin(second, kept))[order]
        preferred = matters & (np.cumsum(matters) <= fit // 2)
        order = order[np.argsort(~preferred, kind="stable")][:fit]
        first, second = first[order], second[order]
    itself = np.arange(members)
    return np.concatenate([first, second, itself]), np.concatenate([second, first, itself])
