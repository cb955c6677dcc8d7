"""The rows that generators have made so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distens.distill._generator import InputBounds


class SyntheticRows:
    """Made-up rows, the labels that they were made for, and all teachers' logits of them.

    Rows are kept in 256 levels, as in the papers' image files: a quarter of the memory. Teachers do not change, so each
    row is predicted once. The pool is bounded: with every block beyond `most` the oldest block leaves.

    Args:
        span: the bounds of inputs.
        logits: the teachers: inputs -> logits_MNC.
        most: the largest number of blocks that are kept.

    Attributes:
        labels_N: the label that each row was made for.
        logits_MNC: the teachers' logits of each row.
        made_N: the epoch in which each row was made.
    """

    def __init__(self, span: InputBounds, logits: Callable[[Tensor], Tensor], most: int) -> None:
        self._span, self._logits, self._most = span, logits, most
        self._blocks: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, inputs: Tensor, labels_N: Tensor, epoch: int) -> None:
        """Add a block of rows, and the teachers' logits of them."""
        self._keep(self._span.levels(inputs), labels_N, torch.full_like(labels_N, epoch))

    def _keep(self, levels: Tensor, labels_N: Tensor, made_N: Tensor) -> None:
        with torch.no_grad():
            logits_MNC = self._logits(self._span.restored(levels))
        self._blocks = [*self._blocks, (levels, labels_N, made_N, logits_MNC)][-self._most :]
        self._levels, self.labels_N, self.made_N = (torch.cat([b[i] for b in self._blocks]) for i in range(3))
        self.logits_MNC = torch.cat([block[3] for block in self._blocks], dim=1)

    def inputs(self, rows: Tensor) -> Tensor:
        """Return the inputs of the rows with the given numbers."""
        return self._span.restored(self._levels[rows])

    def example_rows(self, most: int = 64) -> Any:
        """Return the inputs of the latest rows, `most` at most, for people to look at."""
        return self._span.restored(self._levels[-most:]).cpu().numpy()

    def __len__(self) -> int:
        return sum(len(block[1]) for block in self._blocks)

    def state(self) -> Any:
        """Return the blocks, without the teachers' logits, as a tree for a checkpoint."""
        return [list(block[:3]) for block in self._blocks]

    def load(self, tree: Any, device: str) -> None:
        """Restore a state that `state` returned; the teachers predict again, in the same blocks."""
        for block in tree:
            self._keep(*(tensor.to(device) for tensor in block))
