"""A tracker for runs without tracking; the run's folder still holds everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distens.records import Failure, Finished, Task
from distens.tracking.protocol import FinalInfo, Participant, RunInfo


@dataclass(frozen=True)
class Off:
    """A tracker that logs nothing."""

    def start(self, run: RunInfo) -> None:
        """Do nothing."""

    def member(self, task: Task, outcome: Finished | Failure) -> None:
        """Do nothing."""

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def participant(self, participant: Participant) -> None:
        """Do nothing."""

    def finish(self, final: FinalInfo | None, status: str) -> list[str]:
        """Return no lines for the user."""
        return []
