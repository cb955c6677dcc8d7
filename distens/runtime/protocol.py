"""Where tasks are carried out, and what their work is given there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from distens.data.dataset import Dataset
from distens.packing import PackSize
from distens.records import Answer, Failure, Held, Outcome, Pack, Report, Resources, Task
from distens.storage.store import Store


@dataclass(frozen=True)
class Shared:
    """What every task of a run needs, sent once per node.

    Attributes:
        store: where to write.
        dataset: the data without the withheld labels.
        role_data: what the role's own work needs besides, as the role knows it.
    """

    store: Store
    dataset: Dataset
    role_data: Any = None


class WorkContext(Protocol):
    """What work is given where it is carried out: the run's shared values, its part of the machine, and a guard."""

    @property
    def shared(self) -> Shared:
        """Return what every task of the run needs."""
        ...

    @property
    def threads(self) -> int:
        """Return how many CPU threads the pack may use."""
        ...

    def given(self, task: Task, name: str) -> Any:
        """Return what a task was given in memory under a name."""
        ...

    def device(self, task: Task) -> str:
        """Return `cpu` or `cuda`, where a task's numbers are to lie.

        Raises:
            Refused: it occupies GPUs, and torch sees none.
        """
        ...

    def guarded(self, task: Task, carry_out: Callable[[], Report]) -> Outcome:
        """Return the report that a call makes, or why there is none: whatever one task does, the run goes on."""
        ...

    def failure(self, task: Task, error: Exception, seconds: float) -> Failure:
        """Return what a task raised after so many seconds, as a failure.

        Raises:
            StorageFailed: that is no task's fault, and the next would fare no better.
        """
        ...


class Work(Protocol):
    """What a task does: a frozen dataclass of JSON values, in a folder `work` (of `lifecycle`, or of a role).

    A runner's process carries out the tasks of a pack that are of one group together::

        for answer in tasks[0].work.carry_out(tasks, context):    # tasks[0].work.group(task, context) is that of all
            ...

    What one raises is tried again by the halves or singly, if the work is divisible.

    Attributes:
        packable: whether tasks whose members can be trained as one program go to an actor together.
        divisible: whether a pack that is lost or fails is divided, until the bad task is alone; else it is tried again,
            and fails, as a whole.
        limit_option: the key of the config that sets `Task.limit_seconds`, for messages; empty if nothing does.
    """

    packable: ClassVar[bool]
    divisible: ClassVar[bool]
    limit_option: ClassVar[str]

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return what tasks have in common that are carried out together; the task's own id for one that goes alone."""
        ...

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return family and spec of every plug-in that it names, besides the task's settings."""
        ...

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[Answer]:
        """Yield an answer for each task of a group, as it is ready."""
        ...


class Runner(Protocol):
    """A dataclass whose fields are its options.

    A run's session holds it from before the data are read until its end:

        runner.prepare(packs, modules)
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

    @property
    def own(self) -> Mapping[str, Resources]:
        """Name -> what members of that name occupy instead, as the config says; nothing if all are alike."""
        ...

    def prepare(self, packs: int | None, modules: Sequence[str] = ("torch",)) -> None:
        """Begin to get ready for so many packs, or for all that fit, and return at once; what fails, `start` raises.

        Not needed: what `start` does takes less time after it. The caller reads the data meanwhile.

        Args:
            modules: large ones that members will need; processes that are to train them import them at once.
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
