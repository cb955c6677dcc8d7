"""Packs of tasks that are all known already: the tasks that go to an actor together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from distens import packing
from distens.packing import Planner
from distens.records import Pack, Resources, Settings, Task


def of_one_size(tasks: Sequence[Task]) -> list[Pack]:
    """Divide tasks that would go together into packs that occupy the same resources, in order of their first tasks."""
    groups: dict[Resources, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.resources, []).append(task)
    return list(groups.values())


def pack_tasks(
    tasks: Sequence[Task], planner: Planner, size: Callable[[Settings, int], int] | None = None
) -> Iterator[Pack]:
    """Yield packs of tasks that can be trained together and occupy the same resources, in order of their first tasks.

    Args:
        size: returns the number of tasks of a pack, from their settings and the number of tasks left; None:
            `planner.size`.
    """
    groups: dict[tuple[str, Resources], list[Task]] = {}
    for task in tasks:
        shared = packing.make_pack_key(task.settings) if task.work.packable else None
        groups.setdefault((shared or task.id, task.resources), []).append(task)
    for group in groups.values():
        most = (size or planner.size)(group[0].settings, len(group))
        for start in range(0, len(group), most):
            yield group[start : start + most]
