"""Many members' predictions into one."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

from distens.records import Floats, State
from distens.targets.protocol import Target, Targets


class Combiner(Protocol):
    """A rule that combines members' predictions: a frozen dataclass whose fields are its options.

    It is fitted once, at the end of a run. Its state goes into the bundle, and a predictor combines with it:

        >>> import numpy as np
        >>> from distens import registry
        >>> predictions_MNK = np.array([[[0.9, 0.1]], [[0.5, 0.5]]])
        >>> combiner = registry.make_plugin("combine", "average", "combine")
        >>> state = combiner.fit(predictions_MNK, np.array([0]), np.array([0.75, 0.25]))
        >>> combiner.combine(predictions_MNK, state).round(6).tolist()
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
            predictions_MNK, targets_N: on the *combine* split, by which no member was selected.
            weights_M: the selection's weights, positive, sum 1.
            target: the target that is predicted; None: classes.
            inputs_N: the rows as members see them, for a combiner that uses them; so far always None.
        """
        ...

    def combine(
        self, predictions_MNK: Floats, state: State, target: Target | None = None, inputs_N: Floats | None = None
    ) -> Floats:
        """Return predictions_NK (float64). They do not depend on the order of members, if it is the same everywhere."""
        ...


class NeedsClasses(Combiner, Protocol):
    """A combiner of class probabilities only.

    Example:
        The plan refuses it where the target is not classes::

            if registry.has_capability(combiner, NeedsClasses) and not issubclass(target, Classes):
                raise ConfigError(...)

    Attributes:
        needs: `classes`.
    """

    needs: ClassVar[Literal["classes"]]


PLUGINS = (Combiner,)
"""What a user's own plug-in of this family must be: one of these."""
