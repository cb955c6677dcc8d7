"""Which settings next."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from distens.records import History, Settings
from distens.space.space import Space


class Search(Protocol):
    """A frozen dataclass whose fields are its options. It remembers nothing: everything follows from history.

    A search that looks at nothing in it but which settings are known says so, `blind: ClassVar[bool] = True`: then a
    member's settings follow from its number, whatever it was dispatched with, and whatever had come back by then.
    """

    def propose(self, history: History, space: Space, count: int, rng: np.random.Generator) -> list[Settings]:
        """Return `count` settings that lie in the space and are, where the space allows, new and different.

        The same history, space and generator state give the same proposals.
        """
        ...


PLUGINS = (Search,)
"""What a user's own plug-in of this family must be: one of these."""
