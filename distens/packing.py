"""Packs: which tasks are sent to one actor together, and how many. Members of one architecture train as one program.

Members of a kind that supports it (see `distens.members.protocol.Packable`) share a pack if all their settings are
equal, except those that the kind lists as `varying_settings`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

from distens import registry
from distens.members.protocol import Packable, Stackable
from distens.records import Finished, Settings, settings_key

PackSize = Annotated[int, Ge(1)] | Literal["auto"]
"""The number of tasks sent to an actor at a time; `auto`: a `Planner` chooses it."""

FINISHED_PER_TASK = 8
"""A pack of the search has at most one task for each FINISHED_PER_TASK finished tasks: its members have one
architecture, so large packs early on would leave the other architectures untried."""

WORK_PER_DISPATCH = 100
"""Tasks that take less than this many times their dispatch are dispatched several at a time."""

MAX_TASKS_PER_PACK = 64
"""The largest number of short tasks dispatched together if they are not trained as one program."""

RECENT_TASKS = 20
"""The number of last finished tasks whose mean time is used; before, tasks are dispatched one by one."""


def varying_settings(settings: Settings) -> tuple[str, ...]:
    """Return the dotted names of settings in which members of one pack may differ; none for a kind without packs."""
    cls = registry.find_plugin("members", settings["kind"], "members")
    return tuple(cls.varies_in_pack) if registry.has_capability(cls, Packable) else ()


def make_pack_key(settings: Settings) -> str | None:
    """Return the key that members of one pack share; None for a kind that trains one member at a time."""
    return settings_key(_without(settings, varying_settings(settings))) if varying_settings(settings) else None


def make_stack_key(settings: Settings) -> str | None:
    """Return the key that members stacked for prediction share; None for a kind that predicts one member at a time."""
    cls = registry.find_plugin("members", settings["kind"], "members")
    if not registry.has_capability(cls, Stackable):
        return None
    shared = _without(settings, varying_settings(settings))
    return settings_key({name: shared.get(name) for name in ("kind", *cls.shared_when_stacked)})


def _without(settings: Settings, names: Sequence[str]) -> dict[str, Any]:
    shared: dict[str, Any] = copy.deepcopy(dict(settings))
    for name in names:
        *parents, last = name.split(".")
        place: Any = shared
        for step in parents:
            place = place.get(step) if isinstance(place, Mapping) else None
        if isinstance(place, dict):
            place.pop(last, None)
    return shared


@dataclass
class Planner:
    """A rule for the number of tasks that are sent to an actor together; it also keeps the reasons.

    Attributes:
        pack: the pack size that the user set, or `auto`.
        slots: returns the number of packs that can run at a time.
        dispatch_seconds: the time that dispatching one pack costs.
        on_gpu: returns True if a member with given settings is trained on a GPU.
        input_shape, classes: of the data.
        folds: the number of models that a member is (see `distens.data.folds`).
        reasons: family -> a sentence that gives the number of members that train as one program, and the reason.
    """

    pack: PackSize
    slots: Callable[[], int]
    dispatch_seconds: float
    on_gpu: Callable[[Settings], bool]
    input_shape: tuple[int, ...]
    classes: int
    folds: int = 1
    reasons: dict[str, str] = field(default_factory=dict)
    _advice: dict[str, tuple[int, str]] = field(default_factory=dict, repr=False)

    def size(
        self, settings: Settings, left: int, finished: Sequence[Finished] | None = None, blind: bool = False
    ) -> int:
        """Return the size of the pack in which to send a task with these settings, that task included.

        Args:
            left: the number of tasks still to be sent, at least 1.
            finished: the tasks that a search learns from; None: all tasks are given in advance, so that their packs
                need not stay small until there are results.
            blind: True if the search makes no use of `finished`.
        """
        if self.pack == 1:
            return 1
        shared, family = make_pack_key(settings), str(settings.get("family", settings["kind"]))
        size, reason = self._advised(shared, settings) if shared is not None else (1, "trained one at a time")
        alone = size == 1 and shared is not None
        if alone:
            self.reasons[family] = f"one at a time: {reason}"
        if self.pack != "auto":
            return max(1, min(self.pack, left))
        if size > 1:
            if finished is not None and not blind:
                size = min(size, max(1, len(finished) // FINISHED_PER_TASK))
        elif finished is not None:
            size = self._count_short_tasks(finished)
        size = max(1, min(size, math.ceil(left / self.slots())))
        if size > 1 and not alone:
            self.reasons[family] = f"{size} at a time: {reason}"
        return size

    def _advised(self, shared: str, settings: Settings) -> tuple[int, str]:
        if shared not in self._advice:
            try:
                member = registry.build_member(settings)
                size, reason = member.pack_advice(self.input_shape, self.classes, self.on_gpu(settings))
                self._advice[shared] = math.ceil(size / self.folds), reason
            except Exception as error:  # any error of a member's own code: it is reported where the member is trained
                self._advice[shared] = (1, str(error))
        return self._advice[shared]

    def _count_short_tasks(self, finished: Sequence[Finished]) -> int:
        """Return the number of short tasks to send together, so that dispatch takes a small part of their time."""
        recent = finished[-RECENT_TASKS:]
        if not self.dispatch_seconds or len(recent) < RECENT_TASKS:
            return 1
        seconds = sum(entry.report.seconds for entry in recent) / len(recent)
        return min(MAX_TASKS_PER_PACK, int(WORK_PER_DISPATCH * self.dispatch_seconds / max(seconds, 1e-3)))
