"""Where a run is logged. A tracker never holds up or breaks a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distens.records import Failure, Finished, Task


@dataclass(frozen=True)
class RunInfo:
    """What is known when a run starts."""

    name: str
    run_name: str
    config: Mapping[str, Any]
    storage: str
    versions: Mapping[str, str]
    fingerprint: str


def model_name(run: str, row: str) -> str:
    """Return the name of the model that a row of a run's table is registered as: the ensemble has the run's own."""
    return run if row == "ensemble" else f"{run}-{row}"


@dataclass(frozen=True)
class Final:
    """What is known when a run has ended well.

    Attributes:
        rows: the honest table: row name -> column -> value.
        weights: selected member's id -> weight.
        diversity: member's id -> its mean diversity to the selection.
        figures: local PNG files.
        report: the local HTML page.
        bundles: row of the table -> local bundle folder, for rows that may be deployed.
        scores: bundle -> the usual metric on the *combine* split, to compare with a champion's; none where there
            are no such rows.
        example: a few raw rows that the bundles predict (a pandas DataFrame or an array), and no labels.
        expected: bundle -> probs_NC that it gives for `example`.
        verdict: who won, in sentences.
        score_name: what `scores` are.
    """

    rows: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, float]
    diversity: Mapping[str, float]
    figures: tuple[Path, ...]
    report: Path | None
    bundles: Mapping[str, Path]
    scores: Mapping[str, float]
    example: Any
    expected: Mapping[str, Any] = field(default_factory=dict)
    verdict: Sequence[str] = ()
    score_name: str = "NLL"


@dataclass(frozen=True)
class Participant:
    """Somebody who took part in a run, over all its tasks together, such as a federation's client.

    Attributes:
        kind: what it is: `client`.
        metrics: of all that it did: its rows, how often it was asked, ….
        history: metric -> step -> value; steps are those of `Tracker.progress`.
        failures: what went wrong, in sentences.
    """

    kind: str
    name: str
    metrics: Mapping[str, float]
    history: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    failures: tuple[str, ...] = ()


class Tracker(Protocol):
    """A dataclass whose fields are its options. Calls return at once; what cannot be sent is kept and sent later.

    Sending again, after a resume, what was sent before changes nothing. A run's session calls it:

        tracker.start(info)
        tracker.member(task, outcome)  # as outcomes come
        tracker.progress(step, metrics)
        notes = tracker.finish(final, status)
    """

    def start(self, run: RunInfo) -> None:
        """Begin, or go on with, the parent run."""
        ...

    def member(self, task: Task, outcome: Finished | Failure) -> None:
        """Log one attempt: a member that finished, or a failure (with `final=False` another attempt follows)."""
        ...

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the search so far on the parent run: `best_single`, `ensemble`, `finished`, `failed`."""
        ...

    def participant(self, participant: Participant) -> None:
        """Log what somebody did who took part besides the tasks, once all is over."""
        ...

    def finish(self, final: Final | None, status: str) -> list[str]:
        """Send what is left, within bounded time, and return lines for the user: where to look, what was not sent.

        `status` is `finished`, `failed` or `stopped`; without `final` nothing is registered.
        """
        ...


PLUGINS = (Tracker,)
"""What a user's own plug-in of this family must be: one of these."""
