"""Arithmetic on many flat vectors of weights, by blocks that stay in the cache.

All updates at once would take the memory of K models a second time. A block is cast to float64 once, and the rest are
products of small matrices; so a weighted mean takes about four times as long as reading the updates, and its only
rounding that counts is the last, to float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from distens.merge.protocol import ClientUpdate, Memory, Merged, Round
from distens.records import Floats

_NUMBERS = 163_840
"""The number of float64 values in a block, of all updates together."""


def require_updates(updates: Sequence[ClientUpdate], least: int = 1, why: str = "") -> None:
    """Raise ValueError if there are fewer updates than a rule needs."""
    if len(updates) < least:
        raise ValueError(f"needs at least {least} update{'s' * (least > 1)}{why}, found {len(updates)}")


def equal_shares(updates: Sequence[ClientUpdate]) -> Floats:
    """Return shares_K, all equal. Raises ValueError if there are no updates."""
    require_updates(updates)
    return np.full(len(updates), 1.0 / len(updates))


def shares_by_rows(updates: Sequence[ClientUpdate]) -> Floats:
    """Return shares_K in proportion to the clients' rows. Raises ValueError if there are no updates."""
    require_updates(updates)
    rows_K = np.array([update.rows for update in updates], dtype=np.float64)
    return rows_K / rows_K.sum()


def blocks(updates: Sequence[ClientUpdate]) -> Iterator[tuple[slice, Floats]]:
    """Yield (place, weights_KB): a slice, and the updates' weights in it, float64, which the caller may overwrite.

    The next block lies in the same memory.
    """
    size = len(updates[0].weights_P)
    step = max(1024, _NUMBERS // len(updates))
    buffer_KB = np.empty((len(updates), min(step, size)))
    for start in range(0, size, step):
        place = slice(start, min(start + step, size))
        weights_KB = buffer_KB[:, : place.stop - start]
        for row_B, update in zip(weights_KB, updates, strict=True):
            row_B[:] = update.weights_P[place]
        yield place, weights_KB


def changes(round: Round, shares_K: Floats) -> Iterator[tuple[slice, Floats]]:
    """Yield (place, change_B): sum_k shares_k (w_k - start) in a slice, float64. The shares sum to 1."""
    for place, weights_KB in blocks(round.updates):
        yield place, shares_K @ weights_KB - round.start_P[place]


def weighted_sum(updates: Sequence[ClientUpdate], parts_K: Floats, start_P: Floats | None = None) -> Floats:
    """Return sum_k parts_k w_k, float32; with `start_P`, start + sum_k parts_k (w_k - start)."""
    total_P = np.empty(len(updates[0].weights_P), dtype=np.float32)
    missing = 1.0 - parts_K.sum()
    for place, weights_KB in blocks(updates):
        total_B = parts_K @ weights_KB
        if start_P is not None:
            total_B += missing * start_P[place]
        total_P[place] = total_B
    return total_P


def average_statistics(merged: Merged, updates: Sequence[ClientUpdate], count: int) -> Merged:
    """Return the result of a round with its last `count` numbers, running statistics, averaged by the updates' shares.

    A rule that makes steps of its own would take them for weights, and could make a variance negative. A result without
    shares, which was chosen number by number among the updates', stays.
    """
    if not count or merged.shares_K is None:
        return merged
    weights_P = merged.weights_P.copy()
    statistics_KS = np.stack([update.weights_P[-count:] for update in updates]).astype(np.float64)
    weights_P[-count:] = merged.shares_K @ statistics_KS
    return replace(merged, weights_P=weights_P)


def sorted_blocks(updates: Sequence[ClientUpdate]) -> Iterator[tuple[slice, Floats]]:
    """Yield (place, values_BK): in each row the updates' values of one weight, ascending, float64."""
    size, count = len(updates[0].weights_P), len(updates)
    step = max(1024, _NUMBERS // count)
    buffer_BK = np.empty((min(step, size), count))  # a row for each weight: sorting along the other axis takes longer
    for place, weights_KB in blocks(updates):
        values_BK = buffer_BK[: weights_KB.shape[1]]
        values_BK[:] = weights_KB.T
        values_BK.sort(axis=1)
        yield place, values_BK


def remembered(memory: Memory, name: str, size: int) -> Floats:
    """Return the memory's array of a name, or zeros if it has none (one zero broadcast, which takes no memory)."""
    return memory[name] if name in memory else np.broadcast_to(np.float32(0), size)
