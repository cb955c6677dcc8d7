"""Many clients' weights into one: the server's step at the end of a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from distens.records import Floats, Record


@dataclass(frozen=True)
class Correction:
    """The term that a client adds to each of its gradients: pull * (weights - start) + shift."""

    pull: float = 0.0
    shift_P: Floats | None = None


@dataclass(frozen=True, slots=True)
class ClientUpdate(Record):
    """The update that one client sends in a round: its weights after local training, counts, and no row of its data.

    Attributes:
        client: the client's name.
        weights_P: float32, all numbers of its network one after the other; read-only.
        rows: the number of its rows.
        steps: the number of steps that its optimizer made.
        rate_sum: the sum of the learning rates of these steps.
        histogram_C: the number of its rows of each class.
        loss: the mean loss of its last local epoch; None if it was not measured.
        seconds: the seconds of local training.
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
    loss: float | None
    seconds: float = 0.0
    node: str = ""


Memory = Mapping[str, Floats]
"""The arrays that a rule keeps from round to round, by name; an array of one client is called `client/<name>`."""


@dataclass(frozen=True)
class Round:
    """A round as the server sees it, when no more updates will come.

    Attributes:
        number: the number of the round, from 0.
        start_P: float32, the global weights that the clients began with.
        updates: the accepted updates, at least one, in the order of clients' names; all numbers in them are finite.
        clients: N, the number of all clients, sampled or not.
        memory: the memory that the rule returned after the round before; empty at first.
        taken: client -> the rounds before this one in which its update was merged, ascending.
        proxy: weights_P -> (mean cross-entropy, its gradient_P) on the server's own labelled rows; None if not given.
    """

    number: int
    start_P: Floats
    updates: Sequence[ClientUpdate]
    clients: int
    memory: Memory = field(default_factory=dict)
    taken: Mapping[str, Sequence[int]] = field(default_factory=dict)
    proxy: Callable[[Floats], tuple[float, Floats]] | None = None


@dataclass(frozen=True)
class Merged:
    """The result of a round.

    Attributes:
        weights_P: float32, the new global weights.
        memory: the memory for the next round; arrays that did not change may be the same objects.
        shares_K: the weight of each update, in the order of `Round.updates`; None if a rule treats numbers one by one.
    """

    weights_P: Floats
    memory: Memory = field(default_factory=dict)
    shares_K: Floats | None = None


__all__ = ["AssumesPlainSteps", "Correction", "Corrects", "Memory", "Merged", "Merger", "NeedsProxy", "Round"]


class Merger(Protocol):
    """A rule that merges clients' weights: a frozen dataclass whose fields are its options.

    The server calls it at the end of every round, and once after a single shot:

        >>> import numpy as np
        >>> from distens import registry
        >>> from distens.merge.protocol import ClientUpdate
        >>> def update(client, weight, rows):
        ...     weights_P = np.array([weight], dtype=np.float32)
        ...     return ClientUpdate("r0000-" + client, 1, client, weights_P, rows, 1, 0.1, (rows,), 0.5)
        >>> merger = registry.make_plugin("merge", "fedavg", "merge")
        >>> updates = [update("c0", 1.0, 30), update("c1", 5.0, 10)]
        >>> merged = merger.merge(Round(0, np.zeros(1, dtype=np.float32), updates, clients=2))
        >>> merged.weights_P.tolist(), merged.shares_K.tolist()
        ([2.0], [0.75, 0.25])
    """

    def merge(self, round: Round) -> Merged:
        """Return the new global weights; the round's arrays are not written to.

        Raises:
            ValueError: there are too few updates for this rule; the message names the number that it needs.
        """
        ...


PLUGINS = (Merger,)
"""What a user's own plug-in of this family must be: one of these."""


class Corrects(Merger, Protocol):
    """A rule that changes the loss that clients minimise, by a `Correction` of their gradients.

    Example:
        The server calls it for every client of a round, before the client trains::

            if registry.has_capability(merger, Corrects):
                correction = merger.correct(client, memory, start_P)
    """

    def correct(self, client: str, memory: Memory, start_P: Floats) -> Correction:
        """Return the correction of a client's gradients in this round.

        Args:
            client: the client's name.
            memory: the memory that the rule returned after the round before; empty at first.
            start_P: the global weights that the clients begin with; not written to.
        """
        ...


class NeedsProxy(Merger, Protocol):
    """A rule that needs labelled rows of the server's own, as `Round.proxy`.

    The plan refuses it where `data.splits.search` is 0.

    Example:
        Only such a rule is called with a proxy::

            proxy = network.gradient if registry.has_capability(merger, NeedsProxy) else None

    Attributes:
        needs_proxy: True.
    """

    needs_proxy: ClassVar[Literal[True]]


class AssumesPlainSteps(Merger, Protocol):
    """A rule that is right only for clients that train by plain gradient descent.

    Example:
        The plan refuses it for clients with momentum, weight decay or another optimizer::

            if registry.has_capability(merger, AssumesPlainSteps) and not member.plain_steps:
                raise ConfigError(...)

    Attributes:
        plain_steps: True.
    """

    plain_steps: ClassVar[Literal[True]]
