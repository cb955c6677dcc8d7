"""A Ray cluster of this machine's processes, for drills and tests: a head that takes jobs, and nodes that come and go.

All of it is ours: its own folder, ports and token, so that nothing else on the machine joins it or is joined by it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

START_SECONDS = 120.0
END_SECONDS = 20.0


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Cluster:
    """A head, and the nodes that `add` brings; `close`, or the end of a `with`, ends them all.

    Attributes:
        address: for drivers.
        dashboard: for jobs.
        env: the environment of all that belongs to it, drivers too.
    """

    def __init__(self, cpus: float = 1) -> None:
        self.folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: sockets lie in it
        port, dashboard = free_port(), free_port()
        self.address, self.dashboard = f"{self.ip(0)}:{port}", f"http://127.0.0.1:{dashboard}"
        self.env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "RAY_TMPDIR": self.folder,
            "RAY_raylet_start_wait_time_s": f"{START_SECONDS:.0f}",  # Ray's 30 s are few on a busy machine
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
        }
        self._nodes: list[psutil.Popen] = []
        self._started = 0
        try:
            ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
            head, log = self._start(["--head", *ports, f"--num-cpus={cpus}"])
            listed = ("job", "list", "--address", self.dashboard)
            self._await(head, log, lambda: not self.ray(*listed).returncode)
        except BaseException:
            self.close()
            raise
        self.env["RAY_ADDRESS"] = self.address

    def ip(self, node: int) -> str:
        """Return the address of a node; 0 is the head."""
        return "127.0.0.1"

    def within(self, node: int) -> list[str]:
        """Return what stands before a command that is to run where a node is."""
        return []

    def ray(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of Ray's own commands, where the head is."""
        command = [*self.within(0), sys.executable, "-m", "ray.scripts.scripts", *words]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)

    def add(
        self, cpus: float = 1, resources: Mapping[str, float] | None = None, labels: Mapping[str, str] | None = None
    ) -> psutil.Popen:
        """Start a node; return its process, with the rest of the node below it, once it has joined.

        One after the other: of two that start at the same time on one machine, one never comes up.
        """
        words = [f"--address={self.address}", f"--num-cpus={cpus}"]
        words += [f"--resources={json.dumps(dict(resources))}"] if resources else []
        words += [f"--labels={','.join(f'{k}={v}' for k, v in labels.items())}"] if labels else []
        node, log = self._start(words)
        self._await(node, log, lambda: "Ray runtime started" in log.read_text())
        return node

    def kill(self, node: psutil.Popen) -> None:
        """End a node as a loss of power would."""
        for process in _below(node):
            _send(process.kill)
        self._nodes.remove(node)
        node.wait()

    def close(self) -> None:
        """End all of it."""
        below = [process for node in self._nodes for process in _below(node)]
        for node in reversed(self._nodes):
            _send(node.terminate)
        _, alive = psutil.wait_procs(below, timeout=END_SECONDS)
        for process in alive:
            _send(process.kill)
        psutil.wait_procs(alive, timeout=END_SECONDS)
        self._nodes = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self, words: list[str]) -> tuple[psutil.Popen, Path]:
        command = [*self.within(self._started), sys.executable, "-m", "ray.scripts.scripts", "start", *words]
        # Without a port of its own, a node's agent goes without where another of this machine has the usual one: then a
        # head takes no jobs.
        command += [f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats", "--block"]
        place = Path(f"{self.folder}/node{self._started}.log")
        self._started += 1
        with place.open("wb") as log:
            node = psutil.Popen(command, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._nodes.append(node)
        return node, place

    def _await(self, node: psutil.Popen, log: Path, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if node.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a node did not start: {log.read_text()}")
            time.sleep(0.3)


def _below(node: psutil.Popen) -> list[psutil.Process]:
    """Return a node's processes; none if it has ended by itself."""
    with suppress(psutil.NoSuchProcess):
        return [node, *node.children(recursive=True)]
    return []


def _send(call: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):  # it has ended by itself
        call()
