"""Carry out one pack of tasks: the one place where work is done, whichever runner dispatched it.

pack ──► tasks that an earlier attempt finished ──► their reports
     ──► the others, by groups ──► their work carries them out ──► answers
                                            └── raised: in halves or one by one, until the bad task is alone
"""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distens.credentials import redact
from distens.errors import ConfigError, DataError, Diverged, Refused, StorageError, StorageFailed, report_damage
from distens.records import Answer, Failure, ObjectHandle, Pack, Reason, Report, Task, TaskOutcome
from distens.runtime.protocol import RunContext
from distens.storage.encoding import report_from_json
from distens.storage.store import Store
from distens.training.autologging import without_autologging


def execute(
    pack: Pack, shared: RunContext, threads: int, fetch: Callable[[ObjectHandle], Any] = lambda held: held.reference
) -> list[Answer]:
    """Carry out the tasks of a pack, and return an answer for each, in the pack's order.

    A task that an earlier attempt finished, but could not report, is not done again.

    Args:
        threads: the number of CPU threads that the pack may use.
        fetch: returns the value that a runner holds.
    """
    from threadpoolctl import threadpool_limits

    again = (task for task in pack if task.attempt > 1)
    found: dict[str, Answer] = {report.task_id: report for report in finished_before(again, shared.store)}
    context = ActorContext(shared, threads, fetch)
    groups: dict[Hashable, list[Task]] = {}
    for task in pack:
        if task.id not in found:
            groups.setdefault(task.work.group(task, context), []).append(task)
    with (
        without_autologging(),
        threadpool_limits(limits=threads),
    ):  # once for each pack: it inspects every library that is loaded
        for tasks in groups.values():
            for answer in _carry_out(tasks, context):
                found[answer.task_id] = answer
    return [found[task.id] for task in pack]


@dataclass(frozen=True)
class ActorContext:
    """The surroundings of work in this process (see `distens.runtime.protocol.WorkContext`)."""

    shared: RunContext
    threads: int
    fetch: Callable[[ObjectHandle], Any] = lambda held: held.reference

    def given(self, task: Task, name: str) -> Any:
        """Return the value that the runner holds for a task under a name."""
        return self.fetch(task.given[name])

    def device(self, task: Task) -> str:
        """Return the torch device for a task's arrays: `cpu` or `cuda`."""
        # The processes of a group choose their devices themselves.
        return "cpu" if task.resources.processes > 1 else _device(task.resources.gpus)

    def guarded(self, task: Task, carry_out: Callable[[], Report]) -> TaskOutcome:
        """Return the report that `carry_out` makes, or a failure if it raises."""
        started = time.perf_counter()
        try:
            return carry_out()
        except Exception as error:
            return _failed(task, error, time.perf_counter() - started)

    def failure(self, task: Task, error: Exception, seconds: float) -> Failure:
        """Return the failure of a task that raised an error after some seconds."""
        return _failed(task, error, seconds)


def finished_before(pack: Iterable[Task], store: Store) -> Iterator[Report]:
    """Yield the reports of the tasks that an earlier or a lost attempt finished."""
    for task in pack:
        for attempt in store.names(f"members/{task.id}"):
            name = f"members/{task.id}/{attempt}/report.json"
            if attempt.isdigit():
                try:
                    with report_damage(name):
                        report = report_from_json(store.read_json(name))
                except StorageError:  # missing or damaged
                    continue
                if all(map(store.has_file, report.addresses())):
                    yield report
                    break


def _carry_out(tasks: Sequence[Task], context: ActorContext) -> Iterator[Answer]:
    left, started, work = {task.id: task for task in tasks}, time.perf_counter(), tasks[0].work
    try:
        for answer in work.carry_out(tasks, context):
            del left[answer.task_id]
            yield answer
        return
    except Exception as error:  # any error of one task: below, the others finish and the bad task is isolated
        if len(tasks) == 1 or not work.divisible:
            seconds = time.perf_counter() - started
            yield from [_failed(task, error, seconds) for task in left.values()]
            return
        if isinstance(error, StorageFailed):
            raise
        broken = _reason(error)  # not the error itself, which would hold on to the pack's memory
    rest = list(left.values())
    halves = [rest[: len(rest) // 2], rest[len(rest) // 2 :]]
    for part in halves if broken == "out_of_memory" else [[task] for task in rest]:
        if part:
            yield from _carry_out(part, context)


def _failed(task: Task, error: Exception, seconds: float) -> Failure:
    if isinstance(error, StorageFailed):  # no task is at fault, and the next would fail too
        raise error
    reason: Reason
    if isinstance(error, Diverged):
        reason, message = "diverged", str(error)
    elif isinstance(error, Refused | ConfigError | DataError):
        reason, message = "refused", str(error)
    else:
        reason, message = _reason(error), _last_lines(error)
    return Failure(task.id, task.attempt, reason, redact(message), seconds, platform.node())


def _reason(error: Exception) -> Reason:
    # torch's own error types exist only where it is loaded; its texts, for GPU and CPU, are the same in all versions.
    said = any(words in str(error) for words in ("out of memory", "can't allocate memory"))
    return "out_of_memory" if isinstance(error, MemoryError) or said else "crashed"


def _last_lines(error: Exception, count: int = 6) -> str:
    return "".join(traceback.format_exception(error)[-count:]).strip()


def _device(gpus: float) -> str:
    if not gpus:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise Refused(f"{gpus:g} GPUs were reserved, but torch sees none on {platform.node()}")
    return "cuda"
