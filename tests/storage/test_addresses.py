"""Addresses of stores: what has a password in it, and stores that do not answer."""

import logging
import re
import socket
import threading
import time

import pytest

from distens.credentials import has_credentials, redact
from distens.data.files import locate
from distens.errors import DataError, StorageError, StorageFailed
from distens.storage import filesystem
from distens.storage.filesystem import FIRST_ANSWER_SECONDS, REQUEST_SECONDS
from distens.storage.store import Store


@pytest.mark.parametrize("scheme", ["abfs", "abfss", "ABFS", "wasb", "wasbs"])
@pytest.mark.parametrize("host", ["account", "account.dfs.core.windows.net", "account.blob.core.windows.net:443"])
def test_a_container_is_no_password(scheme, host):
    for address in (f"{scheme}://box@{host}", f"{scheme}://box@{host}/runs/a"):
        assert not has_credentials(address)
        assert redact(f"cannot read {address}, sorry") == f"cannot read {address}, sorry"


@pytest.mark.parametrize(
    "address",
    [
        "abfs://box:hunter2@account/runs",
        "abfs://:hunter2@account.dfs.core.windows.net/box",
        "abfss://box@account:hunter2@host/x",
        "abfs://box@account/runs?sas_token=hunter2",
        "xabfs://hunter2@account/runs",
        "s3://hunter2@bucket/runs",
        "gs://hunter2@bucket/runs",
        "https://hunter2@host/x",
    ],
)
def test_what_may_be_a_password_is_one(address):
    assert has_credentials(address) and "hunter2" not in redact(f"a: {address}")
    with pytest.raises(StorageError, match="credentials in it") as caught:
        Store(address)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("address", ["gs://", "gs:///runs", "gcs://"])
def test_no_bucket(address):
    with pytest.raises(StorageError, match="no bucket; an address of Google's storage is gs://bucket/folder"):
        Store(address)


@pytest.fixture
def black_hole():
    """A server that takes connections and says nothing."""
    server, taken = socket.create_server(("127.0.0.1", 0)), []
    thread = threading.Thread(target=lambda: take_all(server, taken))
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    thread.join()
    server.close()
    for connection in taken:
        connection.close()


def take_all(server, taken):
    while True:
        try:
            taken.append(server.accept()[0])
        except OSError:
            return


@pytest.fixture
def silent_store(black_hole, monkeypatch):
    """Return the address of a store at the black hole, by its scheme."""
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{black_hole}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{black_hole}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    return lambda scheme: (
        f"{scheme}://bucket/runs",
        f" (AWS_ENDPOINT_URL is http://127.0.0.1:{black_hole})" if scheme == "s3" else "",
    )


@pytest.mark.timeout(30)
@pytest.mark.parametrize("use", [lambda s: s.exists("a"), lambda s: s.names(), lambda s: s.write("a", b"")])
@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_store_that_never_answers(scheme, use, silent_store, monkeypatch, caplog):
    """It is said soon, and the wait ends; no answer is waited for again, as the store was never there."""
    address, endpoint = silent_store(scheme)
    monkeypatch.setattr(filesystem, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(filesystem, "FIRST_ANSWER_SECONDS", 1.0)
    start = time.monotonic()
    with caplog.at_level(logging.WARNING, "distens"), pytest.raises(StorageFailed) as caught:
        use(Store(address))
    assert time.monotonic() - start < 3
    assert f"{address}: no answer so far{endpoint}; it is given up within another 1 s" in caplog.messages
    assert f"no answer within 1 s{endpoint}. Is the address right, and the network up?" in str(caught.value)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("use", [lambda a: Store(a).names(), lambda a: Store(a).write("a", b""), locate])
def test_a_request_that_was_never_answered_keeps_no_process_alive(use, silent_store, monkeypatch, caplog):
    """The client's own request ends before it is given up: pyarrow lets no process end before that."""
    address, endpoint = silent_store("s3")
    monkeypatch.setattr(filesystem, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(filesystem, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(filesystem, "FIRST_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(filesystem, "FIRST_ANSWER_SECONDS", 20.0)
    before = threading.enumerate()
    with caplog.at_level(logging.WARNING, "distens"), pytest.raises((StorageError, DataError)) as caught:
        use(address)
    assert set(threading.enumerate()) <= set(before)
    assert f"{address}: no answer so far{endpoint}; it is given up within another 20 s" in caplog.messages
    assert re.search(rf"no answer within \d s{re.escape(endpoint)}\. Is the address right", str(caught.value))
    assert filesystem.CONNECT_SECONDS + REQUEST_SECONDS <= FIRST_ANSWER_SECONDS


def test_the_errors_of_a_first_call_are_its_own():
    def refuse():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        filesystem.meet("gs://bucket", refuse)
    assert filesystem.meet("gs://bucket", lambda: 3) == 3
    assert filesystem.SILENT_SECONDS <= 5 and filesystem.FIRST_ANSWER_SECONDS <= 30
