"""A folder on any filesystem that pyarrow opens, by the same methods as `distens.storage.local.LocalFolder`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pyarrow import fs


class RemoteFolder:
    """A folder, and what is in it by name; it need not exist. Every method raises OSError if it fails.

    Args:
        opened: returns the filesystem.
        root: the folder's path on it.
    """

    def __init__(self, opened: Callable[[], fs.FileSystem], root: str) -> None:
        self._fs, self._root = opened, root

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _list(self, folder: str, recursive: bool = False) -> list[fs.FileInfo]:
        return self._fs().get_file_info(fs.FileSelector(self._path(folder), allow_not_found=True, recursive=recursive))

    def open(self, name: str, max_bytes: int | None = None) -> Any:
        """Open a file for reading; its size is not looked at, as that would take a request more."""
        return self._fs().open_input_stream(self._path(name))

    def size_bytes(self, name: str) -> int | None:
        """Return the size of a file; None if there is none of that name."""
        info = self._fs().get_file_info(self._path(name))
        return info.size if info.type == fs.FileType.File else None

    def names(self, folder: str) -> list[str]:
        """Return the names directly in a folder; none if the folder does not exist, but its bucket does."""
        found = [info.base_name for info in self._list(folder)]
        bucket = self._root.partition("/")[0]
        if not found and not folder and self._fs().get_file_info(bucket).type == fs.FileType.NotFound:
            raise FileNotFoundError(f"there is no bucket {bucket}")
        return found

    def tree(self, folder: str) -> list[str]:
        """Return the names of all files under a folder, relative to it; an object store is listed once."""
        start = f"{self._path(folder)}/"
        found = self._list(folder, recursive=True)
        return [info.path.removeprefix(start) for info in found if info.type == fs.FileType.File]

    def write(self, name: str, content: bytes, exclusive: bool, durable: bool) -> None:
        """Write a file, which is there once it is whole."""
        assert not exclusive, "object stores cannot, see `distens.storage.journal`"
        with self._fs().open_output_stream(self._path(name)) as out:
            out.write(content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._fs().delete_file(self._path(name))

    def delete(self, folder: str) -> None:
        """Remove a folder and everything in it, if it is there."""
        path = self._path(folder)
        if self._fs().get_file_info(path).type == fs.FileType.Directory:
            self._fs().delete_dir(path)

    def copy(self, folder: str, target: str) -> None:
        """Copy a folder to this machine."""
        fs.copy_files(self._path(folder), target, source_filesystem=self._fs())
