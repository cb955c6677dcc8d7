"""A run's folder on any filesystem that pyarrow opens: atomic, checksummed writes; nothing is ever unpickled.

    config.yaml  run.json     the run's config and description
    journal/                  dispatched tasks and their outcomes, in order
    members/<id>/<attempt>/   state.safetensors, search.arrow, combine.arrow, test.arrow, then report.json as the marker
    members/<id>/checkpoint   the last checkpoint, of any attempt: attempts of one task are the same computation;
                              the rungs of a member (m0007-1, m0007-3, …) share that of m0007, which stays when they end
    final/  figures/          the bundles, the figures
    results.2.json  final/2/  the next edition of the results, if more was asked of the run (`distens.storage.editions`)

A local file is written under another name and renamed; object stores publish an object when it is closed. So a killed
process leaves whole files or none (and perhaps parts of a large upload, which a bucket's lifecycle rule clears away).
A machine that loses power may lose files all the same. Waiting for the disk (`fsync`) takes forty times as long as the
write, and members write five files each, so only files that cannot be made again are waited for (`durable`): the
journal, the run's description, the bundles. Members' files and checkpoints are not waited for; `resume` checks that the
files of finished members are there and whole, and has members with lost files trained again.

On an object store each of these files takes one request to write and two to read (pyarrow asks for the length first).
Storage that is unavailable for minutes is waited for: see `distens.storage.filesystem`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow.fs import FileSystem

from distens.errors import StorageError, StorageFailed, report_damage, shorten_value
from distens.records import Address, Floats, State
from distens.storage import filesystem, limits
from distens.storage.local import LocalFolder
from distens.storage.regular import UnfitFile
from distens.storage.remote import RemoteFolder

META = "distens"

READ_BYTES = 1 << 20
"""The bytes read at a time from a file that is verified and not kept."""

SMALL_BYTES = 4096
"""Files up to this size are read, not mapped: a mapping costs as much, and a process may have 65,530 mappings."""

MAX_REQUESTS_AT_ONCE = 16
"""The number of requests at once to a remote store, where many files are read."""

_OF_ONE_FILE = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, UnfitFile)
_OF_ONE_WRITE = (FileNotFoundError, FileExistsError, UnfitFile)
"""The errors at one file that leave the storage usable. What stands where a file is to be written, such as a file in a
folder's place, is in every other member's way, too; where a file is read, it is damage."""

One = TypeVar("One")
CallResult = TypeVar("CallResult")


class Store:
    """A folder on any filesystem that pyarrow opens. It is cheap to open and to send: pickled, it is its address alone.

    Args:
        url: a local path or a pyarrow address such as `s3://bucket/runs/digits-1a2b3c4d`.

    Raises:
        StorageError: there is no such filesystem, or the address has credentials in it (addresses are stored, logged
            and shown).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._open, self._root = filesystem.parse_address(url)
        self.local = "://" not in url or url.startswith("file:")
        self._folder = LocalFolder(self._root) if self.local else RemoteFolder(self._filesystem, self._root)
        self._patience = filesystem.OutageRetries(url)
        self._met = False  # only storage that has answered before is waited for; else its address may be wrong

    def __reduce__(self) -> tuple[type[Store], tuple[str], dict[str, Any]]:
        return Store, (f"{self._root}" if self.local else self.url,), {"_met": self._met}

    def _filesystem(self) -> FileSystem:
        return self._open(filesystem.ATTEMPTS if self._met else 1)

    def path(self, name: str) -> str:
        """Return the full path of a name inside the folder; a name that leads out of it raises StorageError."""
        self._check(name)
        return f"{self._root}/{name}" if name else self._root

    def _check(self, name: str) -> None:
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise StorageError(f"{self.url}: {name!r} leads out of the folder")

    def _ask(
        self, doing: str, call: Callable[[], CallResult], of_one: tuple[type[OSError], ...] = _OF_ONE_FILE
    ) -> CallResult:
        """Return the result of a call to the filesystem.

        Args:
            of_one: the errors that concern one file, not the storage.

        Raises:
            StorageError: one of these; the cause is the filesystem's own error.
            StorageFailed: any other error of the filesystem.
        """
        try:
            if self.local:
                return call()
            if self._met:
                return self._patience.ask(call, filesystem.PATIENCE_SECONDS)
            found = filesystem.meet(self.url, call)
        except (OSError, pa.ArrowException) as error:  # Azure's client raises the latter
            kind = StorageError if isinstance(error, of_one) else StorageFailed
            raise kind(f"{self.url}: cannot {doing}: {filesystem.explained(error)}") from error
        self._met = True
        return found

    def exists(self, name: str) -> bool:
        """Return True if a file of that name exists; it is complete then."""
        return self.size_bytes(name) is not None

    def size_bytes(self, name: str) -> int | None:
        """Return the size of a file; None if there is none of that name."""
        self._check(name)
        return self._ask(f"look for {name or 'it'}", lambda: self._folder.size_bytes(name))

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names of files and folders directly in a folder; none if the folder does not exist."""
        self._check(folder)
        found = self._ask(f"list {folder or 'it'}", lambda: self._folder.names(folder))
        return sorted(name for name in found if not name.endswith(".part"))

    def tree(self, folder: str) -> list[str]:
        """Return the sorted names of all files under a folder, relative to it; an object store is listed once."""
        self._check(folder)
        found = self._ask(f"list {folder or 'it'}", lambda: list(self._folder.tree(folder)))
        return sorted(name for name in found if not name.endswith(".part"))

    def leads_out(self, name: str) -> bool:
        """Return True if a name is, or lies behind, a link that leads out of the folder."""
        self._check(name)
        try:
            if isinstance(self._folder, LocalFolder):
                self._folder.check_links(name)
        except UnfitFile:
            return True
        return False

    def has_file(self, address: Address) -> bool:
        """Return True if a file is there and has the size that was written."""
        return self.size_bytes(address.path) == address.size_bytes

    def write(self, name: str, content: bytes, exclusive: bool = False, durable: bool = True) -> Address:
        """Write a file whole or not at all; `durable` waits until it would survive a loss of power.

        Raises:
            StorageError: the file cannot be written; or, with `exclusive`, the file is there already.
        """
        self._check(name)
        self._ask(f"write {name}", lambda: self._folder.write(name, content, exclusive, durable), _OF_ONE_WRITE)
        return Address(name, hashlib.sha256(content).hexdigest(), len(content))

    @contextmanager
    def _opened(self, name: str, address: Address | None = None) -> Iterator[Any]:
        """Yield a file that is open for reading; a local one's size is as recorded, or what such a file may have."""
        self._check(name)
        with self._folder.open(name, None if address else limits.find_max_bytes(name)) as source:
            if self.local:
                size = os.fstat(source.fileno()).st_size
                if address is not None and size != address.size_bytes:
                    raise self._damaged(name, f"{size} bytes instead of {address.size_bytes}")
                if limits.is_hollow(name, source, size):
                    raise self._damaged(name, f"{size:,} bytes without a header")
            yield source

    def _damaged(self, name: str, why: str) -> StorageError:
        return StorageError(f"{self.url}: {name} is damaged: {why}")

    def read(self, name: str, address: Address | None = None) -> bytes:
        """Return a file's content, checked against its address where one is given.

        Raises:
            StorageError: the file is missing, or its content is not what was written.
        """

        def get() -> bytes:
            with self._opened(name, address) as source:
                return source.read()

        content = self._ask(f"read {name}", get)
        if address is not None and hashlib.sha256(content).hexdigest() != address.sha256:
            raise self._damaged(
                name,
                f"{len(content)} bytes whose SHA-256 is not the recorded {address.sha256[:12]}… "
                f"({address.size_bytes} bytes)",
            )
        return content

    def verify(self, address: Address) -> None:
        """Check that a file is there and holds what was written, without holding it in memory.

        Raises:
            StorageError: the file is missing or damaged.
        """
        name, size = address.path, self.size_bytes(address.path)
        if size is None:
            raise StorageError(f"{self.url}: {name} is missing")
        if size != address.size_bytes:
            raise self._damaged(name, f"{size} bytes instead of {address.size_bytes} bytes")

        def digest() -> str:
            found = hashlib.sha256()
            with self._opened(name, address) as source:
                while content := source.read(READ_BYTES):
                    found.update(content)
            return found.hexdigest()

        found = self._ask(f"read {name}", digest)
        if found != address.sha256:
            raise self._damaged(name, f"its SHA-256 is {found} instead of {address.sha256}")

    def each(self, call: Callable[[One], CallResult], items: Iterable[One]) -> Iterator[CallResult]:
        """Yield the result of a reading call for each item, in order; calls overlap where storage is remote."""
        if self.local:
            yield from map(call, items)
        else:
            with ThreadPoolExecutor(MAX_REQUESTS_AT_ONCE, "distens-store") as pool:
                yield from pool.map(call, items)

    def delete(self, folder: str = "") -> None:
        """Remove a folder and everything in it, if it is there; links are removed, not followed."""
        self._check(folder)
        self._ask(f"delete {folder or 'it'}", lambda: self._folder.delete(folder))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        self._check(name)
        self._ask(f"remove {name}", lambda: self._folder.remove(name))

    def local_folder(self, folder: str, temporary: Path) -> Path:
        """Return a local path to a folder of this store; a remote one is copied to `temporary`.

        Raises:
            StorageError: in the folder is a link that leads out of the store, or something that is no file.
        """
        if isinstance(self._folder, LocalFolder):
            self.tree(folder)  # whoever gets the path will follow links
            return Path(self.path(folder))
        self._check(folder)
        remote = self._folder
        self._ask(f"read {folder}", lambda: remote.copy(folder, str(temporary)))
        return temporary

    def write_json(self, name: str, value: Any) -> Address:
        """Write a value as JSON; numbers that are not finite are refused."""
        return self.write(name, json.dumps(value, allow_nan=False, indent=1).encode())

    def read_json(self, name: str, address: Address | None = None) -> Any:
        """Return a JSON file's value."""
        with report_damage(f"{self.url}/{name}"):
            return json.loads(self.read(name, address))

    def write_state(self, name: str, state: State, durable: bool = True) -> Address:
        """Write a state as one safetensors file, its description in the header."""
        from safetensors.numpy import save

        arrays = {key: np.asarray(value, order="C") for key, value in state.arrays.items()}
        return self.write(name, save(arrays, metadata={META: json.dumps(dict(state.meta))}), durable=durable)

    def read_state(self, name: str, address: Address | None = None) -> State:
        """Return the state in a safetensors file."""
        return decode_state(self.read(name, address), f"{self.url}/{name}")

    def write_predictions(self, name: str, predictions_NK: Floats, durable: bool = True) -> Address:
        """Write class probabilities as an Arrow file: one column of N lists of C float32."""
        flat = pa.array(np.ascontiguousarray(predictions_NK, dtype=np.float32).ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, predictions_NK.shape[1])
        sink = pa.BufferOutputStream()
        batch = pa.record_batch({"probabilities": column})
        with pa.ipc.new_file(sink, batch.schema) as out:
            out.write_batch(batch)
        return self.write(name, sink.getvalue().to_pybytes(), durable=durable)

    def read_predictions(self, address: Address) -> Floats:
        """Return predictions_NK, float32, read-only; memory-mapped where the file is not small.

        A remote file is copied to this machine first, once: searches read the same predictions over and over.
        """
        mapped = address.size_bytes > SMALL_BYTES
        try:
            # A mapping stays valid after its file is closed, so no descriptor is kept.
            with (
                self._opened_copy(address) as file,
                _mapped(file) if mapped else pa.BufferReader(file.read()) as source,
            ):
                # Not `read_all` and `combine_chunks`: they copy, and then nothing is mapped.
                batch = pa.ipc.open_file(source).get_batch(0)
                batch.validate()  # checks that lengths lie in the file; the code below does not
                column = batch.column(0)
        except (OSError, pa.ArrowException, IndexError, ValueError) as error:
            raise StorageError(f"{self.url}: cannot read {address.path}: {error}") from error
        if not (pa.types.is_fixed_size_list(column.type) and column.type.value_type == pa.float32()):
            raise StorageError(f"{self.url}: {address.path} is damaged: expected probabilities, found {column.type}")
        try:
            predictions_NK = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        except ValueError as error:  # Arrow's too: nulls
            raise StorageError(f"{self.url}: {address.path} is damaged: a row has no predictions") from error
        if not mapped:  # a view would keep the whole file in memory, and half of a small one is its description
            predictions_NK = predictions_NK.copy()
            predictions_NK.flags.writeable = False
        return predictions_NK

    def read_all_predictions(self, addresses: Sequence[Address]) -> list[Floats]:
        """Return the predictions at each address, as `read_predictions` does; remote ones are read several at once."""
        return list(self.each(self.read_predictions, addresses))

    @contextmanager
    def _opened_copy(self, address: Address) -> Iterator[BinaryIO]:
        """Yield a file of this machine, open, that holds what is at an address; a remote one is copied first, once."""
        if self.local:
            with self._opened(address.path, address) as source:
                yield source
            return
        copies, name = LocalFolder(str(_copies())), f"{address.sha256}.arrow"
        if copies.size_bytes(name) is None:
            content = self.read(address.path, address)
            with filesystem.report_failure(f"{_copies()}/{name}"):
                copies.write(name, content, exclusive=False, durable=False)
        with copies.open(name) as source:
            yield source


@cache
def _copies() -> Path:
    """Return the folder of this process's copies of remote predictions, which are named by their content's hash."""
    return filesystem.make_temporary_folder()


def _mapped(file: BinaryIO) -> pa.MemoryMappedFile:
    """Return a mapping of an open file: by its number, as another file may be under its name by now."""
    try:
        return pa.memory_map(f"/proc/self/fd/{file.fileno()}")
    except FileNotFoundError:  # not Linux
        return pa.memory_map(file.name)


def decode_state(content: bytes, where: str) -> State:
    """Return the state in the bytes of a safetensors file. Nothing is unpickled."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        with report_damage(where):
            arrays: dict[str, NDArray[Any]] = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            meta = json.loads(header.get("__metadata__", {}).get(META, "{}"))
            if not isinstance(meta, dict):
                raise TypeError(f"its description must be a mapping, found {shorten_value(meta)}")
    except SafetensorError as error:
        raise StorageError(f"{where} is damaged: {error}") from error
    return State(arrays, meta)
