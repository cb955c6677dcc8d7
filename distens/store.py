"""A run's folder on any filesystem that pyarrow opens: atomic, checksummed writes; nothing is ever unpickled.

    config.yaml  run.json     what was asked
    journal/                  what was dispatched and what came back, in order
    members/<id>/<attempt>/   state.safetensors, search.arrow, combine.arrow, test.arrow, then report.json as the marker
    members/<id>/checkpoint   the last checkpoint, whoever wrote it: attempts of one task are the same computation;
                              the rungs of a member (m0007-1, m0007-3, …) share that of m0007, which stays when they end
    final/  figures/          the bundle, the pictures

Local files are written beside their place and renamed; object stores publish an object when it is closed. So a killed
process, however it ends, leaves whole files or none. What that does not cover is a machine that loses power: waiting
for the disk (`fsync`) costs forty times the write, and members write five files each. So only what cannot be made again
waits (`durable`): the journal, the run's description, the bundles. Members' files and checkpoints do not; `resume`
looks whether those of finished members are there, whole, and has the lost ones trained again.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs

from distens.credentials import holds
from distens.errors import StorageError, damage, shown
from distens.records import Address, Floats, State

META = "distens"

READ_BYTES = 1 << 20
"""Of a file that is looked at and not kept."""

SMALL_BYTES = 4096
"""Files up to this size are read: a mapping costs as much, and a process may have 65,530 of them."""


class Store:
    """One folder, reached through pyarrow. Cheap to open anywhere: send `url` and the root, not the object.

    Args:
        url: a local path or a pyarrow address such as `s3://bucket/runs/digits-1a2b3c4d`.

    Raises:
        StorageError: there is no such filesystem, or the address has credentials in it: it is stored, logged and shown.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        if holds(url):
            raise StorageError(
                f"storage {shown(url)}: an address with credentials in it; give those in the environment"
            )
        if "\0" in url:
            raise StorageError(f"storage {url!r}: a path has no NUL in it")
        try:
            if "://" in url:
                self._fs, self._root = fs.FileSystem.from_uri(url)
            else:
                self._fs, self._root = fs.LocalFileSystem(), str(Path(url).absolute())
        except (pa.ArrowInvalid, OSError) as error:
            raise StorageError(f"storage {url!r}: cannot be opened: {error}") from error
        self.local = isinstance(self._fs, fs.LocalFileSystem)

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (f"{self._root}" if self.local else self.url,)

    def path(self, name: str) -> str:
        """Return the full path of a name inside the folder; refuses names that lead out of it."""
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise StorageError(f"{self.url}: {name!r} leads out of the folder")
        return f"{self._root}/{name}" if name else self._root

    def exists(self, name: str) -> bool:
        """Return whether a file of that name is complete."""
        return self.size_bytes(name) is not None

    def size_bytes(self, name: str) -> int | None:
        """Return how long a file is; None if there is none of that name."""
        info = self._fs.get_file_info(self.path(name))
        return info.size if info.type == fs.FileType.File else None

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names of files and folders directly in a folder; none if it is not there."""
        found = self._fs.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True))
        return sorted(info.base_name for info in found if not info.base_name.endswith(".part"))

    def leads_out(self, name: str) -> bool:
        """Return whether a name is, or lies behind, a link that leads out of the folder."""
        return self.local and not Path(os.path.realpath(self.path(name))).is_relative_to(os.path.realpath(self._root))

    def holds(self, address: Address) -> bool:
        """Return whether a file is there, as long as it was written."""
        return self.size_bytes(address.path) == address.size_bytes

    def write(self, name: str, content: bytes, exclusive: bool = False, durable: bool = True) -> Address:
        """Write a file at once or not at all; `durable` waits until it would survive a loss of power.

        Raises:
            StorageError: the place cannot be written; or, with `exclusive`, the file is there already.
        """
        path = self.path(name)
        try:
            if self.local:
                part = f"{path}.{uuid.uuid4().hex}.part"
                with _open_new(part) as out:
                    out.write(content)
                    if durable:
                        out.flush()
                        os.fsync(out.fileno())
                if exclusive:  # a link, unlike a rename, never replaces
                    os.link(part, path)
                    os.remove(part)
                else:
                    os.replace(part, path)
            else:
                if exclusive and self.exists(name):
                    raise FileExistsError(17, "File exists")
                with self._fs.open_output_stream(path) as out:
                    out.write(content)
        except OSError as error:
            raise StorageError(f"{self.url}: cannot write {name}: {error}") from error
        return Address(name, hashlib.sha256(content).hexdigest(), len(content))

    def read(self, name: str, address: Address | None = None) -> bytes:
        """Return a file's content, checked against its address where one is given.

        Raises:
            StorageError: the file is missing, or is not what was written.
        """
        try:
            with self._fs.open_input_stream(self.path(name)) as source:
                content = source.read()
        except OSError as error:
            raise StorageError(f"{self.url}: cannot read {name}: {error}") from error
        if address is not None and hashlib.sha256(content).hexdigest() != address.sha256:
            raise StorageError(
                f"{self.url}: {name} is damaged: {len(content)} bytes whose SHA-256 is not the recorded "
                f"{address.sha256[:12]}… ({address.size_bytes} bytes)"
            )
        return content

    def verify(self, address: Address) -> None:
        """Look whether a file is there and is what was written, without holding it in memory.

        Raises:
            StorageError: it is not.
        """
        name, size = address.path, self.size_bytes(address.path)
        if size is None:
            raise StorageError(f"{self.url}: {name} is missing")
        if size != address.size_bytes:
            raise StorageError(f"{self.url}: {name} is damaged: {size} bytes instead of {address.size_bytes} bytes")
        digest = hashlib.sha256()
        try:
            with self._fs.open_input_stream(self.path(name)) as source:
                while content := source.read(READ_BYTES):
                    digest.update(content)
        except OSError as error:
            raise StorageError(f"{self.url}: cannot read {name}: {error}") from error
        if digest.hexdigest() != address.sha256:
            raise StorageError(
                f"{self.url}: {name} is damaged: its SHA-256 is {digest.hexdigest()} instead of {address.sha256}"
            )

    def delete(self, folder: str = "") -> None:
        """Remove a folder and all in it, if it is there."""
        if self._fs.get_file_info(self.path(folder)).type == fs.FileType.Directory:
            self._fs.delete_dir(self.path(folder))

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._fs.delete_file(self.path(name))

    def local_folder(self, folder: str, temporary: Path) -> Path:
        """Return a local path to a folder of this store; a remote one is copied to `temporary`."""
        if self.local:
            return Path(self.path(folder))
        fs.copy_files(self.path(folder), str(temporary), source_filesystem=self._fs)
        return temporary

    def write_json(self, name: str, value: Any) -> Address:
        """Write a value as JSON; numbers that are not finite are refused."""
        return self.write(name, json.dumps(value, allow_nan=False, indent=1).encode())

    def read_json(self, name: str, address: Address | None = None) -> Any:
        """Return a JSON file's value."""
        with damage(f"{self.url}/{name}"):
            return json.loads(self.read(name, address))

    def write_state(self, name: str, state: State, durable: bool = True) -> Address:
        """Write a state as one safetensors file, its description in the header."""
        from safetensors.numpy import save

        arrays = {key: np.asarray(value, order="C") for key, value in state.arrays.items()}
        return self.write(name, save(arrays, metadata={META: json.dumps(dict(state.meta))}), durable=durable)

    def read_state(self, name: str, address: Address | None = None) -> State:
        """Return the state in a safetensors file."""
        return decode_state(self.read(name, address), f"{self.url}/{name}")

    def write_predictions(self, name: str, probs_NC: Floats, durable: bool = True) -> Address:
        """Write class probabilities as an Arrow file: one column of N lists of C float32."""
        flat = pa.array(np.ascontiguousarray(probs_NC, dtype=np.float32).ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, probs_NC.shape[1])
        sink = pa.BufferOutputStream()
        batch = pa.record_batch({"probabilities": column})
        with pa.ipc.new_file(sink, batch.schema) as out:
            out.write_batch(batch)
        return self.write(name, sink.getvalue().to_pybytes(), durable=durable)

    def read_predictions(self, address: Address) -> Floats:
        """Return probs_NC, float32, read-only; memory-mapped where the file is local and not small."""
        mapped = self.local and address.size_bytes > SMALL_BYTES
        try:
            with self._opened(address, mapped) as source:  # a mapping outlives its file, whose descriptor is given back
                if source.size() != address.size_bytes:
                    found = f"{source.size()} bytes instead of {address.size_bytes}"
                    raise StorageError(f"{self.url}: {address.path} is damaged: {found}")
                # Not `read_all` and `combine_chunks`: they copy, and then nothing is mapped.
                batch = pa.ipc.open_file(source).get_batch(0)
                batch.validate()  # that lengths lie in the file: what follows does not look
                column = batch.column(0)
        except (OSError, pa.ArrowException, IndexError) as error:
            raise StorageError(f"{self.url}: cannot read {address.path}: {error}") from error
        if not (pa.types.is_fixed_size_list(column.type) and column.type.value_type == pa.float32()):
            raise StorageError(f"{self.url}: {address.path} is damaged: it holds no probabilities but {column.type}")
        probs_NC = column.flatten().to_numpy().reshape(len(column), -1)
        if self.local and not mapped:  # of a small file, half is its description
            probs_NC = probs_NC.copy()
            probs_NC.flags.writeable = False
        return probs_NC

    def _opened(self, address: Address, mapped: bool) -> Any:
        if mapped:
            return pa.memory_map(self.path(address.path))
        content = Path(self.path(address.path)).read_bytes() if self.local else self.read(address.path, address)
        return pa.BufferReader(content)


def _open_new(path: str) -> BinaryIO:
    try:
        return open(path, "xb")
    except FileNotFoundError:  # rarer than looking for the folder every time
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "xb")


def decode_state(content: bytes, where: str) -> State:
    """Return the state in the bytes of a safetensors file. Nothing is unpickled."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        with damage(where):
            arrays: dict[str, NDArray[Any]] = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            meta = json.loads(header.get("__metadata__", {}).get(META, "{}"))
            if not isinstance(meta, dict):
                raise TypeError(f"its description is no mapping but {shown(meta)}")
    except SafetensorError as error:
        raise StorageError(f"{where} is damaged: {error}") from error
    return State(arrays, meta)


class Journal:
    """What was dispatched and what came back, in order; small files, so that it works on object stores: one for
    every pack that is dispatched, and one for every list of outcomes.

    Each entry is written before it is acted on. Numbers are taken exclusively: a second coordinator on the same run
    fails instead of mixing its entries with ours.
    """

    def __init__(self, store: Store, folder: str = "journal") -> None:
        self._store, self._folder = store, folder
        self._names = store.names(folder)
        self._next = len(self._names)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield what was there when this journal was opened, in order; nothing of it is kept."""
        for name in self._names:
            yield from self._store.read_json(f"{self._folder}/{name}")

    def replay(self, take: Callable[[dict[str, Any]], None]) -> None:
        """Hand over the same entries.

        Raises:
            StorageError: a file is damaged, or holds an entry that `take` can make nothing of.
        """
        for name in self._names:
            with damage(f"{self._store.url}/{self._folder}/{name}"):
                for entry in self._store.read_json(f"{self._folder}/{name}"):
                    take(entry)

    def append(self, *entries: dict[str, Any]) -> None:
        """Write entries, all at once.

        Raises:
            StorageError: storage failed, or another process is running the same run.
        """
        content = json.dumps(entries, allow_nan=False).encode()
        try:
            self._store.write(f"{self._folder}/{self._next:08d}.json", content, exclusive=True)
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise StorageError(f"{self._store.url}: another process is running this run; stop it first") from error
            raise
        self._next += 1


class Checkpoint:
    """Where one task keeps its last checkpoint. Without a store it forgets: for tests and for what needs none."""

    def __init__(self, store: Store | None = None, task_id: str = "", every_seconds: float = 2.0) -> None:
        self._store = store
        self.every_seconds = every_seconds  # the least time between two; 0 keeps one after every epoch
        self._name = f"members/{task_id}/checkpoint.safetensors"

    def save(self, state: State) -> None:
        """Replace the checkpoint."""
        if self._store is not None:
            self._store.write_state(self._name, state, durable=False)

    def load(self) -> State | None:
        """Return the last checkpoint; None if there is none or it is damaged (then the task starts afresh)."""
        if self._store is None or not self._store.exists(self._name):
            return None
        try:
            return self._store.read_state(self._name)
        except StorageError:
            return None

    def clear(self) -> None:
        """Forget the checkpoint, once the task's report is written."""
        if self._store is not None and self._store.exists(self._name):
            self._store.remove(self._name)
