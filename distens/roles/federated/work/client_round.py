"""Train clients for one round, from the server's weights; their updates go back in memory."""

from __future__ import annotations

import platform
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from distens.errors import Diverged
from distens.members.client import histogram
from distens.merge.protocol import ClientUpdate, Correction
from distens.records import Answer, Task, settings_key
from distens.roles.federated.work._server import clients_of, kept_pattern
from distens.runtime.protocol import WorkContext

if TYPE_CHECKING:
    from distens.training.local import Shard


@dataclass(frozen=True)
class ClientRound:
    """The work of training a client in one round (see `distens.runtime.protocol.Work`).

    The task is given `start`, the server's weights_P, a `correction` if the rule has one, and `own`, if something of
    the client's weights stays with it. The answer is an `ClientUpdate`.

    Attributes:
        client: the client whose rows are learned from.
        round: from 0.
    """

    client: str
    round: int

    packable: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    limit_option: ClassVar[str] = "federated.deadline_seconds"

    def group(self, task: Task, context: WorkContext) -> Hashable:
        """Return a key that clients share if they have the same settings and the same round."""
        return settings_key(task.settings), self.round

    def plugins(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return family and spec of every plug-in that the work names: none."""
        return ()

    def carry_out(self, tasks: Sequence[Task], context: WorkContext) -> Iterator[Answer]:
        """Yield the clients' updates, and a failure for each client without one."""
        ready: list[tuple[Task, Shard]] = []
        started = time.perf_counter()
        for task in tasks:
            try:
                ready.append((task, _shard(task, context)))
            except Exception as error:  # a client's rows may be anything; the other clients still train
                yield context.failure(task, error, time.perf_counter() - started)
        if not ready:
            return
        member, start_P = kept_pattern(ready[0][0], context.shared), context.given(ready[0][0], "start")
        device = context.device(ready[0][0])
        for place, found in member.train(start_P, [shard for _, shard in ready], self.round, device):
            task, shard = ready[place]
            if isinstance(found, Diverged):
                yield context.failure(task, found, time.perf_counter() - started)
                continue
            yield ClientUpdate(
                task_id=task.id,
                attempt=task.attempt,
                client=task.work.client,
                weights_P=found.weights_P,
                rows=len(shard.examples.inputs),
                steps=found.steps,
                rate_sum=found.rate_sum,
                histogram_C=histogram(shard.examples),
                loss=found.loss,
                seconds=found.seconds,
                node=platform.node(),
            )


def _shard(task: Task, context: WorkContext) -> Shard:
    from distens.training.local import Shard

    correction = context.given(task, "correction") if "correction" in task.given else Correction()
    examples = clients_of(context).examples(task.work.client, context.shared.dataset)
    own = context.given(task, "own") if "own" in task.given else None
    return Shard(task.work.client, examples, task.seed, correction, own)
