"""Opening local files that somebody else may have put there: a pipe would wait for ever, a device never ends."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

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
        OSError: the file cannot be opened, is not a regular file, or is larger; the message says which.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "something else")
            raise OSError(f"expected a file, found {kind}")
        if max_bytes is not None and found.st_size > max_bytes:
            raise OSError(f"it has {found.st_size:,} bytes, and at most {max_bytes:,} are allowed")
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise
