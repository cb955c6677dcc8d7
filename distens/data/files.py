"""Files by address: a local path, or anything that pyarrow opens (`file:///…`, `s3://…`). No pickle is ever loaded."""

from __future__ import annotations

import gzip
import io
import os
import posixpath
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import fs

from distens.errors import DAMAGE_ERRORS, DataError, StorageError, did_you_mean
from distens.storage import filesystem
from distens.storage.regular import open_regular

FORMS = {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet", ".pq": "parquet", ".npz": "npz"}
SMALL_BYTES, MAX_UNPACK_FACTOR = 64 * 2**20, 200
"""The limits of an unpacked file: SMALL_BYTES, or MAX_UNPACK_FACTOR times the packed size if that is more."""

MAX_COLUMNS = 20_000
"""The most columns of a table. Rows with more values are arrays: an `.npz` file holds them without names."""

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@dataclass(frozen=True)
class Location:
    """An existing file or folder; `address` is as the user wrote it."""

    address: str
    filesystem: fs.FileSystem
    path: str
    is_folder: bool

    def names(self) -> list[str]:
        """Return the sorted names in this folder."""
        return sorted(info.base_name for info in self.filesystem.get_file_info(fs.FileSelector(self.path)))

    def child(self, name: str) -> Location:
        """Return the location of a file in this folder."""
        return Location(f"{self.address.rstrip('/')}/{name}", self.filesystem, posixpath.join(self.path, name), False)

    def open(self) -> Any:
        """Return the file, opened for reading; a local one only if it is a regular file.

        Raises:
            OSError: the file cannot be opened, or is a pipe, a device or a folder.
        """
        if isinstance(self.filesystem, fs.LocalFileSystem):
            return open_regular(self.path)
        return self.filesystem.open_input_file(self.path)

    def content(self) -> bytes:
        """Return the file's bytes, decompressed if the file is gzipped.

        Raises:
            DataError: the file cannot be read, or its compressed data are damaged.
        """
        try:
            with self.open() as source:
                content = source.read()
            if content[:2] != b"\x1f\x8b":
                return content
            most = max(SMALL_BYTES, MAX_UNPACK_FACTOR * len(content))
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                unpacked = packed.read(most + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.address}: cannot be read: {error}") from error
        check_unpacked(len(unpacked), len(content), self.address)
        return unpacked

    def form(self) -> str:
        """Return the file's format, by its name: `csv`, `parquet`, `npz`, `idx`, or empty if unknown."""
        name = posixpath.basename(self.path).lower()
        if any(f"idx{axes}-ubyte" in name for axes in range(1, 5)):
            return "idx"
        return next((form for extension, form in FORMS.items() if name.endswith(extension)), "")


def check_unpacked(unpacked: int, packed: int, where: str, times: int = MAX_UNPACK_FACTOR) -> None:
    """Refuse a packed file that would fill the memory when it is unpacked.

    Raises:
        DataError: the file unpacks to more than SMALL_BYTES and to more than `times` its packed size.
    """
    if unpacked > max(SMALL_BYTES, times * packed):
        raise DataError(
            f"{where}: {packed:,} bytes unpack to more than {times} times as many; save it without compression"
        )


def locate(address: str) -> Location:
    """Return the file or folder at an address; a local path is relative to the working directory.

    Raises:
        DataError: there is no file or folder, the filesystem cannot be reached, or the address has credentials in it.
    """
    try:
        opened, path = filesystem.parse_address(address if "://" in address else os.path.expanduser(address))

        def look() -> fs.FileInfo:
            return opened(1).get_file_info(path)

        local = "://" not in address or address.startswith("file:")
        info = look() if local else filesystem.meet(address, look)
        files = opened(filesystem.ATTEMPTS)
        if info.type == fs.FileType.Unknown:  # a pipe or a device, whose content may never end
            raise DataError(f"{address}: neither a file nor a folder")
        if info.type != fs.FileType.NotFound:
            return Location(address, files, path, info.type == fs.FileType.Directory)
        folder = posixpath.dirname(path.rstrip("/"))
        found = files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        there = files.get_file_info(folder).type == fs.FileType.Directory
    except StorageError as error:
        raise DataError(str(error)) from error
    except (ValueError, OSError) as error:
        raise DataError(f"{address}: cannot be opened: {filesystem.explained(error)}") from error
    if not there:
        raise DataError(f"{address}: no such file, and no folder {folder}")
    hint = did_you_mean(posixpath.basename(path), sorted(i.base_name for i in found)[:50])
    raise DataError(f"{address}: no such file or folder. {hint.replace('Allowed', 'In that folder')}")


def check_names(names: Collection[str], where: str) -> None:
    """Check the names of a table's columns.

    Raises:
        DataError: there is no column, there are more than MAX_COLUMNS, one has no name, or two have the same.
    """
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{where}: {len(names):,} columns, and a table has at most {MAX_COLUMNS:,}; save it as .npz")
    seen: set[str] = set()
    for i, name in enumerate(names):
        if not name:
            raise DataError(f"{where}: column {i} (from 0) has no name; if it is a saved row index, save without it")
        if name in seen:
            raise DataError(f"{where}: two columns are named {name!r}")
        seen.add(name)
    if not seen:
        raise DataError(f"{where}: the file is empty, no header was found")


def read_npz(location: Location) -> Mapping[str, NDArray[Any]]:
    """Return the arrays of a `.npz` file.

    Raises:
        DataError: the file is damaged, or an array holds Python objects.
    """
    try:
        content = location.content()
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            sizes = [info.file_size for info in archive.zip.infolist()]
            check_unpacked(sum(sizes), len(content), location.address)
            return {name: _read_array(archive, name, location.address) for name in archive.files}
    except (*DAMAGE_ERRORS, MemoryError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{location.address}: not a readable .npz file: {error}") from error


def _read_array(archive: Any, name: str, where: str) -> NDArray[Any]:
    try:
        return archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(
            f"{where}: array {name!r} holds pickled Python objects, which are never loaded. "
            "Save it as numbers or text, e.g. numpy.array(values, dtype=str)"
        ) from error


def read_idx(location: Location) -> NDArray[Any]:
    """Return the array in an idx file (the format of MNIST, http://yann.lecun.com/exdb/mnist).

    The file holds two zero bytes, a code for the dtype, the number of axes, each axis's length as a big-endian uint32,
    then the numbers.

    Raises:
        DataError: the header is damaged, or the file's length does not agree with it.
    """
    content, where = location.content(), location.address
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_DTYPES or not 1 <= content[3] <= 4:
        raise DataError(f"{where}: damaged, or not an idx file: it begins with the bytes {content[:4].hex(' ')}")
    dtype, axes = np.dtype(IDX_DTYPES[content[2]]), content[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{where}: damaged: the header ends after {len(content)} of {start} bytes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", axes, offset=4))
    expected = start + dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise DataError(f"{where}: damaged: shape {shape} needs {expected} bytes, found {len(content)}")
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def find_idx(folder: Location, part: str, what: str) -> Location | None:
    """Return a folder's idx file with the `images` or `labels` of a part (`train`, `t10k`); None if there is none."""
    names = folder.names()
    for name in names:
        plain = name.removesuffix(".gz").replace(".idx", "-idx")
        if plain.startswith(f"{part}-{what}-idx") and plain.endswith("-ubyte"):
            return folder.child(name)
    return None
