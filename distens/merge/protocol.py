"""Many clients' weights into one: what a server does at the end of a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from distens.records import Correction, Floats, Update

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


__all__ = ["Correction", "Memory", "Merged", "Merger", "Round"]


class Merger(Protocol):
    """A frozen dataclass whose fields are its options.

    A rule may also have `needs_proxy: ClassVar[bool] = True` if it cannot do without the server's rows, and a method
    `correct(client: str, memory: Memory, start_P: Floats) -> Correction` if it changes what clients minimise; with it
    comes `plain_steps: ClassVar[bool] = True` where the rule assumes gradient descent without momentum.
    """

    def merge(self, round: Round) -> Merged:
        """Return the new global weights; the round's arrays are not written to.

        Raises:
            ValueError: there are too few updates for this rule; the message says how many it needs.
        """
        ...


PLUGINS = (Merger,)
"""What a user's own plug-in of this family must be: one of these."""
