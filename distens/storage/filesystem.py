"""Opening the filesystem at an address, waiting for storage that does not answer, and explaining its errors.

    s3://bucket/folder     AWS_ENDPOINT_URL and AWS_REGION say where the store is. Credentials come from
                           AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or the machine's role, in every process;
                           an address never has credentials in it

A request that fails because storage is unavailable or overloaded is tried again for minutes, by drivers and members
alike. An error that a user must mend (a missing bucket, a wrong key) is raised at once, and so is every error of
storage that has never answered.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from distens.credentials import has_credentials, redact
from distens.errors import StorageError, StorageFailed, shorten_value

log = logging.getLogger("distens")

PATIENCE_SECONDS = 300.0
"""How long storage that has answered before may be unavailable."""

LONGEST_PAUSE_SECONDS = 15.0

REQUEST_SECONDS = 20.0
"""The timeout of one request: with pyarrow's own 3 s, a store that is only slow would be given up."""

CONNECT_SECONDS = 5.0
SILENT_SECONDS = 3.0
"""How long a storage may keep its first caller waiting without a word."""

FIRST_ANSWER_SECONDS = 25.0
"""How long a storage may take to answer for the first time."""

FIRST_RETRY_SECONDS = 2.0
"""How long a first request is tried again that fails at once."""

ATTEMPTS = 3
"""The attempts that pyarrow makes at one request, within two seconds; longer waits are those of `OutageRetries`. For
storage that has never answered it makes one: a process cannot end before its requests have."""

_UNAVAILABLE = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|THROTTLING|REQUEST_TIMEOUT"
    r"|HTTP status (?:429|500|502|503|504)"
)
_TIMED_OUT = "curlCode: 28,"
_REFUSED = re.compile(r"ACCESS_DENIED|ACCESS_KEY|SIGNATURE|ExpiredToken|EXPIRED|TOKEN|HTTP status 40[013]")
_CHANCE = random.Random()  # for pauses only: no result depends on it

CallResult = TypeVar("CallResult")


def parse_address(url: str) -> tuple[Callable[[int], fs.FileSystem], str]:
    """Return a function that opens the filesystem at an address, and the path on that filesystem.

    The function's argument is the number of attempts at one request, for S3. An S3 store is contacted only when the
    function is called, so that the caller can wait for it (see `OutageRetries`).

    Raises:
        StorageError: there is no such filesystem, or the address has in it what belongs in the environment.
    """
    if has_credentials(url):
        raise StorageError(f"{shorten_value(url)}: an address with credentials in it; give those in the environment")
    if "\0" in url:
        raise StorageError(f"{shorten_value(url)}: a path must not contain a NUL character")
    if "://" not in url:
        return lambda attempts: fs.LocalFileSystem(), str(Path(url).absolute())
    if "?" in url:
        raise StorageError(f"{url}: leave out `?…`; AWS_ENDPOINT_URL and AWS_REGION say where an S3 store is")
    if url.startswith("s3://"):
        path = url.removeprefix("s3://").rstrip("/")
        bucket = path.partition("/")[0]
        if not bucket:
            raise StorageError(f"{url}: no bucket; an S3 address is s3://bucket/folder")
        return lambda attempts: _s3(bucket, attempts, *_read_s3_environment()), path
    if url.startswith(("gs://", "gcs://")):
        path = url.partition("://")[2].rstrip("/")
        if path.startswith("/") or not path:
            raise StorageError(f"{url}: no bucket; an address of Google's storage is gs://bucket/folder")
        limit = timedelta(seconds=REQUEST_SECONDS)
        return lambda attempts: fs.GcsFileSystem(retry_time_limit=limit), path
    try:
        made, path = fs.FileSystem.from_uri(url)
    except (ValueError, OSError) as error:
        raise StorageError(f"{shorten_value(url)}: cannot be opened: {error}") from error
    return lambda attempts: made, path


