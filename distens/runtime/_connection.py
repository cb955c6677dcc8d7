"""Connect the driver to Ray: to a running cluster, or to a local Ray that it starts."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import ray

from distens.errors import RunError

log = logging.getLogger("distens")

TOKEN_HINT = (
    "A cluster with token authentication needs RAY_AUTH_MODE=token, "
    "and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, in the environment"
)

CONNECT_SECONDS = 10.0

WATCH_SECONDS = 5.0
"""Time between two checks of whether the head answers; a warning follows if two in a row fail."""


def join_cluster(address: str | None) -> HeadWatch:
    """Join the cluster at an address, or the one that Ray finds, or start one; return the watch on its head.

    Args:
        address: of the cluster; None: that of `RAY_ADDRESS`, else that of the cluster on this machine.

    Raises:
        RunError: there is no cluster at the address, or it refuses the connection.
    """
    address = address or os.environ.get("RAY_ADDRESS") or cluster_here()
    _check_address(address)
    # Without this, Ray repackages the virtual environment of a driver that `uv run` started, for every actor.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)  # for messages that `init` logs before it has set its level
    before = signal.getsignal(signal.SIGTERM)
    try:
        # A local Ray ends with the run: its dashboard costs seconds of start-up and would hardly be seen.
        dashboard = False if address == "local" else None
        ray.init(address=address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises no narrower type if it does not come up in time
        if address == "local":
            raise RunError(f"runtime: Ray did not start on this machine: {error}") from error
        # Ray's own message does not say that the connection was refused for want of a token.
        raise RunError(f"runtime.address: no connection to Ray at {address}: {error}. {TOKEN_HINT}") from error
    finally:
        if before not in (None, signal.SIG_DFL) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has set its own handler
    return HeadWatch(address if address.startswith("ray://") else ray.get_runtime_context().gcs_address)


class HeadWatch:
    """A thread that logs when the cluster's head does not answer: Ray itself waits silently for a minute, then ends us.

    Args:
        address: the head's `host:port`, or `ray://host:port`.
    """

    def __init__(self, address: str) -> None:
        self._address, self._over = address, threading.Event()
        threading.Thread(target=self._live, name="distens-head", daemon=True).start()

    def _live(self) -> None:
        missed = 0
        while not self._over.wait(WATCH_SECONDS):
            try:
                _reach(self._address)
            except OSError as error:
                missed += 1
                if missed == 2 and not self._over.is_set():
                    log.error(
                        "Ray's head at %s does not answer (%s). If that lasts a minute, Ray ends this process; "
                        "nothing that finished is lost: `distens resume` continues the run when there is a cluster "
                        "again",
                        self._address,
                        error,
                    )
            else:
                if missed > 1:
                    log.warning("Ray's head at %s answers again", self._address)
                missed = 0

    def end(self) -> None:
        """Stop watching."""
        self._over.set()


class BackgroundCall:
    """A call in a thread that lives until `end`: the kernel ends Ray's processes with the thread that started them."""

    def __init__(self, call: Callable[[], None]) -> None:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            # Does the same as Ray's handler, which Ray sets in the main thread only: the run ends as on any error.
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        self._outcome: Future[None] = Future()
        self._over = threading.Event()
        threading.Thread(target=self._live, args=(call,), name="distens-ray", daemon=True).start()

    def _live(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # `error` returns it
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(None)
        self._over.wait()

    def error(self) -> BaseException | None:
        """Wait for the call; return the error that it raised, None if it raised none."""
        error = self._outcome.exception()
        if threading.current_thread() is threading.main_thread() and (now := signal.getsignal(signal.SIGTERM)):
            signal.signal(signal.SIGTERM, now)  # Ray's library has put one before it that prints a trace
        return error

    def end(self) -> None:
        """End the thread."""
        self._over.set()


def cluster_here() -> str:
    """Return the address that Ray has noted of the cluster on this machine; `local` if no cluster is running."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    address = note.read_text().strip() if note.is_file() else ""
    if not address:
        return "local"
    try:
        _check_address(address)
    except RunError:  # the note is of a head that was killed; Ray would try it for minutes
        log.warning("the Ray cluster that ran here, at %s, is gone; starting a local Ray", address)
        return "local"
    return address


def _check_address(address: str) -> None:
    """Raise RunError if nobody listens at an address; Ray itself would try for minutes."""
    if not address.rpartition(":")[2].isdigit():
        return  # `auto` or `local`: Ray finds the cluster itself
    try:
        _reach(address)
    except OSError as error:
        raise RunError(f"runtime.address: no Ray at {address}: {error}") from error


def _reach(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
