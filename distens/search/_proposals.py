"""Sources of proposals: new settings drawn from the space, and walks uphill from settings already tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

import numpy as np

from distens.records import Floats, Settings, settings_key
from distens.space.space import Space

STEPS = 10
NEIGHBOURS = 6
"""A walk looks at this many neighbours per step, each one domain away, and takes at most STEPS steps."""


def draw_settings(space: Space, count: int, taken: Set[str], rng: np.random.Generator) -> list[Settings]:
    """Return `count` settings drawn uniformly: new and different while the space has any left, then repeats."""
    found = draw_new(space, count, taken, rng)
    return found + [space.draw(rng) for _ in range(count - len(found))]


def draw_new(
    space: Space, count: int, taken: Set[str], rng: np.random.Generator, needed: int | None = None
) -> list[Settings]:
    """Return up to `count` different settings, none of them in `taken`.

    Fewer are returned if the space is exhausted, or if `needed` settings are found and draws repeat so often that more
    would cost too much. A list is exhausted at its end. Any other space counts as exhausted after a long row of draws
    without a new one, as finite spaces are not enumerated.
    """
    found: dict[str, Settings] = {}
    misses = 0
    needed = count if needed is None else needed
    patience = int(min(100 + 20 * space.count, 20_000))
    for draws, settings in enumerate(space.draws(rng)):
        if len(found) == count or misses == patience or (draws >= 2 * count and len(found) >= needed):
            break
        name = settings_key(settings)
        misses += 1
        if name not in taken and name not in found:
            found[name] = settings
            misses = 0
    return list(found.values())


def walk_uphill(
    space: Space,
    starts: Sequence[Settings],
    height: Callable[[Floats], Floats],
    taken: Set[str],
    rng: np.random.Generator,
) -> list[Settings]:
    """Return the highest new settings that each walk found, without repeats; all walks take each step together.

    Args:
        starts: settings already tried.
        height: encoded settings (P x width) -> P numbers to maximise.
        taken: keys of settings that are not new.
    """
    here = list(starts)
    heights = height(space.encode(here)) if here else np.zeros(0)
    best: dict[int, tuple[float, Settings]] = {}
    walking = list(range(len(here)))
    for _ in range(STEPS):
        if not walking:
            break
        steps = [[space.neighbour(here[i], rng) for _ in range(NEIGHBOURS)] for i in walking]
        reached = height(space.encode([step for row in steps for step in row])).reshape(-1, NEIGHBOURS)
        going_on = []
        for i, row, row_heights in zip(walking, steps, reached, strict=True):
            order = np.argsort(-row_heights, kind="stable")
            new = next((j for j in order if settings_key(row[j]) not in taken), None)
            if new is not None and (i not in best or row_heights[new] > best[i][0]):
                best[i] = (float(row_heights[new]), row[new])
            if row_heights[order[0]] > heights[i]:
                here[i], heights[i] = row[order[0]], row_heights[order[0]]
                going_on.append(i)
        walking = going_on
    return list({settings_key(settings): settings for _, settings in best.values()}.values())
