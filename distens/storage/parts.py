"""The parts that a task leaves: the models of a training that leaves several."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from distens.errors import StorageError
from distens.records import Address, State
from distens.storage.checkpoint import Checkpoint
from distens.storage.store import Store

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class StoredPart:
    """A part that a task has left.

    Attributes:
        number: the number of parts that were left before it.
        state: the address of its state; None without a store.
        metrics: the part's metrics, as its training gave them.
    """

    number: int
    state: Address | None
    metrics: Mapping[str, float]


class Parts:
    """The models that one task leaves; each is whole once it is left, so a later attempt trains only the others.

        for name in ("early", "late"):
            if name not in parts:
                ...                                     # train it
                parts.leave(name, member.state(), {"epochs": 3})

    Without a store the models are kept in memory: for tests and for tasks that are not stored.
    """

    def __init__(self, store: Store | None = None, task_id: str = "", attempt: int = 1, member: str = "") -> None:
        self._store, self._task, self._attempt = store, task_id, attempt
        self._member = member or task_id  # the rungs of a member share its parts' checkpoints
        self._left: dict[str, StoredPart] = {}
        self._states: dict[str, State] = {}
        if store is not None and attempt > 1:
            self._left = dict(sorted(self._found(store), key=lambda pair: pair[1].number))

    def _found(self, store: Store) -> Iterator[tuple[str, StoredPart]]:
        """Yield the name of each part that earlier attempts left, and the part."""
        folder = f"members/{self._task}"
        for attempt in filter(str.isdigit, store.names(folder)):
            for name in store.names(f"{folder}/{attempt}"):
                if _NAME.fullmatch(name) and store.exists(f"{folder}/{attempt}/{name}/part.json"):
                    try:
                        left = _read_part(store.read_json(f"{folder}/{attempt}/{name}/part.json"))
                    except (StorageError, KeyError, TypeError, ValueError):  # damaged: the part is trained again
                        continue
                    if left.state is not None and store.has_file(left.state):
                        yield name, left

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def __iter__(self) -> Iterator[str]:
        return iter(self._left)

    def __len__(self) -> int:
        return len(self._left)

    def __getitem__(self, name: str) -> StoredPart:
        return self._left[name]

    def leave(self, name: str, state: State, metrics: Mapping[str, float] = {}) -> None:
        """Keep a model as a part; the part is whole once this returns.

        Args:
            name: letters, digits, _ and -, beginning with a letter; no other part has it.
            metrics: the part's metrics.
        """
        if not _NAME.fullmatch(name) or name in self._left:
            raise ValueError(
                "a part's name must begin with a letter, hold only letters, digits, _ and -, and not be taken; "
                f"found {name!r}"
            )
        number, address = len(self._left), None
        if self._store is None:
            self._states[name] = state
        else:
            folder = f"members/{self._task}/{self._attempt}/{name}"
            address = self._store.write_state(f"{folder}/state.safetensors", state, durable=False)
            content = {"number": number, "state": asdict(address), "metrics": dict(metrics)}
            # As members' other files, it is not waited for: after a power loss the part may be trained again.
            self._store.write(f"{folder}/part.json", json.dumps(content, allow_nan=False).encode(), durable=False)
        self._left[name] = StoredPart(number, address, dict(metrics))

    def state(self, name: str) -> State:
        """Return the state of a part that was left."""
        if self._store is None:
            return self._states[name]
        address = self._left[name].state
        assert address is not None, "what is stored has an address"
        return self._store.read_state(address.path, address)

    def checkpoint(self, name: str, like: Checkpoint) -> Checkpoint:
        """Return the checkpoint of a part that is still being trained, saved as often as `like`."""
        return Checkpoint(self._store, f"{self._member}/{name}", like.every_seconds)

    def clear(self) -> None:
        """Forget the parts' checkpoints, once the task's report is written."""
        for name in self._left:
            Checkpoint(self._store, f"{self._member}/{name}").clear()


def _read_part(values: Mapping[str, Any]) -> StoredPart:
    return StoredPart(int(values["number"]), Address(**values["state"]), dict(values["metrics"]))
