"""Which settings next."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

import numpy as np

from distens.records import History, Settings
from distens.space.space import Space


class Search(Protocol):
    """A frozen dataclass whose fields are its options. It remembers nothing: everything follows from history.

    A run asks it for as many settings as actors are free:

        >>> import numpy as np
        >>> from distens import registry
        >>> from distens.records import History
        >>> from distens.space.space import Space
        >>> space = Space({"net": {"kind": "classifier", "epochs": {"low": 1, "high": 9}}})
        >>> search = registry.build("search", "random", "search")
        >>> found = search.propose(History(), space, 3, np.random.default_rng(0))
        >>> len(found), all(1 <= settings["epochs"] <= 9 for settings in found)
        (3, True)
    """

    def propose(self, history: History, space: Space, count: int, rng: np.random.Generator) -> list[Settings]:
        """Return `count` settings that lie in the space and are, where the space allows, new and different.

        The same history, space and generator state give the same proposals.
        """
        ...


PLUGINS = (Search,)
"""What a user's own plug-in of this family must be: one of these."""


class Blind(Search, Protocol):
    """A search that looks at nothing in history except which settings are known.

    The ensemble's plan of work asks. A member's settings then follow from its number alone, whatever it is dispatched
    with and whatever has come back, so members that can be trained together are drawn ahead and sent together:

        if registry.able(search, Blind):
            settings = search.propose(History(keys=known), space, 1, seeding.generator(seed, "search", number))[0]

    Attributes:
        blind: True.
    """

    blind: ClassVar[Literal[True]]
