"""Actors of several sizes on a cluster's nodes: which fit nowhere, which go next, which make room."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from distens.errors import RunError
from distens.records import Pack, Resources

Node = Mapping[str, float]
"""What a node has, or what is free of a cluster, by Ray's names."""

EPSILON = 1e-9
GIB = 2**30


def amounts(needs: Resources) -> dict[str, float]:
    """Return what an actor of a size occupies, by Ray's names."""
    named = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory_gib * GIB, **dict(needs.custom)}
    return {kind: amount for kind, amount in named.items() if amount}


def count(room: Node, needs: Resources) -> int:
    """Return how many actors of a size, of one process each, there is room for on one node."""
    return int(min(room.get(kind, 0.0) / amount for kind, amount in amounts(needs).items()) + EPSILON)


def count_all(nodes: Iterable[Node], needs: Resources) -> int:
    """Return how many actors of a size nodes have room for; the processes of one may be on several."""
    return sum(count(node, needs.part()) for node in nodes) // needs.processes


def total(nodes: Iterable[Node]) -> Node:
    """Return what nodes have together."""
    held: Counter[str] = Counter()
    for node in nodes:
        held.update(node)  # adds, also what is no whole number
    return held


def fit(needs: Iterable[Resources], room: Node) -> bool:
    """Return whether all these fit side by side, as if the room were one node."""
    return not _short(needs, room)


def _short(needs: Iterable[Resources], room: Node) -> list[str]:
    """Return of what there is too little for all these."""
    asked = total(amounts(one) for one in needs)
    return [kind for kind, amount in asked.items() if amount > room.get(kind, 0.0) * (1 + EPSILON) + EPSILON]


def next_that_fits(
    packs: Iterator[Pack],
    waiting: deque[Pack],
    held: Sequence[Resources],
    room: Node,
    most: int,
) -> Pack | None:
    """Return the next pack that there is room for; None if there is none before the next outcome.

    Args:
        packs: are pulled where none that waits fits.
        waiting: gets those that were pulled and do not fit, until there are `most`.
        held: what packs that are being carried out occupy; beside none, whatever is next fits.
    """

    def fits(pack: Pack) -> bool:
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


def to_end(spare: Sequence[Resources], held: Sequence[Resources], room: Node) -> list[int]:
    """Return the places of spare actors that must end so that there is room for what is held; those with GPUs last,
    unless it is GPUs, or something else that not all have, that there is too little of."""
    left = list(range(len(spare)))
    ended: list[int] = []
    while left and (short := _short([*held, *(spare[place] for place in left)], room)):
        scarce = [kind for kind in short if kind != "CPU"]

        def worth(place: int, scarce: Sequence[str] = scarce) -> tuple[float, float]:
            own = amounts(spare[place])
            return -sum(kind in own for kind in scarce), own.get("GPU", 0.0)

        place = min(left, key=worth)
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
        asked = amounts(needs.part())
        for kind, amount in asked.items():
            largest = max((node.get(kind, 0.0) for node in nodes), default=0.0)
            if amount > largest * (1 + EPSILON):
                option = f"{where}.{_words(kind)[0]}{'_per_member' * (where == 'runtime')}"
                more = f"no node has more than {largest / _words(kind)[2]:g}"
                raise RunError(f"{option}: {_said(kind, amount)} for {_one(needs)}, but {more}")
        all_of = " and ".join(_said(kind, amount) for kind, amount in asked.items())
        found = sum(count(node, needs.part()) for node in nodes)
        if not found:
            raise RunError(f"{where}: no node has {'both ' * (len(asked) == 2)}{all_of}, for {_one(needs)}")
        if found < needs.processes:
            raise RunError(
                f"{where}: a member of {needs.processes} processes needs {all_of} for each, and the cluster has room "
                f"for {found} of them"
            )


def _one(needs: Resources) -> str:
    return "one member" if needs.processes == 1 else f"each of a member's {needs.processes} processes"


def _words(kind: str) -> tuple[str, str, int]:
    """Return the option that asks for it, what it is called, and how much one of it is by Ray's count."""
    known = {"CPU": ("cpus", "CPUs", 1), "GPU": ("gpus", "GPUs", 1), "memory": ("memory_gib", "GiB", GIB)}
    return known.get(kind, ("custom", kind, 1))


def _said(kind: str, amount: float) -> str:
    _, name, one = _words(kind)
    return f"{amount / one:g} {name}"
