"""What a member is given besides examples: its seed, its place to keep checkpoints, its share of the machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from distens.records import Integers
from distens.seeding import derive
from distens.storage.checkpoint import Checkpoint
from distens.storage.parts import Parts


@dataclass(frozen=True)
class Context:
    """The surroundings of one fit.

    Attributes:
        seed: the only source of chance.
        checkpoint: kept during training, so that a killed member goes on from the last one.
        device: `cpu` or `cuda`.
        threads: CPU threads that the member may use.
        gpus: GPUs that the member was given; may be a fraction.
        processes: as many have room together, in the reservation that this process is in; 1: nothing is reserved.
        budget: the epoch to train up to, from the checkpoint if it is not beyond, where another one is left for whoever
            goes on; None: all that the settings say. Only a kind that can stop anywhere is given one (see
            `distens.schedule.protocol.in_parts`).
        rows_N: which of the examples a federation's client has; None: all.
        parts: where a training that leaves several models leaves them (see `distens.members.protocol.LeavesParts`).
    """

    seed: int
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    device: str = "cpu"
    threads: int = 1
    gpus: float = 0.0
    processes: int = 1
    budget: int | None = None
    rows_N: Integers | None = None
    parts: Parts = field(default_factory=Parts)

    def of_part(self, name: str) -> Context:
        """Return the surroundings of one part's own training: its chance and its checkpoint are its own."""
        return replace(
            self, seed=derive(self.seed, "part", name), checkpoint=self.parts.checkpoint(name, self.checkpoint)
        )

    def until(self, epochs: int) -> int:
        """Return the epoch at which training ends, of as many as the settings say."""
        return epochs if self.budget is None else self.budget
