"""Files that are opened only if they are files."""

import os
import socket

import pytest

from distens.storage.regular import open_regular


def test_a_file_is_read_through_a_link_too(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"content")
    link.symlink_to(file)
    for path in (file, link):
        with open_regular(path, 7) as source:
            assert source.read() == b"content"


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a pipe"),
        (os.mkdir, "a folder"),
        (lambda path: os.symlink("/dev/zero", path), "a device"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path, make, kind):
    make(tmp_path / "it")
    with pytest.raises(OSError, match=f"expected a file, found {kind}"):
        open_regular(tmp_path / "it")


def test_a_socket_is_refused(tmp_path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "it"))
    with pytest.raises(OSError, match="it"):
        open_regular(tmp_path / "it")
    server.close()


def test_a_file_that_is_too_large_is_refused_and_closed(tmp_path):
    (tmp_path / "file").write_bytes(b"12345678")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="it has 8 bytes, and at most 7 are allowed"):
        open_regular(tmp_path / "file", 7)
    assert len(os.listdir("/proc/self/fd")) == before
