"""Opening local files that somebody else may have put there: a pipe would wait for ever, a device never ends."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO


class UnfitFile(OSError):
    """An error of a file itself, not of the storage: it is no regular file, too large, or behind a link outside."""


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | os.PathLike[str], max_bytes: int | None = None) -> BinaryIO:
    """Open a local file for reading, at once and only if it is a regular file.

    The kind and the size are those of the opened file, so that nothing can be put in its place in between.

    Args:
        path: the file; a link is followed.
        max_bytes: the largest size allowed; None: any.

    Raises:
        UnfitFile: the file is not a regular one, or is larger; the message says which.
        OSError: the file cannot be opened.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # Linux opens no socket, and no device whose driver is missing
            raise UnfitFile(f"{os.fspath(path)}: expected a file, found a socket or a device") from error
        raise
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "something else")
            raise UnfitFile(f"expected a file, found {kind}")
        if max_bytes is not None and found.st_size > max_bytes:
            raise UnfitFile(f"it has {found.st_size:,} bytes, and at most {max_bytes:,} are allowed")
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise
