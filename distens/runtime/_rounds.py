"""Carry out a pack of a federation's round: clients' local training, from one start, and what the server asks for.

pack ──► weigh up a start on the server's rows ──► its scores
     ──► clients of one kind and start ──► trained together ──► an update each, in memory; or why there is none
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distens import probabilities, registry
from distens.distill.protocol import Server
from distens.errors import Diverged
from distens.members.client import histogram
from distens.records import Answer, Correction, Failure, Held, Integers, Refined, Scored, Task, Update, settings_key
from distens.runtime.protocol import Shared
from distens.training.work import Work

if TYPE_CHECKING:
    from distens.members.client import Client
    from distens.training.local import Shard

Fetch = Callable[[Held], Any]
Failed = Callable[[Task, Exception, float], Failure]

EVALUATE, REFINE = "evaluate", "refine"

_PATTERNS: dict[Any, Client] = {}


def carry_out(
    tasks: Sequence[Task],
    shared: Shared,
    device: str,
    fetch: Fetch,
    failed: Callable[[Task, Exception, float], Failure],
) -> Iterator[Answer]:
    """Yield the outcomes of tasks that belong to a round.

    Args:
        failed: turns what a task raised, after so many seconds, into a failure.
    """
    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        key = task.id if not task.client else (settings_key(task.settings), task.round)
        groups.setdefault(key, []).append(task)
    for group in groups.values():
        if group[0].purpose == EVALUATE:
            yield _score(group[0], shared, fetch)
        elif group[0].purpose == REFINE:
            yield _refine(group[0], shared, device, fetch)
        else:
            yield from _train(group, shared, device, fetch, failed)


def pattern(task: Task, shared: Shared) -> Client:
    """Return an untrained client of a task's settings."""
    member = registry.build_member(task.settings, task.id)
    dataset = shared.dataset
    member.begin(dataset.inputs["search"].shape[1:], len(dataset.classes), 0)
    return member


def _kept(task: Task, shared: Shared) -> Client:
    """Return the client that `pattern` returned to this process before: each use writes over what it learned, and to
    make one takes longer than to fill it."""
    dataset = shared.dataset
    key = (settings_key(task.settings), dataset.inputs["test"].shape[1:], len(dataset.classes))
    if key not in _PATTERNS:
        _PATTERNS.clear()
        _PATTERNS[key] = pattern(task, shared)
    return _PATTERNS[key]


def _score(task: Task, shared: Shared, fetch: Fetch) -> Scored:
    member, dataset = _kept(task, shared), shared.dataset
    member.become(fetch(task.given["start"]))
    probs_NC = member.predict(dataset.inputs["search"])
    return Scored(task.id, task.attempt, probabilities.metrics(probs_NC, dataset.labels["search"]))


def _refine(task: Task, shared: Shared, device: str, fetch: Fetch) -> Refined:
    """Return the weights that the server's distiller makes of what was merged, and of those that it was merged from."""
    start = time.perf_counter()
    member = pattern(task, shared)
    member.become(fetch(task.given["start"]))
    teachers = [pattern(task, shared) for _ in fetch(task.given["teachers"])]
    for teacher, weights_P in zip(teachers, fetch(task.given["teachers"]), strict=True):
        teacher.become(weights_P)
    distiller = registry.build("distill", task.distill, "distill")
    assert task.round is not None
    server = knowledge(shared, fetch(task.given["counts"]))
    work, memory = Work(task.seed, device=device), fetch(task.given["memory"])
    metrics, memory = distiller.refine(member, teachers, server, work, task.round, memory)
    seconds = time.perf_counter() - start
    return Refined(task.id, task.attempt, member.weights(), metrics, memory, seconds, platform.node())


def knowledge(shared: Shared, counts_MC: Integers) -> Server:
    """Return what the server knows (see `Server`)."""
    dataset = shared.dataset
    labelled = dataset.examples("search") if len(dataset.labels["search"]) else None
    return Server(dataset.inputs["test"].shape[1:], len(dataset.classes), *dataset.bounds, labelled, counts_MC)


def _train(
    tasks: Sequence[Task],
    shared: Shared,
    device: str,
    fetch: Fetch,
    failed: Callable[[Task, Exception, float], Failure],
) -> Iterator[Answer]:
    ready: list[tuple[Task, Shard]] = []
    started = time.perf_counter()
    for task in tasks:
        try:
            ready.append((task, _shard(task, shared, fetch)))
        except Exception as error:  # one client's rows may be anything; the others go on
            yield failed(task, error, time.perf_counter() - started)
    left = {task.id: (task, shard) for task, shard in ready}
    try:
        for task, outcome in _learn(ready, shared, device, fetch, failed):
            del left[task.id]
            yield outcome
    except Exception as error:  # whatever one client does: alone, the others finish and it is found
        for task, shard in list(left.values()):
            if len(ready) == 1:
                yield failed(task, error, time.perf_counter() - started)
                continue
            try:
                yield from (outcome for _, outcome in _learn([(task, shard)], shared, device, fetch, failed))
            except Exception as its_own:
                yield failed(task, its_own, time.perf_counter() - started)


def _learn(
    ready: Sequence[tuple[Task, Shard]], shared: Shared, device: str, fetch: Fetch, failed: Failed
) -> Iterator[tuple[Task, Answer]]:
    if not ready:
        return
    started = time.perf_counter()
    start_P, round_ = fetch(ready[0][0].given["start"]), ready[0][0].round
    assert round_ is not None
    member = _kept(ready[0][0], shared)
    for place, found in member.train(start_P, [shard for _, shard in ready], round_, device):
        task, shard = ready[place]
        if isinstance(found, Diverged):
            yield task, failed(task, found, time.perf_counter() - started)
            continue
        update = Update(
            task_id=task.id,
            attempt=task.attempt,
            client=task.client,
            weights_P=found.weights_P,
            rows=len(shard.examples.inputs),
            steps=found.steps,
            rate_sum=found.rate_sum,
            histogram_C=histogram(shard.examples),
            loss=found.loss,
            seconds=found.seconds,
            node=platform.node(),
        )
        yield task, update


def _shard(task: Task, shared: Shared, fetch: Fetch) -> Shard:
    from distens.training.local import Shard

    assert shared.clients is not None, "a round has clients"
    held = task.given.get("correction")
    correction = Correction() if held is None else fetch(held)
    return Shard(task.client, shared.clients.examples(task.client, shared.dataset), task.seed, correction)
