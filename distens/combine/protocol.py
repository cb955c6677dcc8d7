"""Many predictions into one."""

from __future__ import annotations

from typing import Protocol

from distens.records import Floats, Integers, State


class Combiner(Protocol):
    """A frozen dataclass whose fields are its options.

    Fitted once, at the end of a run; the state goes into the bundle, and a predictor combines with it:

        >>> import numpy as np
        >>> from distens import registry
        >>> probs_MNC = np.array([[[0.9, 0.1]], [[0.5, 0.5]]])
        >>> combiner = registry.build("combine", "average", "combine")
        >>> state = combiner.fit(probs_MNC, np.array([0]), np.array([0.75, 0.25]))
        >>> combiner.combine(probs_MNC, state).round(6).tolist()
        [[0.8, 0.2]]
    """

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
