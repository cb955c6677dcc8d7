"""The journal of a run: dispatched tasks and their outcomes, in order, in small files that suit object stores.

A driver writes each file before it acts on the entries in it. Of two drivers on one run at most one continues: only one
of them can take the next number, and the other stops. In a local folder a hard link ensures this, since it never
replaces a file. Object stores are not asked for conditional writes (pyarrow cannot send `If-None-Match`), so a file has
a name of its own there,

    journal/00000007/<writer of file 7>-<writer of file 6>.json

and its writer acts on it only after checking that the file is the only one under its number. Nothing is ever
overwritten, not even by a driver that was cut off for an hour and comes back. Of two drivers that write at once, the
later one sees the other's file, since listings show everything that was written before (Amazon, Google, MinIO and Ceph
promise that). If each sees the other's file, both stop. A file that a stopped driver left under a number is ignored:
every file names the writer of the one that it follows.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from distens.errors import StorageError, report_damage
from distens.storage.store import Store

FIRST = "first"


class Journal:
    """The journal in one folder: a file for the tasks that are dispatched at once, and one for each list of outcomes.

    Raises:
        StorageError: storage failed, or an entry is missing.
    """

    def __init__(self, store: Store, folder: str = "journal") -> None:
        self._store, self._folder = store, folder
        self._writer, self._last = uuid.uuid4().hex[:12], FIRST
        self._names = store.names(folder) if store.local else self._chain()
        self._next = len(self._names)

    def _chain(self) -> list[str]:
        """Return the names of the files that follow each other, in order; keep the writer of the last in `_last`."""
        found: dict[str, dict[str, str]] = {}
        for name in self._store.tree(self._folder):
            number, _, file = name.partition("/")
            writer, _, before = file.removesuffix(".json").partition("-")
            found.setdefault(number, {})[writer] = before
        names: list[str] = []
        # Where several files are under the last number, no driver has continued from any of them: take one. The tasks
        # that it dispatched are dispatched once more.
        writer = self._last = min(found[max(found)]) if found else FIRST
        for number in range(len(found) - 1, -1, -1):
            before = found.get(f"{number:08d}", {}).get(writer)
            if before is None:
                raise StorageError(f"{self._store.url}/{self._folder}: damaged: entry {number} is missing")
            names.append(f"{number:08d}/{writer}-{before}.json")
            writer = before
        return names[::-1]

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries that were there when this journal was opened, in order; none is kept in memory."""
        for _, found in self._read():
            yield from found

    def replay(self, take: Callable[[dict[str, Any]], None]) -> None:
        """Call `take` with each of the same entries, in order.

        Raises:
            StorageError: a file is damaged, or holds an entry that `take` cannot use.
        """
        for name, found in self._read():
            with report_damage(f"{self._store.url}/{name}"):
                for entry in found:
                    take(entry)

    def _read(self) -> Iterator[tuple[str, Any]]:
        names = [f"{self._folder}/{name}" for name in self._names]
        return zip(names, self._store.each(self._store.read_json, names), strict=True)

    def append(self, *entries: dict[str, Any]) -> None:
        """Append entries, all in one file.

        Raises:
            StorageError: storage failed, or another process is running the same run.
        """
        content = json.dumps(entries, allow_nan=False).encode()
        place = f"{self._folder}/{self._next:08d}"
        if not (self._write_by_link if self._store.local else self._write_and_check_alone)(place, content):
            raise StorageError(f"{self._store.url}: another process is running this run; stop it first")
        self._next += 1

    def _write_by_link(self, place: str, content: bytes) -> bool:
        try:
            self._store.write(f"{place}.json", content, exclusive=True)
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            raise
        return True

    def _write_and_check_alone(self, place: str, content: bytes) -> bool:
        name = f"{self._writer}-{self._last}.json"
        self._store.write(f"{place}/{name}", content)
        if self._store.names(place) != [name]:
            self._store.remove(f"{place}/{name}")
            return False
        self._last = self._writer
        return True
