"""The journal of a federation's rounds: a log of each, and the weights that the last rounds ended with.

A round is written when it is merged, the weights first, while the clients of the next round train; it is written before
the next round is merged. Nobody waits until the weights would survive a loss of power. Where those of the last round
are gone, the run resumes from the round before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from distens.errors import StorageError
from distens.merge.protocol import Memory
from distens.records import Address, Floats, State
from distens.storage.journal import Journal
from distens.storage.store import Store

KEPT = 2
"""The number of rounds whose weights are kept: the last, and the one before in case the last is not whole."""


@dataclass
class RoundLog:
    """The log of one round.

    Attributes:
        round: from 0.
        asked: the clients that were drawn.
        shares: client whose update was merged -> its share; None under rules that merge number by number.
        rows: client whose update was merged -> its number of rows, where no partition gives it.
        refused: client whose update was refused -> why.
        failed: client that sent no update -> why.
        retried: attempts that were lost and made again, as "client: why".
        loss: the mean, weighted by rows, of the merged clients' losses in their last local epochs; None if
            none of them measured it.
        refined: metrics of the distiller that refined the merged weights.
        seconds: from the round's start to the end of its merge and, with a distiller, of the refinement.
        metrics: of the weights that the round ended with, on the server's *search* rows; empty until the weights are
            judged, and if the server has no such rows.
    """

    round: int
    asked: list[str]
    shares: dict[str, float | None] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    retried: list[str] = field(default_factory=list)
    loss: float | None = math.nan
    refined: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def degraded(self) -> bool:
        """Return True if the update of a client that was drawn is missing from the merge."""
        return len(self.shares) < len(self.asked)


@dataclass(frozen=True)
class ServerState:
    """The server's state after a number of rounds.

    Attributes:
        rounds: the number of rounds that were merged.
        weights_P: the global weights.
        memory: the rule's memory (see `distens.merge.protocol.Round.memory`).
        norms: of the updates that the last round accepted: their distances from the weights that it began with.
        distiller: the memory of the distiller that refines merged weights.
        own: client -> what stays with it of its weights (see `distens.members.protocol.NormalisesBatches`).
    """

    rounds: int
    weights_P: Floats
    memory: Memory = field(default_factory=dict)
    norms: Sequence[float] = ()
    distiller: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Floats] = field(default_factory=dict)


class RoundsJournal:
    """The journal of the rounds that were merged.

    Args:
        store: the run's folder.

    Attributes:
        logs: round -> its log.
        taken: client -> the rounds in which its update was merged, ascending.
    """

    def __init__(self, store: Store) -> None:
        self.logs: dict[int, RoundLog] = {}
        self.taken: dict[str, list[int]] = {}
        self._store, self._journal = store, Journal(store, "rounds")
        self._states: dict[int, Address] = {}
        self._writer = ThreadPoolExecutor(1, "rounds")
        self._writing: Future[None] | None = None
        self._journal.replay(self._take)

    def _take(self, entry: dict[str, Any]) -> None:
        if "judged" in entry:
            self.logs[entry["judged"]].metrics = entry["metrics"]
        else:
            self._states[entry["round"]] = Address(*entry.pop("state"))
            self.logs[entry["round"]] = RoundLog(**entry)

    def restored(self) -> ServerState | None:
        """Return the server's state after the last round whose weights are stored whole, and forget later rounds.

        None if there is no such round.
        """
        found, self.taken = None, {}
        while self.logs and found is None:
            number = max(self.logs)
            found = self._read(number)
            if found is None:
                del self.logs[number], self._states[number]
        for log in self.logs.values():
            self._count(log)
        return found

    def _read(self, number: int) -> ServerState | None:
        address = self._states[number]
        try:
            state = self._store.read_state(address.path, address)
        except StorageError:
            return None

        def under(name: str) -> dict[str, Any]:
            return {k.removeprefix(name): v for k, v in state.arrays.items() if k.startswith(name)}

        weights_P = state.arrays["weights"]
        kept = under("memory/"), state.meta["norms"], under("distiller/"), under("own/")
        return ServerState(number + 1, weights_P, *kept)

    def keep(self, log: RoundLog, server: ServerState) -> None:
        """Journal a round and the server's state after it; return before that is written (see `settle`)."""
        self.settle()
        self.logs[log.round] = log
        self._count(log)
        self._writing = self._writer.submit(self._write, log.round, dict(vars(log)), server)

    def settle(self) -> None:
        """Wait until every round that `keep` was called with is written.

        Raises:
            StorageError: a round cannot be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, number: int, entry: dict[str, Any], server: ServerState) -> None:
        arrays = {"weights": server.weights_P}
        arrays |= {f"memory/{name}": numbers for name, numbers in server.memory.items()}
        arrays |= {f"distiller/{name}": array for name, array in server.distiller.items()}
        arrays |= {f"own/{client}": numbers for client, numbers in server.own.items()}
        state = State(arrays, {"norms": list(server.norms)})
        address = self._store.write_state(f"rounds-weights/{number:04d}.safetensors", state, durable=False)
        self._journal.append({**entry, "state": [address.path, address.sha256, address.size_bytes]})
        self._states[number] = address
        old = self._states.pop(number - KEPT, None)
        if old is not None:
            self._store.remove(old.path)

    def judge(self, number: int, metrics: dict[str, float]) -> RoundLog:
        """Journal the metrics of a round's weights on the server's rows; return the round's log."""
        self.settle()
        self.logs[number].metrics = metrics
        self._journal.append({"judged": number, "metrics": metrics})
        return self.logs[number]

    def _count(self, log: RoundLog) -> None:
        for client in log.shares:
            self.taken.setdefault(client, []).append(log.round)
