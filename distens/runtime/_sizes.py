"""Actors of several sizes on a cluster's nodes: whether they fit, which pack is next, which actors make room."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from distens.errors import RunError
from distens.records import Pack, Resources

Node = Mapping[str, float]
"""Resources of a node, or of several together: Ray's name of a resource -> amount."""

EPSILON = 1e-9
GIB = 2**30


def ray_amounts(needs: Resources) -> dict[str, float]:
    """Return the amounts that an actor of a size occupies, by Ray's names of resources; zeros are left out."""
    named = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory_gib * GIB, **dict(needs.custom)}
    return {kind: amount for kind, amount in named.items() if amount}


def count_actors(room: Node, needs: Resources) -> int:
    """Return the number of actors of a size, of one process each, that fit on one node."""
    return int(min(room.get(kind, 0.0) / amount for kind, amount in ray_amounts(needs).items()) + EPSILON)


def count_all(nodes: Iterable[Node], needs: Resources) -> int:
    """Return the number of actors of a size that fit on these nodes; an actor's processes may be on several nodes."""
    return sum(count_actors(node, needs.part()) for node in nodes) // needs.processes


def total_amounts(nodes: Iterable[Node]) -> Node:
    """Return the sum of the nodes' resources."""
    held: Counter[str] = Counter()
    for node in nodes:
        held.update(node)  # a Counter adds fractions, too
    return held


def fits_side_by_side(needs: Iterable[Resources], room: Node) -> bool:
    """Return True if all these sizes fit side by side, as if the room were one node."""
    return not _scarce_kinds(needs, room)


def _scarce_kinds(needs: Iterable[Resources], room: Node) -> list[str]:
    """Return the names of the resources of which there is too little for all these sizes."""
    asked = total_amounts(ray_amounts(one) for one in needs)
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
        packs: pulled from only if no waiting pack fits.
        waiting: packs that were pulled and did not fit; more are added until there are `most`.
        held: the sizes of the packs that are being carried out; if there are none, every pack fits.
        room: the resources of all nodes, occupied or not.
        most: the largest number of waiting packs.
    """

    def fits(pack: Pack) -> bool:
        return not held or fits_side_by_side([*held, pack[0].resources], room)

    for place, pack in enumerate(waiting):
        if fits(pack):
            del waiting[place]
            return pack
    while len(waiting) < most and (pack := next(packs, None)):
        if fits(pack):
            return pack
        waiting.append(pack)
    return None


def actors_to_end(spare: Sequence[Resources], held: Sequence[Resources], room: Node) -> list[int]:
    """Return the indices of the spare actors that must end so that there is room for all of `held`.

    Actors that occupy most of the scarce kinds of resource, CPUs aside, end first; among equals, those with the fewest
    GPUs.
    """
    left = list(range(len(spare)))
    ended: list[int] = []
    while left and (short := _scarce_kinds([*held, *(spare[place] for place in left)], room)):
        scarce = [kind for kind in short if kind != "CPU"]

        def worth(place: int, scarce: Sequence[str] = scarce) -> tuple[float, float]:
            own = ray_amounts(spare[place])
            return -sum(kind in own for kind in scarce), own.get("GPU", 0.0)

        place = min(left, key=worth)
        left.remove(place)
        ended.append(place)
    return ended


def check_room(nodes: Sequence[Node], usual: Resources, also: Mapping[str, Resources]) -> None:
    """Check that each size fits on some node.

    Args:
        usual: the size that the config's `runtime` sets.
        also: key of the config -> the size that it sets.

    Raises:
        RunError: a size fits on no node, or the cluster has room for too few of an actor's processes.
    """
    for where, needs in {"runtime": usual, **also}.items():
        asked = ray_amounts(needs.part())
        for kind, amount in asked.items():
            largest = max((node.get(kind, 0.0) for node in nodes), default=0.0)
            if amount > largest * (1 + EPSILON):
                option = f"{where}.{_option_and_unit(kind)[0]}{'_per_member' * (where == 'runtime')}"
                more = f"no node has more than {largest / _option_and_unit(kind)[2]:g}"
                raise RunError(f"{option}: {_amount_text(kind, amount)} for {_member_text(needs)}, but {more}")
        all_of = " and ".join(_amount_text(kind, amount) for kind, amount in asked.items())
        found = sum(count_actors(node, needs.part()) for node in nodes)
        if not found:
            raise RunError(f"{where}: no node has {'both ' * (len(asked) == 2)}{all_of}, for {_member_text(needs)}")
        if found < needs.processes:
            raise RunError(
                f"{where}: a member of {needs.processes} processes needs {all_of} for each, and the cluster has room "
                f"for {found} of them"
            )


def _member_text(needs: Resources) -> str:
    return "one member" if needs.processes == 1 else f"each of a member's {needs.processes} processes"


def _option_and_unit(kind: str) -> tuple[str, str, int]:
    """Return the option that sets a resource, its name in messages, and the number of Ray's units in one of it."""
    known = {"CPU": ("cpus", "CPUs", 1), "GPU": ("gpus", "GPUs", 1), "memory": ("memory_gib", "GiB", GIB)}
    return known.get(kind, ("custom", kind, 1))


def _amount_text(kind: str, amount: float) -> str:
    _, name, one = _option_and_unit(kind)
    return f"{amount / one:g} {name}"
