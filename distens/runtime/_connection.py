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

from distens.errors import RunError, shorten_value

log = logging.getLogger("distens")

TOKEN_HINT = (
    "A cluster with token authentication needs RAY_AUTH_MODE=token in the environment; and, unless the token is in "
    "Ray's own file (~/.ray/auth_token), RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
)

CONNECT_SECONDS = 10.0

GREETING_SECONDS = 4.0
_EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""HTTP/2's frame of type 4 without content, with which both sides begin."""

USUAL_PORT, USUAL_CLIENT_PORT = 6379, 10001

WATCH_SECONDS = 5.0
"""Time between two checks of whether the head answers; a warning follows if two in a row fail."""


def join_cluster(address: str | None) -> HeadWatch:
    """Join the cluster at an address, or the one that Ray finds, or start one; return the watch on its head.

    Args:
        address: of the cluster; None: that of `RAY_ADDRESS`, else that of the cluster on this machine.

    Raises:
        RunError: there is no cluster at the address, or it refuses the connection.
    """
    address, origin = _find_address(address)
    _check_address(address, origin)
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
        hint = f". {TOKEN_HINT}" if _ends_in_port(address) else ""
        raise RunError(f"{origin}: no connection to Ray at {address}: {error}{hint}") from error
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
                _reach(self._address).close()
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


def _find_address(given: str | None) -> tuple[str, str]:
    """Return the address to join, and the place where it was found: the config, the environment, or this machine."""
    if given:
        return given.strip(), "runtime.address"
    if variable := os.environ.get("RAY_ADDRESS", "").strip():
        return variable, "RAY_ADDRESS"
    return cluster_here(), "the Ray cluster that was found on this machine"


def cluster_here() -> str:
    """Return the address that Ray has noted of the cluster on this machine; `local` if no cluster is running."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    address = note.read_text().strip() if note.is_file() else ""
    if not address:
        return "local"
    try:
        _check_address(address, str(note))
    except RunError:  # the note is of a head that was killed; Ray would try it for minutes
        log.warning("the Ray cluster that ran here, at %s, is gone; starting a local Ray", address)
        return "local"
    return address


def _check_address(address: str, origin: str) -> None:
    """Check that a cluster's address is one, and that a head is there; Ray itself would try for minutes.

    Raises:
        RunError: the address is of another kind of server, or no head of a cluster is there.
    """
    if address in ("auto", "local"):
        return  # Ray finds the cluster itself
    scheme, mark, rest = address.rpartition("://")
    if scheme in ("http", "https"):
        host = rest.partition("/")[0]
        host = host.rpartition(":")[0] if _ends_in_port(host) else host
        raise RunError(
            f"{origin}: {address} is the address of the job server (the dashboard), for `distens submit`; the "
            f"cluster's own is {host}:{USUAL_PORT}, or ray://{host}:{USUAL_CLIENT_PORT} from outside of it"
        )
    if (mark and scheme != "ray") or not _ends_in_port(address):
        raise RunError(
            f"{origin}: expected host:port, [IPv6]:port, ray://host:port, `auto` or `local`, found "
            f"{shorten_value(address)}"
        )
    try:
        if not _answers(address):
            raise RunError(
                f"{origin}: what listens at {address} is not the head of a Ray cluster, whose usual port is "
                f"{USUAL_PORT} (for ray://, {USUAL_CLIENT_PORT})"
            )
    except OSError as error:
        raise RunError(f"{origin}: no Ray at {address}: {error}") from error


def _ends_in_port(address: str) -> bool:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    plain = (host.startswith("[") and host.endswith("]")) or (":" not in host and "/" not in host)
    return bool(host) and plain and port.isascii() and port.isdigit() and 0 < int(port) < 2**16


def _reach(address: str) -> socket.socket:
    """Return a connection to an address.

    Raises:
        OSError: nobody listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS)


def _answers(address: str) -> bool:
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):  # nobody answers there in the clear
        _reach(address).close()
        return True
    return _speaks_grpc(address)


def _speaks_grpc(address: str) -> bool:
    """Return True if a server of gRPC listens at an address, as a head is: it answers HTTP/2's first words in kind."""
    with _reach(address) as connection:
        connection.settimeout(GREETING_SECONDS)
        try:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _EMPTY_SETTINGS)
            answer = connection.recv(len(_EMPTY_SETTINGS))
        except (TimeoutError, ConnectionError):
            return False
    return answer[3:4] == _EMPTY_SETTINGS[3:4]  # the type of its first frame
