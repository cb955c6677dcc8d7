"""The members that are best by themselves, all with the same weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from distens.records import Floats
from distens.select.protocol import fill_defaults, rank_members
from distens.targets.protocol import Target, Targets


@dataclass(frozen=True)
class Top:
    """Top: the `size` members with the lowest metric (all, if there are fewer).

    Of equals, those that are better by the target's usual metric are kept, then the earlier.

    Attributes:
        size: the number of members to keep.
    """

    size: Annotated[int, Ge(1)] = 10

    def select(
        self,
        predictions_MNK: Floats | Sequence[Floats],
        targets_N: Targets,
        metric: str = "",
        target: Target | None = None,
        importance_N: Floats | None = None,
    ) -> Floats:
        """Return weights_M (see `Selector`). Raises ValueError for an unknown metric or no members."""
        target, metric = fill_defaults(predictions_MNK, metric, target, importance_N)
        kept = rank_members(predictions_MNK, targets_N, metric, target)[: self.size]
        weights_M = np.zeros(len(predictions_MNK))
        weights_M[kept] = 1.0 / len(kept)
        return weights_M
