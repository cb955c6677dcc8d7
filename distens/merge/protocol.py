"""Many clients' weights into one: what a server does at the end of a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from distens.records import Floats, Record


@dataclass(frozen=True)
class Correction:
    """What a client adds to each of its gradients: pull * (weights - start) + shift."""

    pull: float = 0.0
    shift_P: Floats | None = None


@dataclass(frozen=True, slots=True)
class Update(Record):
    """What one client sends back in a round: its weights after local training, counts, and no row of its data.

    Attributes:
        client: its name.
        weights_P: float32, all numbers of its network one after the other; read-only.
        rows: how many it has.
        steps: of the optimizer that it made.
        rate_sum: the sum of their learning rates.
        histogram_C: its rows of each class.
        loss: the mean of its last local epoch.
        seconds: of local training.
        node: the host that trained it.
    """

    task_id: str
    attempt: int
    client: str
    weights_P: Floats
    rows: int
    steps: int
    rate_sum: float
    histogram_C: tuple[int, ...]
    loss: float
    seconds: float = 0.0
    node: str = ""


Memory = Mapping[str, Floats]
"""What a rule keeps from round to round: name -> numbers; what it keeps of one client is called `client/<name>`."""


@dataclass(frozen=True)
class Round:
    """A round as the server sees it, when everything that is going to come has come.

    Attributes:
        number: from 0.
        start_P: float32, the global weights that the clients began with.
        updates: those that were accepted, at least one, by client's name; no number in them is not finite.
        clients: N, how many there are in all, sampled or not.
        memory: what the rule returned after the round before; empty at first.
        taken: client -> the rounds before this one in which its update was merged, ascending.
        proxy: weights_P -> (mean cross-entropy, its gradient_P) on the server's own labelled rows; None if it has none.
    """

    number: int
    start_P: Floats
    updates: Sequence[Update]
    clients: int
    memory: Memory = field(default_factory=dict)
    taken: Mapping[str, Sequence[int]] = field(default_factory=dict)
    proxy: Callable[[Floats], tuple[float, Floats]] | None = None


@dataclass(frozen=True)
class Merged:
    """What becomes of a round.

    Attributes:
        weights_P: float32, the new global weights.
        memory: of the next round; entries that did not change may be the same arrays.
        shares_K: how much each update counted, in the order of `Round.updates`; None where numbers go one by one.
    """

    weights_P: Floats
    memory: Memory = field(default_factory=dict)
    shares_K: Floats | None = None


__all__ = ["AssumesPlainSteps", "Correction", "Corrects", "Memory", "Merged", "Merger", "NeedsProxy", "Round"]


class Merger(Protocol):
    """A frozen dataclass whose fields are its options.

    The server calls it at the end of every round, and once after a single shot:

        >>> import numpy as np
        >>> from distens import registry
        >>> from distens.merge.protocol import Update
        >>> def update(client, weight, rows):
        ...     weights_P = np.array([weight], dtype=np.float32)
        ...     return Update("r0000-" + client, 1, client, weights_P, rows, 1, 0.1, (rows,), 0.5)
        >>> merger = registry.build("merge", "fedavg", "merge")
        >>> updates = [update("c0", 1.0, 30), update("c1", 5.0, 10)]
        >>> merged = merger.merge(Round(0, np.zeros(1, dtype=np.float32), updates, clients=2))
        >>> merged.weights_P.tolist(), merged.shares_K.tolist()
        ([2.0], [0.75, 0.25])
    """

    def merge(self, round: Round) -> Merged:
        """Return the new global weights; the round's arrays are not written to.

        Raises:
            ValueError: there are too few updates for this rule; the message says how many it needs.
        """
        ...


PLUGINS = (Merger,)
"""What a user's own plug-in of this family must be: one of these."""


class Corrects(Merger, Protocol):
    """A rule that changes what clients minimise.

    The server asks for every client of a round, before it trains:

        if registry.able(merger, Corrects):
            correction = merger.correct(client, memory, start_P)
    """

    def correct(self, client: str, memory: Memory, start_P: Floats) -> Correction:
        """Return what a client's loss is changed by in this round.

        Args:
            memory: what the rule returned after the round before; empty at first.
            start_P: the global weights that the clients begin with; not written to.
        """
        ...


class NeedsProxy(Merger, Protocol):
    """A rule that cannot do without rows of the server's own, `Round.proxy`.

    The plan refuses it where `data.splits.search` is 0, and only such a rule is given the proxy:

        proxy = network.gradient if registry.able(merger, NeedsProxy) else None

    Attributes:
        needs_proxy: True.
    """

    needs_proxy: ClassVar[Literal[True]]


class AssumesPlainSteps(Merger, Protocol):
    """A rule that holds for gradient descent alone.

    The plan refuses it for clients with momentum, weight decay or another optimizer:

        if registry.able(merger, AssumesPlainSteps) and not member.plain_steps:
            raise ConfigError(...)

    Attributes:
        plain_steps: True.
    """

    plain_steps: ClassVar[Literal[True]]
