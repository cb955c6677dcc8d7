"""What was dispatched and what came back, in order: small files, so that it works on object stores.

Each entry is written before it is acted on, and of two drivers on one run at most one goes on: each number is taken by
one of them, and the other stops. A folder has it from a link, which never replaces a file. Object stores are not asked
for conditions (pyarrow cannot say `If-None-Match`), so an entry has a name of its own there,

    journal/00000007/<who wrote it>-<who wrote entry 6>.json

and whoever wrote one looks whether it is alone under its number before acting on it. Nothing is ever overwritten, not
by a driver that was cut off for an hour and comes back; and of two that write at once, the later sees the other's, as
listings show what was written before (Amazon, Google, MinIO and Ceph promise that). Perhaps both see it, and both stop.
What a stopped driver left under a number is ignored: entries name the one that they follow.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from distens.errors import StorageError, damage
from distens.storage.store import Store

FIRST = "first"


class Journal:
    """The entries under one folder: one file for what is dispatched at once, and one for every list of outcomes.

    Raises:
        StorageError: storage failed, or an entry is missing.
    """

    def __init__(self, store: Store, folder: str = "journal") -> None:
        self._store, self._folder = store, folder
        self._ours, self._last = uuid.uuid4().hex[:12], FIRST
        self._names = store.names(folder) if store.local else self._chain()
        self._next = len(self._names)

    def _chain(self) -> list[str]:
        """Return the names of the entries that follow each other; note who wrote the last."""
        found: dict[str, dict[str, str]] = {}
        for name in self._store.tree(self._folder):
            number, _, file = name.partition("/")
            writer, _, before = file.removesuffix(".json").partition("-")
            found.setdefault(number, {})[writer] = before
        names: list[str] = []
        # From none of several under the last number has anybody gone on: what one of them dispatched is so once more.
        writer = self._last = min(found[max(found)]) if found else FIRST
        for number in range(len(found) - 1, -1, -1):
            before = found.get(f"{number:08d}", {}).get(writer)
            if before is None:
                raise StorageError(f"{self._store.url}/{self._folder}: damaged: entry {number} is missing")
            names.append(f"{number:08d}/{writer}-{before}.json")
            writer = before
        return names[::-1]

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield what was there when this journal was opened, in order; nothing of it is kept."""
        for _, found in self._read():
            yield from found

    def replay(self, take: Callable[[dict[str, Any]], None]) -> None:
        """Hand over the same entries.

        Raises:
            StorageError: a file is damaged, or holds an entry that `take` can make nothing of.
        """
        for name, found in self._read():
            with damage(f"{self._store.url}/{name}"):
                for entry in found:
                    take(entry)

    def _read(self) -> Iterator[tuple[str, Any]]:
        names = [f"{self._folder}/{name}" for name in self._names]
        return zip(names, self._store.each(self._store.read_json, names), strict=True)

    def append(self, *entries: dict[str, Any]) -> None:
        """Write entries, all at once.

        Raises:
            StorageError: storage failed, or another process is running the same run.
        """
        content = json.dumps(entries, allow_nan=False).encode()
        place = f"{self._folder}/{self._next:08d}"
        if not (self._linked if self._store.local else self._alone)(place, content):
            raise StorageError(f"{self._store.url}: another process is running this run; stop it first")
        self._next += 1

    def _linked(self, place: str, content: bytes) -> bool:
        try:
            self._store.write(f"{place}.json", content, exclusive=True)
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            raise
        return True

    def _alone(self, place: str, content: bytes) -> bool:
        name = f"{self._ours}-{self._last}.json"
        self._store.write(f"{place}/{name}", content)
        if self._store.names(place) != [name]:
            self._store.remove(f"{place}/{name}")
            return False
        self._last = self._ours
        return True
