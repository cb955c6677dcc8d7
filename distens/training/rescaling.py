"""The scales of folds' own rows, for networks that are trained side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distens.data.folds import Fold, Rescaling


class RescalingStack:
    """The scales of members' own folds: `Rescaling.apply`, for members side by side."""

    def __init__(self, found: Sequence[Rescaling], device: str) -> None:
        self._scale, self._shift, self._fill_M1J = (
            torch.from_numpy(np.stack([getattr(one, name) for one in found])).unsqueeze(1).to(device)
            for name in ("scale", "shift", "fill_J")
        )
        self._columns_J, self._indicators_J = (
            torch.tensor(places, device=device) for places in (found[0].columns_J, found[0].indicators_J)
        )

    @classmethod
    def of(cls, folds: Sequence[Fold | None], device: str) -> RescalingStack | None:
        """Return the rescaling of members, all of which learn from a fold; None if none does."""
        found = [fold.rescaling for fold in folds if fold is not None]
        assert len(found) in (0, len(folds)), "members of folds and others are not trained together"
        return cls(found, device) if found else None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return inputs (M, K, …) on each member's scale."""
        out = torch.addcmul(self._shift, inputs, self._scale)
        if len(self._columns_J):
            missing_MKJ = inputs[..., self._indicators_J] > 0
            out[..., self._columns_J] = torch.where(missing_MKJ, self._fill_M1J, out[..., self._columns_J])
        return out
