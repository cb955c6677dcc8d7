"""Functions for schedules with rungs: the epochs of the rungs, the best of a rung, and a check of the members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np

from distens.records import Failed, Finished, History
from distens.schedule.protocol import TrainingLength


def rung_epochs(minimum: int, maximum: int, eta: int) -> tuple[int, ...]:
    """Return the epochs of the rungs, rising: maximum, maximum / eta, … rounded down, none below the minimum.

    Rungs are counted from above, where the papers count from below (r eta^k), so that the last rung is always the
    maximum. If the maximum is eta times as large, there is one rung more, and the others are the same.

    Raises:
        ValueError: there is only one rung.
    """
    found: list[int] = []
    while maximum // eta ** len(found) >= minimum:
        found.insert(0, maximum // eta ** len(found))
    if len(found) < 2:
        raise ValueError(
            f"no effect: of {maximum} epochs at most (`maximum`) and {minimum} at first (`minimum`) there is only one "
            f"rung; with eta {eta} two need a minimum of {maximum // eta} or less"
            if maximum >= minimum
            else f"minimum: {minimum} epochs in the first rung are more than the {maximum} of the last (`maximum`)"
        )
    return tuple(found)


def last_epoch(maximum: int | None, lengths: Mapping[str, TrainingLength]) -> int:
    """Return the epochs of the last rung: the option `maximum`, or the epochs in the members' settings.

    Raises:
        ValueError: the members cannot be trained in rungs or up to `maximum`, or their settings give several
            numbers of epochs.
    """
    if not lengths:
        raise ValueError("no effect: no family of `members` can be trained in parts")
    for family, length in lengths.items():
        if len(length.epochs) > 1:
            raise ValueError(
                f"the schedule decides the epochs of a member, so members.{family}.epochs cannot be searched; give one "
                f"number, found {', '.join(map(str, length.epochs))}"
            )
    epochs = {family: length.epochs[0] for family, length in lengths.items()}
    if maximum is None:
        if len(set(epochs.values())) > 1:
            found = ", ".join(f"{family} {count}" for family, count in epochs.items())
            raise ValueError(f"maximum: missing, and the families' epochs differ ({found})")
        return next(iter(epochs.values()))
    for family, length in lengths.items():
        if length.last is not None and maximum > length.last:
            raise ValueError(
                f"maximum: members of {family!r} cannot be trained beyond epoch {length.last}, found {maximum}: their "
                f"learning rate ends there. Set members.{family}.epochs to the largest maximum that you will need "
                "(in a run of "
                "its own), or give them a constant rate"
            )
    return maximum


def best_of_rung(
    entries: Sequence[Finished | Failed], history: History, count: int, gone: Set[str] = frozenset()
) -> list[Finished]:
    """Return those of a rung's `count` best entries that finished and whose members are not in `gone`, best first.

    Ties are broken by the usual metric (see `History.merit`), then by the members' names, not by the order of arrival.
    A failed member counts as the worst.
    """
    if not count:
        return []
    worst = (np.inf, np.inf)
    merits = [history.merit(entry) if isinstance(entry, Finished) else worst for entry in entries]
    values_M = np.array([value for value, _ in merits])
    least = np.partition(values_M, count - 1)[count - 1]
    near = np.flatnonzero(values_M <= least).tolist()
    ahead = [entries[place] for place in sorted(near, key=lambda m: (merits[m], entries[m].task.member))[:count]]
    return [entry for entry in ahead if isinstance(entry, Finished) and entry.task.member not in gone]
