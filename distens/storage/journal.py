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

Every entry carries a checksum (entries of older versions have none). Files of other names, which systems and editors
leave, are not the journal's.
"""

from __future__ import annotations

import json
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distens.errors import StorageError, report_damage
from distens.storage.limits import MAX_JSON_BYTES
from distens.storage.store import Store

FIRST = "first"

CHECKSUM = "crc32"
"""The key of an entry's checksum, over the rest of it as JSON."""

MAX_FILE_BYTES = 16 << 20
"""The size from which entries that come together are divided among several files."""

_NUMBER = r"(\d{8}|[1-9]\d{8,})"
_LOCAL = re.compile(rf"{_NUMBER}\.json", re.ASCII)
_REMOTE = re.compile(rf"{_NUMBER}/(\w+)-(\w+)\.json", re.ASCII)


class Journal:
    """The journal in one folder: a file for the tasks that are dispatched at once, and one for each list of outcomes.

    Raises:
        StorageError: storage failed, or an entry is missing.
    """

    def __init__(self, store: Store, folder: str = "journal") -> None:
        self._store, self._folder = store, folder
        self._writer, self._last = uuid.uuid4().hex[:12], FIRST
        self._names = self._numbered() if store.local else self._chain()
        self._next = len(self._names)

    def _numbered(self) -> list[str]:
        """Return the names of the files in a local folder, in order."""
        found = filter(_LOCAL.fullmatch, self._store.names(self._folder))
        numbers = sorted(int(name.removesuffix(".json")) for name in found)
        for number, there in enumerate(numbers):
            if number != there:
                raise self._missing(number, numbers[-1])
        return [f"{number:08d}.json" for number in numbers]

    def _missing(self, number: int, last: int) -> StorageError:
        return StorageError(
            f"{self._store.url}/{self._folder}: damaged: entry {number} is missing ({number:08d}), and the last one is "
            f"{last:08d}"
        )

    def _chain(self) -> list[str]:
        """Return the names of the files that follow each other, in order; keep the writer of the last in `_last`."""
        found: dict[int, dict[str, str]] = {}
        for name in filter(None, map(_REMOTE.fullmatch, self._store.tree(self._folder))):
            found.setdefault(int(name[1]), {})[name[2]] = name[3]
        names: list[str] = []
        last = max(found, default=-1)
        # Where several files are under the last number, no driver has continued from any of them: take one. The tasks
        # that it dispatched are dispatched once more.
        writer = self._last = min(found[last]) if found else FIRST
        for number in range(last, -1, -1):
            before = found.get(number, {}).get(writer)
            if before is None:
                raise self._missing(number, last)
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

    def _read(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield the name of each file and its entries, whose checksums are right."""
        names = [f"{self._folder}/{name}" for name in self._names]
        for name, found in zip(names, self._store.each(self._store.read_json, names), strict=True):
            if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
                raise StorageError(f"{self._store.url}/{name} is damaged: expected a list of entries")
            for place, entry in enumerate(found):
                checksum = entry.pop(CHECKSUM, None)
                if checksum is not None and checksum != zlib.crc32(json.dumps(entry).encode()):
                    raise StorageError(
                        f"{self._store.url}/{name} is damaged: entry {place + 1} of {len(found)} is not what was "
                        "written: its checksum is wrong"
                    )
            yield name, found

    def append(self, *entries: dict[str, Any]) -> None:
        """Append entries, all in one file unless they are large.

        Raises:
            StorageError: storage failed, another process is running the same run, or an entry is too large.
        """
        file, size = list[str](), 0
        for text in map(_checked, entries):
            if len(text) > MAX_JSON_BYTES // 2:
                raise StorageError(f"{self._store.url}/{self._folder}: an entry of {len(text):,} bytes is too large")
            if file and size + len(text) > MAX_FILE_BYTES:
                self._append_file(file)
                file, size = [], 0
            file.append(text)
            size += len(text)
        self._append_file(file)

    def _append_file(self, entries: Sequence[str]) -> None:
        content = f"[{', '.join(entries)}]".encode()
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
        if [other for other in self._store.names(place) if _REMOTE.fullmatch(f"{self._next:08d}/{other}")] != [name]:
            self._store.remove(f"{place}/{name}")
            return False
        self._last = self._writer
        return True


_encode = json.JSONEncoder(allow_nan=False).encode  # made once: `json.dumps` would make an encoder at every call


def _checked(entry: dict[str, Any]) -> str:
    """Return an entry as JSON, with its checksum."""
    text = _encode(entry)
    comma = ", " if entry else ""
    return f'{text[:-1]}{comma}"{CHECKSUM}": {zlib.crc32(text.encode())}}}'
