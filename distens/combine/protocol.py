"""Many predictions into one."""

from __future__ import annotations

from typing import Protocol

from distens.records import Floats, Integers, State


class Combiner(Protocol):
    """A frozen dataclass whose fields are its options."""

    def fit(self, probs_MNC: Floats, labels_N: Integers, weights_M: Floats) -> State:
        """Learn how to combine the selected members.

        Args:
            probs_MNC, labels_N: of the *combine* split, which selected nothing.
            weights_M: the selection's weights, positive, sum 1.
        """
        ...

    def combine(self, probs_MNC: Floats, state: State) -> Floats:
        """Return probs_NC (float64). The order of members, changed alike everywhere, changes nothing."""
        ...


PLUGINS = (Combiner,)
"""What a user's own plug-in of this family must be: one of these."""
