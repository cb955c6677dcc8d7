"""Proposals: the packs of tasks that a run trains next, as schedule and search decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from distens import packing, registry, seeding
from distens.lifecycle._history_views import KeysSnapshot
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.packs import of_one_size, pack_tasks
from distens.packing import Planner
from distens.records import WAIT, Finished, Floats, History, Pack, Resources, Settings, Task, settings_key
from distens.roles.ensemble.goal import Goal
from distens.roles.ensemble.plan import EnsemblePlan
from distens.roles.ensemble.purpose import EnsemblePurpose
from distens.schedule.protocol import Promotion, Start, trains_in_rungs
from distens.search._coverage import cover_families, find_untried
from distens.search.protocol import IgnoresOutcomes
from distens.storage.store import Store
from distens.targets.protocol import Target, Targets

UNLIMITED_MEMBERS = 1_000_000
"""The number of members to start where only time sets a limit."""

LOOKAHEAD_FACTOR = 8
"""The members of a pack of a blind search are looked for among LOOKAHEAD_FACTOR times as many numbers."""


@dataclass
class _Drawn:
    """The settings that a blind search has drawn for one bracket's members, by number.

    Attributes:
        settings: those of each member.
        packs: the key that members of one pack share (see `distens.packing.make_pack_key`), for each member.
        known: `settings_key` -> its place in order of drawing.
        first: the least number of a member that was not dispatched.
        tried: family -> the number of its members.
        covered: the number of members until every family has one; None: not drawn yet, or no rule asks for it.
    """

    settings: list[Settings] = field(default_factory=list)
    packs: list[str | None] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)
    first: int = 0
    tried: Counter[str] = field(default_factory=Counter)
    covered: int | None = None


@dataclass(frozen=True)
class Proposals:
    """A maker of tasks: it turns the ledger's history into the packs that come next.

    Attributes:
        plan: the plan, whose schedule and search decide.
        store: the run's folder, where predictions lie.
        ledger: the tasks that were dispatched, and their outcomes.
        planner: decides how many tasks go together.
        targets_N: the targets of the *search* split.
        target: the kind of the targets.
        say: called once for each family with the reason why its members are packed as they are.
    """

    plan: EnsemblePlan
    store: Store
    ledger: Ledger
    planner: Planner
    targets_N: Targets
    target: Target
    say: Callable[[str], None]
    _drawn: dict[str, _Drawn] = field(default_factory=dict, repr=False)

    def search(self) -> Iterator[Sequence[Pack]]:
        """Yield lists of packs that can be dispatched at once, empty while schedule and search wait for pending tasks.

        The tasks that were pending when the driver died come first. If the ensemble so far comes to `search.stop_at`,
        that is journalled: nothing more is started then, whatever members that are in training find.
        """
        occupied = self.plan.occupied  # a run may resume with other resources
        pending = [
            replace(task, resources=occupied(task.settings)) for task in self.ledger.pending(EnsemblePurpose.SEARCH)
        ]
        yield from self.packs(pending)
        goal, seconds = self._goal(), self.plan.config.search.seconds
        # As journalled: a resume decides the same.
        while self.ledger.ended is None and (seconds is None or self.ledger.elapsed < seconds):
            history = self.history()
            decision = self.plan.next(history)
            if goal is not None and (decision.promote or decision.start) and (why := goal.reached(history)):
                self.ledger.end(why)
                self.say(f"ends {why}")
            elif decision.promote:  # one pack, then a new decision: more may have come back by then
                yield next(self.packs([self._promoted(promotion) for promotion in decision.promote]))
            elif decision.start and registry.has_capability(self.plan.search, IgnoresOutcomes):
                yield [self._next_drawn(decision.start)]
            elif decision.start:
                yield self._started(decision.start)
            elif self.ledger.pending(EnsemblePurpose.SEARCH):
                yield WAIT
            else:
                return

    def _goal(self) -> Goal | None:
        for measure, threshold in (self.plan.config.search.stop_at or {}).items():
            return Goal(measure, threshold, self.plan.selector, self.target)
        return None

    def packs(self, tasks: Sequence[Task]) -> Iterator[Sequence[Pack]]:
        """Yield packs of tasks that are all known already (see `packs`), each to be dispatched by itself."""
        return ([pack] for pack in pack_tasks(tasks, self.planner, self._size))

    def history(self, also: Sequence[Task] = (), bracket: str = "") -> History:
        """Return the history that schedule and search may know (see `Ledger.history`)."""
        return self.ledger.history(
            EnsemblePurpose.SEARCH,
            self.plan.metric,
            self.targets_N,
            self._predictions,
            also,
            bracket,
            self.target,
        )

    def _promoted(self, promotion: Promotion) -> Task:
        task, budget = promotion.entry.task, promotion.budget
        resources = self.plan.occupied(task.settings)
        return replace(task, id=f"{task.member}-{budget}", budget=budget, attempt=1, resources=resources)

    def _started(self, start: Start) -> list[Pack]:
        """Return packs of new members for all slots that are free now.

        One call of the search proposes the first members of all packs, freely. It then proposes more for each pack that
        can be trained with its first, as many as pay off. The random generators depend on the number of members before
        in the bracket.
        """
        search, space, seed = self.plan.search, self.plan.space, self.plan.config.seed
        number, left = (
            self.ledger.started(EnsemblePurpose.SEARCH, start.bracket),
            UNLIMITED_MEMBERS if start.left is None else start.left,
        )
        history = self.history(bracket=start.bracket)

        def chance(*more: str) -> np.random.Generator:
            return seeding.generator(seed, "search", *filter(None, [start.bracket]), number, *more)

        tried = Counter(self.ledger.tried(EnsemblePurpose.SEARCH))
        firsts = search.propose(history, space, min(self.plan.runner.free(), left), chance())
        firsts = self._cover(firsts, tried, lambda: chance("untried"))
        asked = [self._task(number, settings, start) for settings in firsts]  # their numbers do not matter here
        started: list[Pack] = []
        added: list[Task] = []
        for first in firsts:
            if not left:
                break
            pack = [self._task(number, first, start)]
            tried[first["family"]] += 1
            alike = packing.make_pack_key(first) is not None
            if (count := min(self._size(first, left, history.finished), self._room(first, tried, alike))) > 1:
                known = self.history(also=[*asked, *added], bracket=start.bracket)
                like = space.narrowed(first, packing.varying_settings(first)) if alike else space
                more = search.propose(known, like, count - 1, chance("pack"))
                tried.update(settings["family"] for settings in more)
                pack += [self._task(number + i, settings, start) for i, settings in enumerate(more, 1)]
                added += pack[1:]
            started += of_one_size(pack)
            number, left = number + len(pack), left - len(pack)
        return started

    def _cover(
        self, proposed: Sequence[Settings], tried: Mapping[str, int], chance: Callable[[], np.random.Generator]
    ) -> Sequence[Settings]:
        if not self._untried(tried):
            return proposed
        before = self.plan.config.search.all_families_before
        return cover_families(proposed, self.plan.space, list(self.plan.config.members), tried, before, chance)

    def _untried(self, tried: Mapping[str, int]) -> list[str]:
        """Return the families that a rule wants to be tried before others are tried again.

        Args:
            tried: family -> the number of its members.
        """
        return find_untried(self.plan.config.members, tried) if self.plan.config.search.all_families_before else []

    def _room(self, first: Settings, tried: Mapping[str, int], alike: bool) -> int:
        """Return the largest size of a pack, its first member included, that leaves room for untried families.

        Args:
            tried: family -> the number of its members, the pack's first included.
            alike: True if all members of the pack are of one family.
        """
        if not self._untried(tried):
            return UNLIMITED_MEMBERS
        return max(1, self.plan.config.search.all_families_before - tried[first["family"]]) if alike else 1

    def _next_drawn(self, start: Start) -> list[Task]:
        """Return tasks for the next member of a blind search, and for members soon after it that fit in its pack."""
        drawn = self._drawn.setdefault(start.bracket, _Drawn())
        end = (
            UNLIMITED_MEMBERS
            if start.left is None
            else start.left + self.ledger.started(EnsemblePurpose.SEARCH, start.bracket)
        )

        def dispatched(number: int) -> bool:
            return self.ledger.asked(_named(number, self._draw(drawn, number, start), start)[1])

        while dispatched(drawn.first):
            drawn.first += 1
        first = drawn.first
        size = self._size(
            self._draw(drawn, first, start), end - first, self.ledger.finished(EnsemblePurpose.SEARCH), blind=True
        )
        needs, numbers = self.plan.occupied(drawn.settings[first]), [first]
        for number in range(first + 1, min(end, first + LOOKAHEAD_FACTOR * size)):
            if len(numbers) == size:
                break
            if dispatched(number) or drawn.packs[number] != drawn.packs[first]:
                continue
            if drawn.covered is not None and first + 1 < drawn.covered <= number:
                break  # the members before `covered` go first
            if self.plan.occupied(drawn.settings[number]) == needs:
                numbers.append(number)
        return [self._task(number, drawn.settings[number], start, needs) for number in numbers]

    def _draw(self, drawn: _Drawn, number: int, start: Start) -> Settings:
        while len(drawn.settings) <= number:
            names = ("search", *filter(None, [start.bracket]), len(drawn.settings))
            rng = seeding.generator(self.plan.config.seed, *names)
            history = History(metric=self.plan.metric, target=self.target, keys=KeysSnapshot(drawn.known))
            proposed = self.plan.search.propose(history, self.plan.space, 1, rng)
            untried = partial(seeding.generator, self.plan.config.seed, *names, "untried")
            (settings,) = self._cover(proposed, drawn.tried, untried)
            drawn.settings.append(settings)
            drawn.packs.append(packing.make_pack_key(settings))
            drawn.known.setdefault(settings_key(settings), len(drawn.known))
            left = self._untried(drawn.tried)
            drawn.tried[settings["family"]] += 1
            if left and not self._untried(drawn.tried):
                drawn.covered = len(drawn.settings)
        return drawn.settings[number]

    def _task(self, number: int, settings: Settings, start: Start, needs: Resources | None = None) -> Task:
        """Return the task of a new member, which occupies `needs`; None: they are looked up."""
        member, name, budget = _named(number, settings, start)
        seed = seeding.derive(self.plan.config.seed, "member", member)
        needs, bracket = needs or self.plan.occupied(settings), start.bracket
        return Task(
            name, EnsemblePurpose.SEARCH, settings, seed, needs, self.plan.work, member, budget=budget, bracket=bracket
        )

    def _size(
        self, settings: Settings, left: int, finished: Sequence[Finished] | None = None, blind: bool = False
    ) -> int:
        before = dict(self.planner.reasons)
        size = self.planner.size(settings, left, finished, blind)
        for family, reason in self.planner.reasons.items():
            if family not in before:
                self.say(f"{family}: {reason}")
        return size

    def _predictions(self, task_id: str) -> Floats:
        return self.store.read_predictions(self.ledger.report(task_id).files["search"])


def _named(number: int, settings: Settings, start: Start) -> tuple[str, str, int | None]:
    """Return a new member's name, its task's name, and the epochs of its first rung (None: it is trained in one go)."""
    member = f"{start.bracket}m{number:04d}"
    budget = start.budget if start.budget and trains_in_rungs(settings) else None
    return member, member if budget is None else f"{member}-{budget}", budget