def _read_s3_environment() -> tuple[str | None, ...]:
    """Return the environment's values for S3, or None: the endpoint, the region, and the id of the access key."""
    names = (("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), ("AWS_REGION", "AWS_DEFAULT_REGION"), ("AWS_ACCESS_KEY_ID",))
    return tuple(next(filter(None, map(os.environ.get, either)), None) for either in names)


@lru_cache(maxsize=16)  # a client takes a tenth of a second to make, and keeps its connections
def _s3(bucket: str, attempts: int, endpoint: str | None, region: str | None, key: str | None) -> fs.FileSystem:
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=(region or "us-east-1") if endpoint else _find_region(bucket),
        allow_delayed_open=True,  # else every small file is a multipart upload of three requests
        request_timeout=REQUEST_SECONDS,
        connect_timeout=CONNECT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    )


@lru_cache(maxsize=16)
def _find_region(bucket: str) -> str:
    return fs.resolve_s3_region(bucket)


class OutageRetries:
    """A retry loop for one store: it waits while the store is unavailable, in any number of threads, and logs it once.

    Args:
        url: the store's address, for log messages.
    """

    def __init__(self, url: str) -> None:
        self._url, self._lock = url, threading.Lock()
        self._since: float | None = None

    def ask(self, call: Callable[[], CallResult], seconds: float) -> CallResult:
        """Return a call's result; repeat the call, for up to `seconds`, while it fails because storage is unavailable.

        Raises:
            OSError: the error of the last attempt, or one that waiting does not mend.
        """
        began, pause = time.monotonic(), 0.5
        while True:
            try:
                found = call()
            except OSError as error:
                left = began + seconds - time.monotonic()
                if left <= 0 or not is_unavailable(error):
                    raise
                self._note(error, seconds)
                time.sleep(min(left, pause * _CHANCE.uniform(0.5, 1.0)))  # so that not all members try again at once
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                if self._since is not None:
                    self._note(None, seconds)
                return found

    def _note(self, error: OSError | None, seconds: float) -> None:
        with self._lock:
            if error is not None and self._since is None:
                self._since = time.monotonic()
                log.warning("%s: %s; trying again for %.0f s", self._url, explained(error), seconds)
            elif error is None and self._since is not None:
                log.warning("%s answers again, after %.0f s", self._url, time.monotonic() - self._since)
                self._since = None


def meet(url: str, call: Callable[[], CallResult]) -> CallResult:
    """Return the result of the first call to a storage, which may not be there at all.

    Some clients try for minutes, and say nothing. So that is logged soon, and given up after a while.

    Args:
        call: asks a filesystem that was opened for one attempt.

    Raises:
        OSError: the call's error, or TimeoutError.
    """
    answer: Future[CallResult] = Future()

    def carry_out() -> None:
        try:
            answer.set_result(OutageRetries(url).ask(call, FIRST_RETRY_SECONDS))
        except BaseException as error:
            answer.set_exception(error)

    began, endpoint = time.monotonic(), f" ({_describe_endpoint()})" if url.startswith("s3://") else ""
    threading.Thread(target=carry_out, name="distens-storage", daemon=True).start()  # a pool's would be waited for
    wait([answer], SILENT_SECONDS)
    if not answer.done():
        left = FIRST_ANSWER_SECONDS - SILENT_SECONDS
        log.warning("%s: no answer so far%s; it is given up within another %.0f s", redact(url), endpoint, left)
        wait([answer], left)
    error = answer.exception() if answer.done() else None
    if not answer.done() or _TIMED_OUT in str(error):
        seconds = time.monotonic() - began
        raise TimeoutError(
            f"no answer within {seconds:.0f} s{endpoint}. Is the address right, and the network up?"
        ) from error
    return answer.result()


def _describe_endpoint() -> str:
    """Return what the environment says about where an S3 store is."""
    endpoint, *_ = _read_s3_environment()
    return f"AWS_ENDPOINT_URL is {redact(endpoint)}" if endpoint else "AWS_ENDPOINT_URL is not set"


def is_unavailable(error: OSError) -> bool:
    """Return True if an error means that storage is unavailable or overloaded, and not that a user must mend it."""
    return isinstance(error, ConnectionError | TimeoutError) or bool(_UNAVAILABLE.search(str(error)))


def explained(error: Exception) -> str:
    """Return an error's text in one line, without credentials, with a hint at what a user can do about it."""
    text, hint = " ".join(redact(str(error)).split()), ""
    if "AWS Error" in text:
        if "NO_SUCH_BUCKET" in text:
            hint = ". Create the bucket first; distens creates none"
        elif "NETWORK_CONNECTION" in text:
            hint = f". {_describe_endpoint()}"
        elif _REFUSED.search(text):
            hint = ". Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws, of every node"
    return text.rstrip(".") + hint if hint else text


def make_temporary_folder() -> Path:
    """Return a new local folder that lasts as long as this process.

    Raises:
        StorageFailed: this machine has no room for one.
    """
    with report_failure("a temporary folder"):
        folder = tempfile.mkdtemp(prefix="distens-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextmanager
def report_failure(what: object) -> Iterator[None]:
    """Turn an error of the system, while something is written on this machine, into one that names it.

    Args:
        what: the file that is written, for the message.

    Raises:
        StorageFailed: the body raised an OSError, of a full disk for example.
    """
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{what}: cannot be written: {explained(error)}") from error
