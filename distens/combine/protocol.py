"""Many predictions into one."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

from distens.records import Floats, State
from distens.targets.protocol import Target, Targets


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

    def fit(
        self,
        predictions_MNK: Floats,
        targets_N: Targets,
        weights_M: Floats,
        target: Target | None = None,
        inputs_N: Floats | None = None,
    ) -> State:
        """Learn how to combine the selected members.

        Args:
            predictions_MNK, targets_N: of the *combine* split, which selected nothing.
            weights_M: the selection's weights, positive, sum 1.
            target: what predictions are; None: classes.
            inputs_N: the rows as members see them, for a combiner that looks at them; None, so far.
        """
        ...

    def combine(
        self, predictions_MNK: Floats, state: State, target: Target | None = None, inputs_N: Floats | None = None
    ) -> Floats:
        """Return predictions_NK (float64). The order of members, changed alike everywhere, changes nothing."""
        ...


class NeedsClasses(Combiner, Protocol):
    """A combiner of class probabilities alone.

    The plan refuses it where the target is another:

        if registry.able(combiner, NeedsClasses) and not issubclass(target, Classes):
            raise ConfigError(...)

    Attributes:
        needs: `classes`.
    """

    needs: ClassVar[Literal["classes"]]


PLUGINS = (Combiner,)
"""What a user's own plug-in of this family must be: one of these."""
