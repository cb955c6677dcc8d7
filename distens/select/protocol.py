"""Selection: the members that stay, and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from distens.records import Floats, Integers
from distens.targets.classes import Classes
from distens.targets.protocol import Pools, Target, Targets


class Selector(Protocol):
    """A rule that weighs members, and so selects them: a frozen dataclass whose fields are its options.

    It is called at the end of a run, and during the run for the curve of the ensemble:

        >>> import numpy as np
        >>> from distens import registry
        >>> good_NK, bad_NK = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.1, 0.9], [0.8, 0.2]])
        >>> selector = registry.make_plugin("select", {"kind": "top", "size": 1}, "select")
        >>> selector.select([bad_NK, good_NK], np.array([0, 1])).tolist()
        [0.0, 1.0]
    """

    def select(
        self,
        predictions_MNK: Floats | Sequence[Floats],
        targets_N: Targets,
        metric: str = "",
        target: Target | None = None,
        importance_N: Floats | None = None,
    ) -> Floats:
        """Return weights_M, non-negative, sum 1; a member with weight 0 is left out.

        Args:
            predictions_MNK: on the *search* split; an array, or a sequence of (memory-mapped) predictions_NK.
            metric: one of the target's `minimised`; empty: the first of these.
            target: the target that is predicted; None: classes.
            importance_N: the weight of each row; so far always None: all rows count the same.
        """
        ...


def fill_defaults(
    predictions_MNK: Floats | Sequence[Floats], metric: str, target: Target | None, importance_N: Floats | None
) -> tuple[Target, str]:
    """Return the target and the metric to select by: the given ones, or classes and the target's first metric.

    Raises:
        ValueError: there are no members.
    """
    assert importance_N is None, "rows count alike, so far"
    if not len(predictions_MNK):
        raise ValueError("there are no members to select from")
    if target is None:
        target = Classes(tuple(map(str, range(np.shape(predictions_MNK[0])[1]))))
    return target, metric or target.minimised[0]


def deciding_metrics(metric: str, target: Target) -> tuple[str, ...]:
    """Return the metric, and after it the target's usual one, which decides between equals; once if they are the same.

    Under a coarse metric, such as the share of errors, many ensembles are equal that are not equally good.
    """
    return tuple(dict.fromkeys((metric, target.minimised[0])))


def ranking_pools(
    predictions_MNK: Floats | Sequence[Floats], targets_N: Targets, metric: str, target: Target
) -> list[Pools]:
    """Return pools of each of the `deciding_metrics`."""
    return [target.pools(predictions_MNK, targets_N, one) for one in deciding_metrics(metric, target)]


def rank_members(
    predictions_MNK: Floats | Sequence[Floats], targets_N: Targets, metric: str, target: Target
) -> Integers:
    """Return the places of all members, the best by itself first; of equals the best by the usual metric, or else the
    earlier.
    """
    pools = ranking_pools(predictions_MNK, targets_N, metric, target)
    return np.lexsort([one.on().with_each() for one in reversed(pools)])


def fast_metric(metric: str, target: Target) -> str:
    """Return the metric; or the target's usual one in place of a metric of the user's own, which may take long.

    What is selected again and again during a search is selected by this one.
    """
    return metric if metric in target.minimised else target.minimised[0]


PLUGINS = (Selector,)
"""What a user's own plug-in of this family must be: one of these."""
