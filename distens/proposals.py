"""What a run trains next: packs of tasks, as schedule and search want them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from distens import packing, seeding
from distens.ledger import Ledger
from distens.packing import Planner
from distens.plan import Plan
from distens.records import Finished, Floats, History, Integers, Settings, Task
from distens.schedule.protocol import Promotion, Start, in_parts
from distens.store import Store

MANY = 1_000_000
"""Members to be started, where only time sets a limit."""


@dataclass(frozen=True)
class Proposals:
    """Turns what is known into tasks; the ledger is what it knows.

    Attributes:
        plan: who decides.
        store: where predictions lie.
        ledger: what was asked for and what came back.
        planner: says how many tasks go together.
        labels_N: of the *search* split.
        say: is told once why members of a family are packed as they are.
    """

    plan: Plan
    store: Store
    ledger: Ledger
    planner: Planner
    labels_N: Integers
    say: Callable[[str], None]

    def search(self) -> Iterator[Sequence[Task]]:
        """Yield packs: first what was pending when the driver died, then what schedule and search want, an empty one
        where they wait for what is pending."""
        yield from self.packs(self.ledger.pending("search"))
        seconds = self.plan.config.search.seconds
        while seconds is None or self.ledger.elapsed < seconds:  # as journalled: a resume decides the same
            decision = self.plan.next(self.history())
            if decision.promote:  # one pack, then it is asked again: more may have come back by then
                yield next(self.packs([self._promoted(promotion) for promotion in decision.promote]))
            elif decision.start:
                yield self._started(decision.start)
            elif self.ledger.pending("search"):
                yield []
            else:
                return

    def packs(self, tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
        """Yield tasks that are there already in packs: those that can be trained together, in order of the first."""
        groups: dict[str, list[Task]] = {}
        for task in tasks:
            shared = packing.key(task.settings) if task.distill is None else None
            groups.setdefault(shared or task.id, []).append(task)
        for group in groups.values():
            size = self._size(group[0].settings, len(group))
            for start in range(0, len(group), size):
                yield group[start : start + size]

    def history(self, also: Sequence[Task] = (), bracket: str = "") -> History:
        """Return what schedule and search may know (see `Ledger.history`)."""
        return self.ledger.history("search", self.plan.config.metric, self.labels_N, self._predictions, also, bracket)

    def _promoted(self, promotion: Promotion) -> Task:
        task, budget = promotion.entry.task, promotion.budget
        resources = self.plan.runner.resources
        return replace(task, id=f"{task.member}-{budget}", budget=budget, attempt=1, resources=resources)

    def _started(self, start: Start) -> list[Task]:
        """Return the next pack of new members: one as search likes it best, then more that go with it, as many as pay
        off. Chance depends on how many came before in their bracket."""
        search, space, seed = self.plan.search, self.plan.space, self.plan.config.seed
        number = self.ledger.started("search", start.bracket)
        names = ("search", *filter(None, [start.bracket]), number)
        history = self.history(bracket=start.bracket)
        first = search.propose(history, space, 1, seeding.generator(seed, *names))[0]
        tasks = [self._task(number, first, start)]
        count = self._size(first, MANY if start.left is None else start.left, history.finished)
        if count > 1:
            if packing.key(first) is not None:
                space = space.narrowed(first, packing.free(first))
            history = self.history(also=tasks, bracket=start.bracket)
            more = search.propose(history, space, count - 1, seeding.generator(seed, *names, "pack"))
            tasks += [self._task(number + i, settings, start) for i, settings in enumerate(more, 1)]
        return tasks

    def _task(self, number: int, settings: Settings, start: Start) -> Task:
        member = f"{start.bracket}m{number:04d}"
        seed = seeding.derive(self.plan.config.seed, "member", member)
        budget = start.budget if start.budget and in_parts(settings) else None
        name = member if budget is None else f"{member}-{budget}"
        return Task(name, "search", settings, seed, self.plan.runner.resources, budget=budget, bracket=start.bracket)

    def _size(self, settings: Settings, left: int, finished: Sequence[Finished] | None = None) -> int:
        before = dict(self.planner.reasons)
        size = self.planner.size(settings, left, finished)
        for family, reason in self.planner.reasons.items():
            if family not in before:
                self.say(f"{family}: {reason}")
        return size

    def _predictions(self, task_id: str) -> Floats:
        return self.store.read_predictions(self.ledger.report(task_id).files["search"])
