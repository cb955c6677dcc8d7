"""The pair surrogate: how diverse two settings will be, and how sure that is (DivBO specification, section 3)."""

from __future__ import annotations

import lightgbm
import numpy as np

from distens.records import Floats, Integers
from distens.search._trees import predict_pairs, read_trees


class PairSurrogate:
    """Boosted trees from [enc(i); enc(j)] to Div(i, j), `models` times; their mean and spread.

    All ordered pairs of observed members are rows, each member with itself included (the surrogate learns a diagonal
    of zeros); beyond `max_rows` a random part, in which pairs with a `kept` member come first and both orders stay
    together. Two traps are avoided. Models that differ in their seed alone are identical: rows (80% per tree) and
    columns (80%) are drawn. LightGBM's 20 rows per leaf give a constant for 5 members and a blunt model for 20: a leaf
    needs a 500th of the rows, 3 to 20. (Kendall's tau on held-out pairs in a space of 12 families, 20 members: 0.81
    with 3, 0.62 with 20; 1 row per leaf would leave no variance.) Even so the spread over models is about a tenth of
    the true error: what is sampled from it is close to the mean.

    Args:
        features_MD: encoded settings of the observed members.
        div_MM: their diversity.
        kept: places of the members whose pairs matter most, the pool.
    """

    def __init__(
        self, features_MD: Floats, div_MM: Floats, kept: Integers, models: int, max_rows: int, seed: int
    ) -> None:
        i, j = pair_rows(len(features_MD), kept, max_rows, np.random.default_rng(seed))
        options = {
            "objective": "regression",
            "learning_rate": 0.1,
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
        rows = lightgbm.Dataset(np.hstack([features_MD[i], features_MD[j]]), div_MM[i, j], params=options)
        seeds = np.random.default_rng(seed + 1).integers(2**31 - 1, size=models).tolist()
        self._models = [read_trees(lightgbm.train({**options, "seed": s}, rows, 100)) for s in seeds]

    def predict(self, left_PD: Floats, right_QD: Floats) -> tuple[Floats, Floats]:
        """Return (mean_PQ, std_PQ) over the models, each the mean of both orders of the pair."""
        predicted = np.stack([predict_pairs(trees, left_PD, right_QD) for trees in self._models])
        return predicted.mean(axis=0), predicted.std(axis=0)


def pair_rows(members: int, kept: Integers, max_rows: int, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Return (i, j) of the ordered pairs to learn from: every (i, i), and both orders of as many pairs as fit."""
    first, second = np.triu_indices(members, k=1)
    fit = max(0, (max_rows - members) // 2)
    if len(first) > fit:
        matters = np.isin(first, kept) | np.isin(second, kept)
        order = rng.permutation(len(first))
        order = order[np.argsort(~matters[order], kind="stable")][:fit]
        first, second = first[order], second[order]
    itself = np.arange(members)
    return np.concatenate([first, second, itself]), np.concatenate([second, first, itself])
