"""A tracker in memory, whose records are plain values of this process: for notebooks and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from distens.records import Failure, Finished, Task
from distens.tracking.protocol import FinalInfo, Participant, RunInfo


@dataclass
class Memory:
    """A tracker that keeps all records in memory; logging a record twice changes nothing.

    Attributes:
        run: the argument of `start`.
        members: (task id, attempt) -> task and outcome.
        steps: step -> metrics of the run's progress.
        participants: name -> the record of a participant.
        final: the results that `finish` was called with; None until then, and for a run that did not finish.
        status: `running` after `start`, then the status that `finish` was called with; empty before `start`.
    """

    run: RunInfo | None = field(default=None, init=False)
    members: dict[tuple[str, int], tuple[Task, Finished | Failure]] = field(default_factory=dict, init=False)
    steps: dict[int, dict[str, float]] = field(default_factory=dict, init=False)
    participants: dict[str, Participant] = field(default_factory=dict, init=False)
    final: FinalInfo | None = field(default=None, init=False)
    status: str = field(default="", init=False)

    def start(self, run: RunInfo) -> None:
        """Keep the run's info; forget all other records if it is another run than the last one."""
        if self.run is not None and (self.run.run_name, self.run.storage) != (run.run_name, run.storage):
            self.members, self.steps, self.participants, self.final = {}, {}, {}, None
        self.run, self.status = run, "running"

    def member(self, task: Task, outcome: Finished | Failure) -> None:
        """Keep one attempt."""
        attempt = outcome.report.attempt if isinstance(outcome, Finished) else outcome.attempt
        self.members[task.id, attempt] = (task, outcome)

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a step that it lacks so far."""
        self.steps[step] = {**metrics, **self.steps.get(step, {})}

    def participant(self, participant: Participant) -> None:
        """Keep the record of a participant."""
        self.participants[participant.name] = participant

    def finish(self, final: FinalInfo | None, status: str) -> list[str]:
        """Keep the results and the status; return no lines for the user."""
        self.final, self.status = final, status
        return []
