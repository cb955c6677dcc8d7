"""One task after the other, in this process: for tests, debugging and small machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from distens.records import Outcome, Resources, Task
from distens.runtime._execute import execute
from distens.runtime.protocol import Shared


@dataclass
class Inline:
    """Attributes: threads: CPU threads that a member may use; results are bit-equal only for equal numbers."""

    threads: Annotated[int, Ge(1)] = 1

    def __post_init__(self) -> None:
        self._shared: Shared | None = None
        self._threads_before = 0

    @property
    def resources(self) -> Resources:
        """Return what one member occupies."""
        return Resources(cpus=self.threads)

    def start(self, shared: Shared) -> None:
        """Get ready."""
        import torch

        self._shared, self._threads_before = shared, torch.get_num_threads()
        torch.set_num_threads(self.threads)

    def run(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """Carry out each task before the next is pulled."""
        assert self._shared is not None, "start comes first"
        for task in tasks:
            yield execute(task, self._shared, self.threads)

    def stop(self) -> None:
        """Give torch its threads back."""
        if self._threads_before and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads_before)
        self._shared, self._threads_before = None, 0
