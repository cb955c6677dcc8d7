"""distens in the training benchmark: a pack in this process, and packs on warm Ray actors as in a run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from _bench_clock import Clock
from _bench_tasks import Job, Problem

from distens import registry
from distens.errors import Diverged
from distens.lifecycle.work.train import Train
from distens.members.protocol import Packable
from distens.records import Report, Task
from distens.runtime.protocol import RunContext
from distens.storage.store import Store
from distens.training.context import Context


def packed(job: Job, clock: Clock) -> list[float]:
    """Train all members as one program, in this process."""
    problem, examples = job.problem, job.problem.examples()
    clock.start()
    members: list[Packable] = [registry.build_member(job.settings(rate)) for rate in job.rates_M]
    contexts = [Context(seed, device=job.device) for seed in job.seeds_M]
    for _, found in type(members[0]).fit_pack(members, examples, contexts):
        if isinstance(found, Diverged):
            raise found
    clock.stop()
    guesses_MN = [member.predict(problem.held_inputs).argmax(1) for member in members]
    return [float((guesses_N == problem.held_labels_N).mean()) for guesses_N in guesses_MN]


class Pool:
    """A run's runner with warm actors and its own store in a temporary folder, for one problem at a time."""

    def __init__(self, actors: int = 1) -> None:
        self._actors = actors
        self._problem: Problem | None = None
        self._runner: Any = None
        self._dispatched = 0

    def __call__(self, job: Job, clock: Clock) -> list[float]:
        """Train all members as one pack on one actor, which writes their states and predictions."""
        if clock.cold:
            self.close()
            clock.start()
            self._start(job)
        else:
            self._warm(job)
            clock.start()
        reports = self._run([self._pack(job)])
        clock.stop()
        splits = ("search", "combine", "test")
        probs_MNC = [np.concatenate([self._store.read_predictions(r.files[s]) for s in splits]) for r in reports]
        return [float((probs_NC.argmax(1) == job.problem.held_labels_N).mean()) for probs_NC in probs_MNC]

    def efficiency(self, job: Job, pack_size: int) -> dict[str, float]:
        """Return wall seconds for all members on all actors, and one member's training seconds.

        Returns:
            `wall`; `alone`: a member's training seconds while the other actors are idle; `busy`: while they train.
        """
        self._warm(job)
        tasks = self._pack(job)
        packs = [tasks[first : first + pack_size] for first in range(0, len(tasks), pack_size)]
        lone = [task for number in range(3) for task in self._run([self._pack(job)[:pack_size]])]
        started = time.perf_counter()
        reports = self._run(packs)
        wall = time.perf_counter() - started
        return {"wall": wall, "alone": _mean_seconds(lone), "busy": _mean_seconds(reports)}

    def close(self) -> None:
        """End the actors and remove the store."""
        if self._runner is not None:
            self._runner.stop()
            self._folder.cleanup()
        self._problem = self._runner = None

    def _warm(self, job: Job) -> None:
        if self._problem is not job.problem:
            self.close()
            self._start(job)
            self._run([self._pack(job)[:1] for _ in range(self._actors)])

    def _start(self, job: Job) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._store = Store(self._folder.name)
        self._problem = job.problem
        gpus = 1 / self._actors if job.device == "cuda" else 0
        spec = {"kind": "ray_actors", "concurrency": self._actors, "gpus_per_member": gpus}
        self._runner = registry.make_plugin("runtime", spec, "runtime")
        self._runner.start(RunContext(self._store, job.problem.dataset().for_members()))

    def _pack(self, job: Job) -> list[Task]:
        """Return tasks with new ids: a task whose result is in the store would not be carried out again."""
        self._dispatched += 1
        return [
            Task(f"r{self._dispatched}-m{m}", "search", job.settings(rate), seed, self._runner.usual, work=Train())
            for m, (rate, seed) in enumerate(zip(job.rates_M, job.seeds_M, strict=True))
        ]

    def _run(self, packs: Iterable[Sequence[Task]]) -> list[Report]:
        packs = [list(pack) for pack in packs]
        outcomes = {outcome.task_id: outcome for part in self._runner.run(iter(packs)) for outcome in part}
        found = [outcomes[task.id] for pack in packs for task in pack]
        for outcome in found:
            if not isinstance(outcome, Report):
                raise RuntimeError(f"{outcome.task_id}: {outcome.reason}: {outcome.message}")
        return found


def _mean_seconds(reports: Sequence[Report]) -> float:
    return statistics.fmean(report.seconds for report in reports)
