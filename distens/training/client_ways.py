"""The ways in which clients' networks are stacked: any network that a server can merge is trained somehow."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import Tensor, nn

from distens.errors import Refused
from distens.training.comparison import written_buffers
from distens.training.flat import statistics_names
from distens.training.stacked import Unstackable, find_way
from distens.training.ways import Way, lone_way

_WAYS: WeakKeyDictionary[nn.Module, Way] = WeakKeyDictionary()
"""The way to stack each network that a process uses from round to round: to find it may take as long as a step."""


def client_way(network: nn.Module, example: Tensor) -> Way:
    """Return the way to stack copies of a client's network; if there is none, each trains alone, by its own code.

    Args:
        network: the network.
        example: a few inputs (n, …), on the CPU.

    Raises:
        Refused: the network cannot be a client's.
    """
    if network not in _WAYS:
        try:
            way = find_way([network], example)
        except Unstackable as error:
            if not all(p.requires_grad for p in network.parameters()):
                raise Refused(f"clients' networks cannot be trained: {error}") from error
            way = lone_way(network, written_buffers(network, example))
        others = way.written - statistics_names(network)
        others = {name for name in others if name.rpartition(".")[2] != "num_batches_tracked"}
        if others:
            raise Refused(
                f"clients' networks cannot be trained: forward writes to the buffer {min(others)}, which is no running "
                "statistic of torch's own normalisation, so nobody would merge it"
            )
        _WAYS[network] = way
    return _WAYS[network]
