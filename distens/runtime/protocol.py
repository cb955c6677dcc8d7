"""Protocols of runners, which carry out tasks, and of the work that they carry out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from distens.data.dataset import Dataset
from distens.packing import PackSize
from distens.records import Answer, Failure, ObjectHandle, Pack, Report, Resources, Task, TaskOutcome
from distens.storage.store import Store


@dataclass(frozen=True)
class RunContext:
    """The values that every task of a run needs, sent once to each node.

    Attributes:
        store: the folder that tasks write to.
        dataset: the data without the withheld labels.
        role_data: further data for the role's own work, of a type that only the role knows.
    """

    store: Store
    dataset: Dataset
    role_data: Any = None


class WorkContext(Protocol):
    """The surroundings of work where it is carried out: the run's shared values, its part of the machine, a guard.

    Example:
        The method of a work that carries out its tasks one after the other::

            def carry_out(self, tasks, context):
                for task in tasks:
                    yield context.guarded(task, lambda: measure(task, context.shared, context.device(task)))
    """

    @property
    def shared(self) -> RunContext:
        """Return the values that every task of the run needs."""
        ...

    @property
    def threads(self) -> int:
        """Return the number of CPU threads that the pack may use."""
        ...

    def given(self, task: Task, name: str) -> Any:
        """Return the value that the runner holds for a task under a name, see `Task.given`."""
        ...

    def device(self, task: Task) -> str:
        """Return the torch device for a task's arrays: `cpu` or `cuda`.

        Raises:
            Refused: the task occupies GPUs, and torch sees none.
        """
        ...

    def guarded(self, task: Task, carry_out: Callable[[], Report]) -> TaskOutcome:
        """Return the report that `carry_out` makes, or a failure if it raises: one task's error never ends the run.

        Raises:
            StorageFailed: no task is at fault, and the next would fail too.
        """
        ...

    def failure(self, task: Task, error: Exception, seconds: float) -> Failure:
        """Return the failure of a task that raised an error after some seconds.

        Raises:
            StorageFailed: the error is one. No task is at fault, and the next would fail too.
        """
        ...


class Work(Protocol):
    """The work of a task: a frozen dataclass of JSON values, in a folder `work` (of `lifecycle`, or of a role).

    Tasks of a pack whose `work.group(task, context)` is equal are carried out together::

        for answer in tasks[0].work.carry_out(tasks, context):
            ...

    If `carry_out` raises and the work is divisible, the tasks that have no answer yet are tried again: in halves if
    memory ran out, else one by one.

    Attributes:
        packable: whether tasks whose members can be trained as one program go to an actor together.
        divisible: whether a pack that is lost or fails is divided until the bad task is alone. Otherwise the whole pack
            is tried again and fails together.
        limit_option: the key of the config that sets `Task.limit_seconds`, for messages; empty if there is no such key.
    """

    packable: ClassVar[bool]
    divisible: ClassVar[bool]
    limit_option: ClassVar[str]

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return the key of a task's group, which is carried out together; a task that goes alone has its id as key."""
        ...

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return the family and spec of every plug-in that the work names, besides those in the task's settings."""
        ...

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[Answer]:
        """Yield an answer for each task of a group, as soon as it is ready."""
        ...


class Runner(Protocol):
    """A runner of packs: a dataclass whose fields are its options.

    Example:
        A run's session uses a runner from before the data are read until the run ends::

            runner.prepare(count, modules)
            runner.start(shared)
            for answers in runner.run(packs):
                ...
            runner.stop()

    Attributes:
        pack: the largest number of tasks that are dispatched together.
        dispatch_seconds: the time that it takes to hand over one pack, however small the pack is.
        sized: whether a pack occupies the `resources` of its tasks, which are the same for all tasks of a pack.
    """

    dispatch_seconds: ClassVar[float]
    sized: ClassVar[bool]
    pack: PackSize

    @property
    def usual(self) -> Resources:
        """Return the resources that one member, or one pack, occupies unless its tasks have others."""
        ...

    @property
    def own(self) -> Mapping[str, Resources]:
        """Return name -> resources that the members of that name occupy instead; empty if all members are alike."""
        ...

    def prepare(self, packs: int | None, modules: Sequence[str] = ("torch",)) -> None:
        """Begin to get ready, while the caller reads the data; errors may be raised later, by `start`.

        The call is optional: it makes `start` faster.

        Args:
            packs: the number of packs to get ready for; None: as many as fit.
            modules: large modules that members will need. The processes that will train members import them at once.
        """
        ...

    def start(self, shared: RunContext, also: Mapping[str, Resources] = {}) -> None:
        """Get ready to run packs.

        Args:
            also: key of the config -> resources that tasks will need besides `usual`.

        Raises:
            RunError: these resources do not exist anywhere.
        """
        ...

    def slots(self) -> int:
        """Return the number of packs that can be carried out side by side now, if each occupies `usual`."""
        ...

    def free(self) -> int:
        """Return the number of slots that wait for a pack now, at least one; the caller plans packs for all of them."""
        ...

    def hold(self, value: Any) -> ObjectHandle:
        """Keep one or several arrays where tasks can read them without a copy each, as long as the result lives."""
        ...

    def run(self, packs: Iterator[Pack]) -> Iterator[Sequence[Answer]]:
        """Pull the next pack whenever a slot is free, and yield lists of answers in order of arrival.

        `WAIT` means that there is no pack before the next outcome; the runner then asks again. A pack is carried
        out in one slot. Its answers come together, or in several lists if part of the pack is tried again; answers of
        other packs may be in the same list. A failure with `final=False` is a lost attempt: the runner itself tries
        again with the next attempt number.
        """
        ...

    def stop(self) -> None:
        """Release everything that `prepare` and `start` took, and end running tasks; a second call does no harm."""
        ...


PLUGINS = (Runner,)
"""What a user's own plug-in of this family must be: one of these."""


class JoinsCluster(Runner, Protocol):
    """A runner on a cluster that is shared with others.

    Example:
        A sweep joins the cluster that its runs share and checks that members fit, before it divides the room::

            runner.connect()
            runner.check()
            runs = min(concurrency, runner.slots())
    """

    def connect(self) -> None:
        """Join the cluster, or start one.

        Raises:
            RunError: there is no cluster at the address, or it refuses the connection.
        """
        ...

    def check(self, also: Mapping[str, Resources] = {}) -> None:
        """Check that some node has room for a member of the usual size, and for each size in `also`.

        Args:
            also: see `Runner.start`.

        Raises:
            RunError: no node is large enough for one of them.
        """
        ...
