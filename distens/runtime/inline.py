"""One pack after the other, in this process: for tests, debugging and small machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from distens.packing import PackSize
from distens.records import Answer, Held, Pack, Resources
from distens.runtime._execute import execute
from distens.runtime.protocol import Shared


@dataclass
class Inline:
    """Attributes:
    threads: CPU threads that a pack may use; results are bit-equal only for equal numbers.
    pack: how many members are trained together.
    """

    dispatch_seconds: ClassVar[float] = 0.0
    sized: ClassVar[bool] = False

    threads: Annotated[int, Ge(1)] = 1
    pack: PackSize = "auto"

    def __post_init__(self) -> None:
        self._shared: Shared | None = None
        self._threads_before = 0

    @property
    def usual(self) -> Resources:
        """Return what one member occupies."""
        return Resources(cpus=self.threads)

    @property
    def own(self) -> Mapping[str, Resources]:
        """Return nothing: one after the other, each has this process."""
        return {}

    def prepare(self, packs: int | None, modules: Sequence[str] = ("torch",)) -> None:
        """Do nothing: there is nothing to wait for."""

    def start(self, shared: Shared, also: Mapping[str, Resources] = {}) -> None:
        """Get ready."""
        import torch

        self._shared, self._threads_before = shared, torch.get_num_threads()
        torch.set_num_threads(self.threads)

    def slots(self) -> int:
        """Return one: this process."""
        return 1

    def free(self) -> int:
        """Return one."""
        return 1

    def hold(self, value: Any) -> Held:
        """Return the value's own reference."""
        return Held(value)

    def run(self, packs: Iterator[Pack]) -> Iterator[Sequence[Answer]]:
        """Carry out each pack before the next is pulled."""
        assert self._shared is not None, "start comes first"
        for pack in packs:
            assert pack, "nothing is pending here that an empty pack could wait for"
            yield execute(pack, self._shared, self.threads, lambda held: held.reference)

    def stop(self) -> None:
        """Give torch its threads back."""
        if self._threads_before and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads_before)
        self._shared, self._threads_before = None, 0
