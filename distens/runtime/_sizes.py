"""Actors of several sizes on a cluster's nodes: which fit nowhere, which go next, which make room."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from distens.errors import RunError
from distens.records import Resources, Task

Node = Mapping[str, float]
"""What a node has, or what is free of a cluster, by Ray's names."""

EPSILON = 1e-9


def count(room: Node, needs: Resources) -> int:
    """Return how many actors of a size there is room for."""
    rooms = [room.get(kind, 0.0) / need for kind, need in (("CPU", needs.cpus), ("GPU", needs.gpus)) if need]
    return int(min(rooms) + EPSILON)


def total(nodes: Iterable[Node]) -> Resources:
    """Return what nodes have together."""
    held = list(nodes)
    return Resources(sum(node.get("CPU", 0.0) for node in held), sum(node.get("GPU", 0.0) for node in held))


def fit(needs: Sequence[Resources], room: Resources) -> bool:
    """Return whether all these fit side by side, as if the room were one node."""
    cpus, gpus = sum(one.cpus for one in needs), sum(one.gpus for one in needs)
    return cpus <= room.cpus + EPSILON and gpus <= room.gpus + EPSILON


def next_that_fits(
    packs: Iterator[Sequence[Task]],
    waiting: deque[Sequence[Task]],
    held: Sequence[Resources],
    room: Resources,
    most: int,
) -> Sequence[Task] | None:
    """Return the next pack that there is room for; None if there is none before the next outcome.

    Args:
        packs: are pulled where none that waits fits.
        waiting: gets those that were pulled and do not fit, until there are `most`.
        held: what packs that are being carried out occupy; beside none, whatever is next fits.
    """

    def fits(pack: Sequence[Task]) -> bool:
        return not held or fit([*held, pack[0].resources], room)

    for place, pack in enumerate(waiting):
        if fits(pack):
            del waiting[place]
            return pack
    while len(waiting) < most and (pack := next(packs, None)):
        if fits(pack):
            return pack
        waiting.append(pack)
    return None


def to_end(spare: Sequence[Resources], held: Sequence[Resources], room: Resources) -> list[int]:
    """Return the places of spare actors that must end so that there is room for what is held; those with GPUs last,
    unless it is GPUs that there are too few of."""
    left = list(range(len(spare)))
    ended: list[int] = []
    while left and not fit(asked := [*held, *(spare[place] for place in left)], room):
        short = sum(one.gpus for one in asked) > room.gpus + EPSILON
        place = (max if short else min)(left, key=lambda place: spare[place].gpus)
        left.remove(place)
        ended.append(place)
    return ended


def check(nodes: Sequence[Node], usual: Resources, also: Mapping[str, Resources]) -> None:
    """See that each size fits on some node.

    Args:
        usual: what `runtime` says.
        also: key of the config -> what it says.

    Raises:
        RunError: one does not.
    """
    for where, needs in {"runtime": usual, **also}.items():
        end = "_per_member" if where == "runtime" else ""
        for kind, asked in (("CPU", needs.cpus), ("GPU", needs.gpus)):
            largest = max((node.get(kind, 0.0) for node in nodes), default=0.0)
            if asked > largest:
                option = f"{where}.{kind.lower()}s{end}"
                raise RunError(f"{option}: {asked:g} {kind}s for one member, but no node has more than {largest:g}")
        if not any(count(node, needs) for node in nodes):
            raise RunError(f"{where}: no node has both {needs.cpus:g} CPUs and {needs.gpus:g} GPUs, for one member")
