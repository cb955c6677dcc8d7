"""The context of a member's training: its seed, where it keeps checkpoints, its share of the machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from distens.data.folds import Fold
from distens.records import Integers
from distens.seeding import derive
from distens.storage.checkpoint import Checkpoint
from distens.storage.parts import Parts

Logged = dict[str, dict[int, float]]
"""Name -> epoch, counted from 1 -> value: what a training logged."""


@dataclass(frozen=True)
class Context:
    """A context: all that a member's `fit` gets besides the examples.

    Attributes:
        seed: the only source of randomness.
        checkpoint: where the member keeps its last checkpoint, from which it resumes if it was killed.
        device: `cpu` or `cuda`.
        threads: the number of CPU threads that the member may use.
        gpus: the number of GPUs that the member occupies; may be a fraction.
        processes: the number of processes for which the reservation around this process has room; 1: no reservation.
        budget: the epoch to train up to; None: all epochs in the settings. Training resumes from the checkpoint if that
            is not beyond the budget, and leaves a checkpoint at the budget, to be continued later. Only a kind that can
            stop after any epoch gets a budget (see `distens.schedule.protocol.trains_in_rungs`).
        rows_N: the numbers of the examples that belong to a federation's client; None: all.
        fold: the fold whose rows alone the member learns from, on their own scale; None: all rows as they are. Only a
            kind that trains folds together gets one (see `distens.members.protocol.PacksFolds`).
        parts: where a training that leaves several models leaves them (see `distens.members.protocol.LeavesParts`).
        logged: where a training leaves what the user's own code logged, at its end.
        folder: a local folder of the member's own for files that the user's own code writes, which need not exist yet;
            None: a temporary one.
    """

    seed: int
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    device: str = "cpu"
    threads: int = 1
    gpus: float = 0.0
    processes: int = 1
    budget: int | None = None
    rows_N: Integers | None = None
    fold: Fold | None = None
    parts: Parts = field(default_factory=Parts)
    logged: Logged = field(default_factory=dict)
    folder: Path | None = None

    def of_part(self, name: str) -> Context:
        """Return the context for the training of one part, with a seed and a checkpoint of its own."""
        return replace(
            self, seed=derive(self.seed, "part", name), checkpoint=self.parts.checkpoint(name, self.checkpoint)
        )

    def until(self, epochs: int) -> int:
        """Return the epoch at which training ends: the budget, or else `epochs`, the number in the settings."""
        return epochs if self.budget is None else self.budget
