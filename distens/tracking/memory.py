"""What a run logs, as plain values in this process: for notebooks and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from distens.records import Failure, Finished, Task
from distens.tracking.protocol import Final, Participant, RunInfo


@dataclass
class Memory:
    """A tracker that keeps what it is told; telling it twice changes nothing.

    Attributes:
        run: what `start` said.
        members: (task id, attempt) -> task and outcome.
        steps: step -> metrics of the search so far.
        participants: name -> what it did.
        final: what `finish` said; None while the run goes on, and when it did not end well.
        status: `running`, or what `finish` said; empty before `start`.
    """

    run: RunInfo | None = field(default=None, init=False)
    members: dict[tuple[str, int], tuple[Task, Finished | Failure]] = field(default_factory=dict, init=False)
    steps: dict[int, dict[str, float]] = field(default_factory=dict, init=False)
    participants: dict[str, Participant] = field(default_factory=dict, init=False)
    final: Final | None = field(default=None, init=False)
    status: str = field(default="", init=False)

    def start(self, run: RunInfo) -> None:
        """Keep the run; another run than the last one empties the rest."""
        if self.run is not None and (self.run.run_name, self.run.storage) != (run.run_name, run.storage):
            self.members, self.steps, self.participants, self.final = {}, {}, {}, None
        self.run, self.status = run, "running"

    def member(self, task: Task, outcome: Finished | Failure) -> None:
        """Keep one attempt."""
        attempt = outcome.report.attempt if isinstance(outcome, Finished) else outcome.attempt
        self.members[task.id, attempt] = (task, outcome)

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the search so far."""
        self.steps[step] = dict(metrics)

    def participant(self, participant: Participant) -> None:
        """Keep what a participant did."""
        self.participants[participant.name] = participant

    def finish(self, final: Final | None, status: str) -> list[str]:
        """Keep the end; there is nothing to say."""
        self.final, self.status = final, status
        return []
