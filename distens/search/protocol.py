"""Searches: the settings to train next."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

import numpy as np

from distens.records import History, Settings
from distens.space.space import Space


class Search(Protocol):
    """A search: a frozen dataclass whose fields are its options.

    It keeps no state: its proposals follow from the history. A run calls it for as many settings as actors are free:

        >>> import numpy as np
        >>> from distens import registry
        >>> from distens.records import History
        >>> from distens.space.space import Space
        >>> space = Space({"net": {"kind": "classifier", "epochs": {"low": 1, "high": 9}}})
        >>> search = registry.make_plugin("search", "random", "search")
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
"""The protocols of this family: a user's own plug-in must satisfy one of them."""


class IgnoresOutcomes(Search, Protocol):
    """A search that uses nothing in the history except the settings already known.

    The settings of a member then follow only from its number, and not from other members in its pack or from results.
    So the ensemble's role draws members ahead, and sends members together that can be trained together:

        >>> from distens import registry, seeding
        >>> from distens.records import History
        >>> from distens.space.space import Space
        >>> space = Space({"net": {"kind": "classifier", "epochs": {"low": 1, "high": 9}}})
        >>> search = registry.make_plugin("search", "random", "search")
        >>> registry.has_capability(search, IgnoresOutcomes)
        True
        >>> settings = search.propose(History(keys=set()), space, 1, seeding.generator(0, "search", 7))[0]

    Attributes:
        blind: True.
    """

    blind: ClassVar[Literal[True]]
