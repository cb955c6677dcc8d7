"""Which members stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from distens.records import Floats, Integers


class Selector(Protocol):
    """A frozen dataclass whose fields are its options.

    Called at the end of a run, and for the curve of the ensemble while it goes:

        >>> import numpy as np
        >>> from distens import registry
        >>> good_NC, bad_NC = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.1, 0.9], [0.8, 0.2]])
        >>> selector = registry.build("select", {"kind": "top", "size": 1}, "select")
        >>> selector.select([bad_NC, good_NC], np.array([0, 1])).tolist()
        [0.0, 1.0]
    """

    def select(self, probs_MNC: Floats | Sequence[Floats], labels_N: Integers, metric: str = "nll") -> Floats:
        """Return weights_M, non-negative, sum 1; a member with weight 0 is left out.

        Args:
            probs_MNC: predictions on the *search* split; a sequence of (memory-mapped) probs_NC will do.
            metric: `nll` or `error`, what to minimise.
        """
        ...


PLUGINS = (Selector,)
"""What a user's own plug-in of this family must be: one of these."""
