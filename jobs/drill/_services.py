"""Services that a cluster's runs share, as processes of this machine: PostgreSQL, an S3 store, `mlflow server`.

Each has a folder of its own, listens on the loopback, and ends with the `with` that started it. Passwords are made for
each service, and are passed in the environment.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS = 180.0


def free_port() -> int:
    """Return a free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A server process, in a session of its own, so that its children end with it.

    Args:
        ready: raises OSError until the server answers.
        log: the file of its output.
        user: the user that it runs as; None: the present one.
    """

    def __init__(
        self,
        command: Sequence[str],
        ready: Callable[[], object],
        log: Path,
        environment: Mapping[str, str] = {},
        user: str | None = None,
    ) -> None:
        self._command, self._ready, self._log, self._user = command, ready, log, user
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return the id of its process; None if there is none."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the server; return once it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, user=self._user, start_new_session=True
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                self._ready()
                return
            except OSError:
                time.sleep(0.25)
        self.stop()
        raise SystemExit(f"{self._command[0]} does not answer:\n{self._log.read_text()[-3000:]}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server and its children; return when it has ended."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run Debian's PostgreSQL in a folder; yield the address of an empty database, with its password.

    PostgreSQL does not run as root: root runs it as the system's user `postgres`, who must have access to the folder.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        raise SystemExit("no PostgreSQL here: apt-get install postgresql")
    user = "postgres" if os.getuid() == 0 else None
    home, password, port = folder / "postgresql", secrets.token_hex(12), free_port()
    home.mkdir()
    (folder / "password").write_text(password)
    if user is not None:
        owner = pwd.getpwnam(user)
        for path in (home, folder / "password"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    made = [f"{programs[-1]}/initdb", "-D", str(home / "data"), "-U", "mlflow", "-A", "scram-sha-256"]
    made += ["--pwfile", str(folder / "password"), "-E", "UTF8", "--locale", "C"]
    subprocess.run(made, check=True, user=user, cwd=home, stdout=subprocess.DEVNULL)
    (folder / "password").unlink()
    server = [f"{programs[-1]}/postgres", "-D", str(home / "data"), "-p", str(port), "-k", str(home)]
    server += ["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"]
    # SIGINT is its fast shutdown, which does not wait for clients to disconnect.
    process = Process(server, lambda: _greeted(port), home / "log", user=user)
    (home / "log").touch()
    process.start()
    try:
        yield f"postgresql+psycopg://mlflow:{password}@127.0.0.1:{port}/postgres"
    finally:
        process.stop(signal.SIGINT)
        shutil.rmtree(home, ignore_errors=True)


def _greeted(port: int) -> None:
    # SSLRequest of PostgreSQL's protocol: a server that is ready answers one letter.
    with socket.create_connection(("127.0.0.1", port), timeout=2) as door:
        door.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
        if not door.recv(1):
            raise ConnectionError("not up yet")


@contextmanager
def s3(folder: Path, buckets: Sequence[str]) -> Iterator[dict[str, str]]:
    """Run moto's S3 store, which is in memory, with some buckets; yield the environment for its clients."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with Process(command, lambda: _answers(f"{address}/moto-api/"), folder / "s3.log"):
        for bucket in buckets:
            urllib.request.urlopen(urllib.request.Request(f"{address}/{bucket}", method="PUT")).close()
        keys = {"AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}
        yield {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1", **keys}


def mlflow_server(
    folder: Path, database: str, artifacts: str, environment: Mapping[str, str], workers: int = 2
) -> tuple[Process, str]:
    """Return `mlflow server`, not started yet, and its address; it passes artifacts on, so that clients need no keys.

    Args:
        artifacts: a folder, or `s3://bucket/folder` with its keys in `environment`.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--artifacts-destination", artifacts, "--workers", str(workers)]
    # A worker whose imports at its first artifact take longer than this is killed in the middle of a request.
    command += ["--uvicorn-opts", "--timeout-worker-healthcheck 120"]
    given = {**environment, "MLFLOW_BACKEND_STORE_URI": database}  # not in the arguments, which all users can see
    given["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # no processes for judging language models
    return Process(command, lambda: _answers(f"{address}/health"), folder / "mlflow.log", given), address


def _answers(address: str) -> None:
    urllib.request.urlopen(address, timeout=5).close()
