"""The protocol of trackers, which log a run, and the values that they log. A tracker never delays or breaks a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distens.records import Failure, Finished, Task


@dataclass(frozen=True)
class RunInfo:
    """A run's name, config and data, as known when it starts.

    Attributes:
        name: the name in the config, after which the experiment and the registered models are called.
        run_name: the name of the run's folder, with the config's hash.
        storage: the address of the run's folder.
        versions: package -> version.
        fingerprint: the fingerprint of the data.
        edition: the number of the results: 2 or more in a run that was asked for more after it had finished.
    """

    name: str
    run_name: str
    config: Mapping[str, Any]
    storage: str
    versions: Mapping[str, str]
    fingerprint: str
    edition: int = 1


def model_name(run: str, row: str) -> str:
    """Return the model name that a row of a run's table is registered under: the run's own name for the ensemble."""
    return run if row == "ensemble" else f"{run}-{row}"


@dataclass(frozen=True)
class FinalInfo:
    """The results of a run that finished.

    Attributes:
        rows: the table of results: row name -> column -> value.
        weights: selected member's id -> weight.
        diversity: member's id -> its mean diversity to the selection.
        figures: local PNG files.
        report: the local HTML page.
        bundles: row of the table -> local bundle folder, for rows that may be deployed.
        scores: bundle -> the usual metric on the *combine* split, to compare with a champion's; empty if that split has
            no rows.
        example: a few raw rows that the bundles can predict (a pandas DataFrame or an array), without labels.
        expected: bundle -> predictions_NK that it predicts for `example`.
        verdict: the conclusion of the run, in sentences.
        score_name: the name of the metric in `scores`.
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
    """A participant of a run, such as a federation's client, over all of its tasks.

    Attributes:
        kind: the kind of participant, such as `client`.
        metrics: numbers over the whole run, such as its rows and in how many rounds it took part.
        history: metric -> step -> value; steps are those of `Tracker.progress`.
        failures: what went wrong, in sentences.
    """

    kind: str
    name: str
    metrics: Mapping[str, float]
    history: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    failures: tuple[str, ...] = ()


class Tracker(Protocol):
    """A log of runs: a dataclass whose fields are its options.

    Calls return at once; records that cannot be sent are kept and sent later. Sending a record a second time, after a
    resume, changes nothing.

    Example:
        A run's session calls a tracker::

            tracker.start(info)
            tracker.member(task, outcome)  # for each outcome
            tracker.progress(step, metrics)
            notes = tracker.finish(final, status)
    """

    def start(self, run: RunInfo) -> None:
        """Begin the parent run, or continue one that was begun before."""
        ...

    def member(self, task: Task, outcome: Finished | Failure) -> None:
        """Log one attempt of a task: a finished member, or a failure (with `final=False`, another attempt follows)."""
        ...

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log a run's progress on the parent run, such as `best_single`, `ensemble`, `finished` and `failed`.

        A role whose run is resumed calls this for the steps before as well. What was logged at a step stays.
        """
        ...

    def participant(self, participant: Participant) -> None:
        """Log the record of a participant, at the end of the run."""
        ...

    def finish(self, final: FinalInfo | None, status: str) -> list[str]:
        """Send the records that are left, within bounded time, and return lines for the user.

        The lines say where to find the log, and which records were not sent.

        Args:
            final: the results; None: no model is registered.
            status: `finished`, `failed` or `stopped`.
        """
        ...


PLUGINS = (Tracker,)
"""What a user's own plug-in of this family must be: one of these."""
