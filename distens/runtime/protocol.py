"""Where tasks are carried out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from distens.data.dataset import Dataset
from distens.records import Outcome, Resources, Task
from distens.store import Store


@dataclass(frozen=True)
class Shared:
    """What every task of a run needs, sent once per node: where to write, and the data without the withheld labels."""

    store: Store
    dataset: Dataset


class Runner(Protocol):
    """A dataclass whose fields are its options."""

    @property
    def resources(self) -> Resources:
        """What one member occupies."""
        ...

    def start(self, shared: Shared) -> None:
        """Get ready. Raises RunError if the resources asked for do not exist anywhere."""
        ...

    def run(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """Pull the next task whenever a slot is free and yield outcomes as they come, in order of arrival.

        A failure with `final=False` is a lost attempt: the runner itself tries again with the next attempt number.
        """
        ...

    def stop(self) -> None:
        """Let go of everything that `start` took, running tasks included."""
        ...
