"""The last checkpoint of a task."""

from __future__ import annotations

from distens.errors import StorageError
from distens.records import State
from distens.storage.store import Store


class Checkpoint:
    """The last checkpoint of one task, in a store.

    Without a store nothing is kept: for tests, and for tasks that need no checkpoint.
    """

    def __init__(self, store: Store | None = None, task_id: str = "", every_seconds: float = 2.0) -> None:
        self._store = store
        self.every_seconds = every_seconds  # the least time between two checkpoints; 0 saves one after every epoch
        self._name = f"members/{task_id}/checkpoint.safetensors"

    def save(self, state: State) -> None:
        """Replace the checkpoint."""
        if self._store is not None:
            self._store.write_state(self._name, state, durable=False)

    def load(self) -> State | None:
        """Return the last checkpoint; None if there is none or it is damaged (then the task starts afresh)."""
        if self._store is None:
            return None
        try:
            return self._store.read_state(self._name)
        except StorageError:
            return None

    def clear(self) -> None:
        """Forget the checkpoint, once the task's report is written."""
        if self._store is not None:
            self._store.remove(self._name)
