"""A runner in this process, one pack after the other: for tests, debugging and small machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from distens.packing import PackSize
from distens.records import Answer, ObjectHandle, Pack, Resources
from distens.runtime._execute import execute
from distens.runtime.protocol import RunContext


@dataclass
class Inline:
    """A runner that carries out packs in this process.

    Attributes:
        threads: CPU threads that a pack may use; results are bit-equal only for equal numbers of threads.
        pack: the largest number of members that are trained together.
    """

    dispatch_seconds: ClassVar[float] = 0.0
    sized: ClassVar[bool] = False

    threads: Annotated[int, Ge(1)] = 1
    pack: PackSize = "auto"

    def __post_init__(self) -> None:
        self._shared: RunContext | None = None
        self._threads_before = 0

    @property
    def usual(self) -> Resources:
        """Return the resources that one member occupies."""
        return Resources(cpus=self.threads)

    @property
    def own(self) -> Mapping[str, Resources]:
        """Return an empty mapping: one after the other, every member occupies this process."""
        return {}

    def prepare(self, packs: int | None, modules: Sequence[str] = ("torch",)) -> None:
        """Do nothing: there are no processes to prepare."""

    def start(self, shared: RunContext, also: Mapping[str, Resources] = {}) -> None:
        """Keep the run's shared values, and set the number of torch's threads."""
        import torch

        self._shared, self._threads_before = shared, torch.get_num_threads()
        torch.set_num_threads(self.threads)

    def slots(self) -> int:
        """Return 1: this process."""
        return 1

    def free(self) -> int:
        """Return 1: a pack is pulled only when this process is free."""
        return 1

    def hold(self, value: Any) -> ObjectHandle:
        """Return the value itself as the reference."""
        return ObjectHandle(value)

    def run(self, packs: Iterator[Pack]) -> Iterator[Sequence[Answer]]:
        """Carry out each pack before the next one is pulled, and yield its answers."""
        assert self._shared is not None, "start comes first"
        for pack in packs:
            assert pack, "nothing is pending here that an empty pack could wait for"
            yield execute(pack, self._shared, self.threads, lambda held: held.reference)

    def stop(self) -> None:
        """Restore the number of torch's threads, and forget the shared values."""
        if self._threads_before and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads_before)
        self._shared, self._threads_before = None, 0
