"""What a generator has made so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distens.distill._generator import Range


class Pool:
    """Made-up rows with the labels they were asked for, and what every teacher says of them.

    Rows are kept in 256 levels, as in the papers' image files: a quarter of the memory. Teachers do not change, so
    they are asked once. It is bounded: with every block beyond `most` the oldest leaves.

    Args:
        span: what inputs lie between.
        logits: inputs -> logits_MNC.
        most: blocks that are kept.

    Attributes:
        labels_N: what each row was asked to be.
        logits_MNC: what teachers say of it.
        made_N: the epoch that it was made in.
    """

    def __init__(self, span: Range, logits: Callable[[Tensor], Tensor], most: int) -> None:
        self._span, self._logits, self._most = span, logits, most
        self._blocks: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, inputs: Tensor, labels_N: Tensor, epoch: int) -> None:
        """Keep a block."""
        self._keep(self._span.levels(inputs), labels_N, torch.full_like(labels_N, epoch))

    def _keep(self, levels: Tensor, labels_N: Tensor, made_N: Tensor) -> None:
        with torch.no_grad():
            logits_MNC = self._logits(self._span.restored(levels))
        self._blocks = [*self._blocks, (levels, labels_N, made_N, logits_MNC)][-self._most :]
        self._levels, self.labels_N, self.made_N = (torch.cat([b[i] for b in self._blocks]) for i in range(3))
        self.logits_MNC = torch.cat([block[3] for block in self._blocks], dim=1)

    def inputs(self, rows: Tensor) -> Tensor:
        """Return some rows' inputs."""
        return self._span.restored(self._levels[rows])

    def some(self, most: int = 64) -> Any:
        """Return the latest rows' inputs, to be looked at."""
        return self._span.restored(self._levels[-most:]).cpu().numpy()

    def __len__(self) -> int:
        return sum(len(block[1]) for block in self._blocks)

    def state(self) -> Any:
        """Return a tree to keep."""
        return [list(block[:3]) for block in self._blocks]

    def load(self, tree: Any, device: str) -> None:
        """Be what `state` was called on; teachers are asked again, block by block as they were."""
        for block in tree:
            self._keep(*(tensor.to(device) for tensor in block))
