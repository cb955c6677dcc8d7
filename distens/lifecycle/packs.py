"""Tasks in packs: which of those that are there already go to an actor together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from distens import packing
from distens.packing import Planner
from distens.records import Pack, Resources, Settings, Task


def of_one_size(tasks: Sequence[Task]) -> list[Pack]:
    """Return tasks that would go together in packs of those that occupy the same, in order of the first."""
    groups: dict[Resources, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.resources, []).append(task)
    return list(groups.values())


def packs(
    tasks: Sequence[Task], planner: Planner, size: Callable[[Settings, int], int] | None = None
) -> Iterator[Pack]:
    """Yield tasks that are there already in packs: those that can be trained together, and occupy the same,
    in order of the first.

    Args:
        size: says how many go together; `planner.size` without.
    """
    groups: dict[tuple[str, Resources], list[Task]] = {}
    for task in tasks:
        shared = packing.key(task.settings) if task.work.packable else None
        groups.setdefault((shared or task.id, task.resources), []).append(task)
    for group in groups.values():
        most = (size or planner.size)(group[0].settings, len(group))
        for start in range(0, len(group), most):
            yield group[start : start + most]
