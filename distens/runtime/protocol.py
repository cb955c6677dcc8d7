"""Where tasks are carried out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from distens.data.dataset import Dataset
from distens.data.federation import Clients
from distens.packing import PackSize
from distens.records import Answer, Held, Pack, Resources
from distens.storage.store import Store


@dataclass(frozen=True)
class Shared:
    """What every task of a run needs, sent once per node: where to write, the data without the withheld labels, and
    which of a federation's clients has which rows, or where."""

    store: Store
    dataset: Dataset
    clients: Clients | None = None


class Runner(Protocol):
    """A dataclass whose fields are its options.

    A run's session holds it from before the data are read until its end:

        runner.prepare(packs)
        runner.start(shared)
        for answers in runner.run(packs):
            ...
        runner.stop()

    Attributes:
        pack: how many tasks are dispatched together at most.
        dispatch_seconds: what handing over one pack costs, however small it is.
        sized: whether a pack occupies what its tasks' `resources` say; they are the same for all of a pack.
    """

    dispatch_seconds: ClassVar[float]
    sized: ClassVar[bool]
    pack: PackSize

    @property
    def usual(self) -> Resources:
        """What one member, or one pack, occupies, unless its tasks say otherwise."""
        ...

    def prepare(self, packs: int | None) -> None:
        """Begin to get ready for so many packs, or for all that fit, and return at once; what fails, `start` raises.

        Not needed: what `start` does takes less time after it. The caller reads the data meanwhile.
        """
        ...

    def start(self, shared: Shared, also: Mapping[str, Resources] = {}) -> None:
        """Get ready. Raises RunError if the resources asked for do not exist anywhere.

        Args:
            also: key of the config -> what tasks will ask for besides `usual`.
        """
        ...

    def slots(self) -> int:
        """Return how many packs are carried out side by side, as things are now, if each occupies `usual`."""
        ...

    def free(self) -> int:
        """Return how many slots wait for a pack now, one at least: packs for all of them are thought of at once."""
        ...

    def hold(self, value: Any) -> Held:
        """Keep an array, or several, where tasks can have it without a copy for each, as long as the result lives."""
        ...

    def run(self, packs: Iterator[Pack]) -> Iterator[Sequence[Answer]]:
        """Pull the next pack whenever a slot is free and yield outcomes as they come, in order of arrival.

        An empty pack says that there is none before the next outcome: the runner asks again then. A pack is carried
        out in one slot; its outcomes come together, or in several lists where part of it is tried again; with them may
        come those of other packs. A failure with `final=False` is a lost attempt: the runner itself tries again with
        the next attempt number.
        """
        ...

    def stop(self) -> None:
        """Let go of everything that `prepare` and `start` took, running tasks included; again is no harm."""
        ...


PLUGINS = (Runner,)
"""What a user's own plug-in of this family must be: one of these."""


class JoinsCluster(Runner, Protocol):
    """A runner of a cluster that others use too.

    A sweep, whose runs share one, joins it itself and sees that members fit, before it divides the room among them:

        runner.connect()
        runner.check()
        runs = min(concurrency, runner.slots())
    """

    def connect(self) -> None:
        """Join the cluster, or start one.

        Raises:
            RunError: there is none at the address, or it turns us away.
        """
        ...

    def check(self, also: Mapping[str, Resources] = {}) -> None:
        """See that members fit somewhere, by `resources` and by what tasks will ask for besides (see `Runner.start`).

        Raises:
            RunError: no node is large enough for one.
        """
        ...
