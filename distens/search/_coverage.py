"""Coverage: families that were never tried come before the others are tried again, whatever a search proposes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from distens.records import Settings
from distens.search._proposals import draw_settings
from distens.space.space import Space


def find_untried(families: Iterable[str], tried: Mapping[str, int]) -> list[str]:
    """Return the families without a member, in their order.

    Args:
        tried: family -> the number of members that were dispatched.
    """
    return [family for family in families if not tried.get(family)]


def cover_families(
    proposed: Sequence[Settings],
    space: Space,
    families: Sequence[str],
    tried: Mapping[str, int],
    before: int,
    chance: Callable[[], np.random.Generator],
) -> list[Settings]:
    """Return as many settings as were proposed, in which no family has its nth member before each has its first.

    Where a family would have it, a later proposal of an untried family moves up. If there is none, random settings of
    an untried family come instead, and the last proposal is left out: no search has learned anything about a family
    without members.

    Args:
        families: the names of the space's families.
        tried: family -> the number of members that were dispatched.
        before: n, at least 2.
        chance: returns a random generator; called only if a proposal is replaced.
    """
    waiting, counts, covered = list(proposed), Counter(tried), list[Settings]()
    rng: np.random.Generator | None = None
    while waiting:
        place, untried = 0, find_untried(families, counts)
        if untried and counts[waiting[0]["family"]] + 1 >= before:
            place = next((i for i, settings in enumerate(waiting) if settings["family"] in untried), -1)
            if place < 0:
                rng = rng or chance()
                family = untried[int(rng.integers(len(untried)))]
                waiting[place] = draw_settings(space.only(family), 1, frozenset(), rng)[0]
        counts[waiting[place]["family"]] += 1
        covered.append(waiting.pop(place))
    return covered
