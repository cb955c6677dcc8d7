"""A folder on this machine, out of which no link leads.

A run's folder may come from a stranger. The folder itself may be a link, and links in it may lead to other places in
it; what lies behind a link that leads out is not read, written, listed or deleted. A link may be put there at any
moment, so the place of what was opened is compared, where Linux says it, and files are made, renamed and deleted by a
descriptor of their folder. Links are looked at one by one where something must be named, or where nothing is opened.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from distens.storage.regular import UnfitFile, open_regular

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC
_PLACE = _FOLDER | getattr(os, "O_PATH", os.O_RDONLY)


class LocalFolder:
    """A folder, and what is in it by name; it need not exist.

    Args:
        root: the folder's path. Names are relative to it, and have been checked for `..`.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._known: str | None = None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _is_inside(self, real: str) -> bool:
        def lies_in(root: str) -> bool:
            return real == root or real.startswith(f"{root.rstrip('/')}/")

        if self._known is not None and lies_in(self._known):
            return True
        self._known = _find_real(self._root)  # it may have been moved, and the link to it changed
        return lies_in(self._known)

    def check_links(self, name: str) -> None:
        """Check that no link on the way to a name leads out.

        Raises:
            UnfitFile: one does; the message names it.
        """
        place = self._root
        for step in filter(None, name.split("/")):
            place = f"{place}/{step}"
            if os.path.islink(place) and not self._is_inside(_find_real(place)):
                link = place.removeprefix(f"{self._root}/")
                raise UnfitFile(f"refused: {link} is a link that leads out of the folder")

    def _check_opened(self, number: int, name: str) -> None:
        """Check that what was opened lies inside."""
        real = _find_opened(number)
        if real is None or not self._is_inside(real):
            self.check_links(name)
            if real is not None:  # the link is gone again
                raise UnfitFile(f"refused: {name or 'it'} was behind a link that leads out of the folder")

    def open(self, name: str, max_bytes: int | None = None) -> BinaryIO:
        """Open a regular file for reading.

        Raises:
            UnfitFile: a link leads out, it is no regular file, or it has more than `max_bytes` bytes.
            OSError: it cannot be opened.
        """
        try:
            source = open_regular(self._path(name), max_bytes)
        except OSError:
            self.check_links(name)
            raise
        try:
            self._check_opened(source.fileno(), name)
        except BaseException:
            source.close()
            raise
        return source

    def size_bytes(self, name: str) -> int | None:
        """Return the size of a regular file; None if there is none of that name."""
        self.check_links(name)
        try:
            found = os.stat(self._path(name))
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def names(self, folder: str) -> list[str]:
        """Return the names directly in a folder, in no order; none if the folder does not exist."""
        try:
            number = os.open(self._path(folder), os.O_RDONLY | os.O_NONBLOCK | _FOLDER)
        except OSError as error:
            self.check_links(folder)
            if isinstance(error, FileNotFoundError):
                return []
            raise
        try:
            self._check_opened(number, folder)
            return os.listdir(number)
        finally:
            os.close(number)

    def tree(self, folder: str) -> Iterator[str]:
        """Yield the names of all files under a folder, relative to it; folders behind links are not entered.

        Raises:
            UnfitFile: among them is a link that leads out, or something that is neither a file nor a folder.
        """
        self.check_links(folder)
        start = self._path(folder)
        for place, folders, files in os.walk(start):
            for entry in (*folders, *files):
                path = f"{place}/{entry}"
                name = path.removeprefix(f"{start}/")
                self.check_links(f"{folder}/{name}" if folder else name)
                mode = os.stat(path).st_mode
                if stat.S_ISREG(mode):
                    yield name
                elif not stat.S_ISDIR(mode):
                    raise UnfitFile(f"refused: {name} is neither a file nor a folder")

    @contextmanager
    def _folder_of(self, name: str, make: bool = False, new: bool = False) -> Iterator[tuple[int, str]]:
        """Yield a descriptor of the folder that a name lies in, and the last part of the name.

        Args:
            make: make the folder if it does not exist.
            new: whatever has the name already is an error to the caller, so that it is not looked at.
        """
        folder, _, last = self._path(name).rpartition("/")
        try:
            number = os.open(folder, _PLACE)
        except OSError as error:  # rare, so it costs less than looking for the folder every time
            self.check_links(name)
            if not make or not isinstance(error, FileNotFoundError):
                raise
            os.makedirs(folder, exist_ok=True)
            number = os.open(folder, _PLACE)
        try:
            self._check_opened(number, name)
            if not new and _is_link(number, last):
                self.check_links(name)
            yield number, last
        finally:
            os.close(number)

    def write(self, name: str, content: bytes, exclusive: bool, durable: bool) -> None:
        """Write a file whole or not at all: see `distens.storage.store.Store.write`."""
        with self._folder_of(name, make=True, new=exclusive) as (folder, last):
            try:
                write_whole(folder, last, content, exclusive, durable)
            except FileExistsError:
                self.check_links(name)
                raise

    def remove(self, name: str) -> None:
        """Remove a file, or a link, if it is there."""
        with suppress(FileNotFoundError), self._folder_of(name) as (folder, last):
            os.unlink(last, dir_fd=folder)

    def delete(self, name: str = "") -> None:
        """Remove a folder, or a file, if it is there; of a link only the link, except if it is the root."""
        if name:
            with suppress(FileNotFoundError), self._folder_of(name) as (folder, last):
                _delete(folder, last)
        elif os.path.islink(self._root):  # the user made this link: what is behind it goes, the link stays
            for entry in self.names(""):
                with self._opened_root() as folder:
                    _delete(folder, entry)
        elif os.path.isdir(self._root):
            shutil.rmtree(self._root)

    @contextmanager
    def _opened_root(self) -> Iterator[int]:
        number = os.open(self._root, _PLACE)
        try:
            yield number
        finally:
            os.close(number)


def _find_opened(number: int) -> str | None:
    """Return the place of what a descriptor has opened; None where the system does not say."""
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:  # not Linux
        return None


def _is_link(folder: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _find_real(path: str) -> str:
    """Return a path without links, as `_find_opened` spells it (some filesystems take names in any capitals)."""
    try:
        number = os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # nothing is there
        return os.path.realpath(path)
    try:
        return _find_opened(number) or os.path.realpath(path)
    finally:
        os.close(number)


def write_whole(folder: int, name: str, content: bytes, exclusive: bool, durable: bool) -> None:
    """Write a file whole or not at all.

    Args:
        folder: a descriptor of its folder.
        exclusive: a file that is there already is an error.
        durable: wait until the content would survive a loss of power.

    Raises:
        OSError: the file cannot be written; FileExistsError: see `exclusive`.
    """
    part, renamed = f"{name}.{os.urandom(16).hex()}.part", False
    try:
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(number, left) :]
            if durable:
                os.fsync(number)
        finally:
            os.close(number)
        if exclusive:  # a link, unlike a rename, never replaces
            os.link(part, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        else:
            os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            renamed = True
    finally:
        if not renamed:  # after an error it must not stay and fill the disk
            with suppress(OSError):
                os.unlink(part, dir_fd=folder)


def _delete(folder: int, name: str) -> None:
    """Delete a file, a link, or a folder with everything in it; no link is followed."""
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        if sys.version_info >= (3, 11):
            shutil.rmtree(name, dir_fd=folder)
        else:
            shutil.rmtree(f"/proc/self/fd/{folder}/{name}")
    else:
        os.unlink(name, dir_fd=folder)
