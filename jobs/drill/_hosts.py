"""A Ray cluster of separate hosts on one machine: each a network namespace with an address and a link of its own.

It needs root, Linux and iproute2. Hosts share the file system, as if it were mounted on all of them. For Ray, each has
a folder of its own, through which its drivers and nodes find each other.

    host 0 (head, drivers)   host 1   host 2 …
          │ eth0                │        │          10.77.0.1, .2, .3 …
          └──────── switch ─────┴────────┘          links that can be cut
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from _cluster import Cluster


class Hosts(Cluster):
    """A cluster as of `Cluster`, with the head and each node on a host of its own."""

    def __init__(self, cpus: float = 1, env: Mapping[str, str] = {}, jobs: bool = True) -> None:
        self._name = f"d{os.getpid()}"
        self._made: list[str] = []
        self._numbers: dict[int, int] = {}  # process id of a node -> its host
        self._namespace("switch")
        self._ip("switch", "link", "add", "bridge", "type", "bridge")
        self._ip("switch", "link", "set", "bridge", "up")
        super().__init__(cpus, env, jobs)

    def ip(self, node: int) -> str:
        """Return a host's address."""
        return f"10.77.0.{node + 1}"

    def within(self, node: int) -> list[str]:
        """Return the prefix of a command that is to run on a host, which is made if there is none."""
        host, shared, own = f"host{node}", f"{self.folder}/ray", f"{self.folder}/{node}"
        if host not in self._made:
            self._namespace(host)
            wire = ("link", "add", f"to{node}", "type", "veth", "peer", "name", "eth0", "netns", f"{self._name}{host}")
            self._ip("switch", *wire)
            self._ip("switch", "link", "set", f"to{node}", "master", "bridge", "up")
            self._ip(host, "address", "add", f"{self.ip(node)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                self._ip(host, "link", "set", link, "up")
            for folder in (shared, own):
                Path(folder).mkdir(exist_ok=True)
        mounted = f'mount --bind {own} {shared} && exec "$@"'  # in the mount namespace that `ip netns exec` makes
        return ["ip", "netns", "exec", f"{self._name}{host}", "sh", "-c", mounted, "sh"]

    def cut(self, node: psutil.Popen) -> None:
        """Cut the link of a node's host: no packet passes, and no side gets an error."""
        self._ip("switch", "link", "set", f"to{self._numbers[node.pid]}", "nomaster")

    def mend(self, node: psutil.Popen) -> None:
        """Restore the link of a node's host."""
        self._ip("switch", "link", "set", f"to{self._numbers[node.pid]}", "master", "bridge")

    def close(self) -> None:
        """End the cluster and its hosts."""
        super().close()
        for name in self._made:
            with suppress(subprocess.CalledProcessError):
                subprocess.run(["ip", "netns", "delete", f"{self._name}{name}"], check=True)
        self._made = []

    def _start(self, words: list[str], env: Mapping[str, str] = {}) -> tuple[psutil.Popen, Path]:
        number = self._started
        node, log = super()._start([*words, f"--node-ip-address={self.ip(number)}"], env)
        self._numbers[node.pid] = number
        return node, log

    def _namespace(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", f"{self._name}{name}"], check=True)
        self._made.append(name)

    def _ip(self, name: str, *words: str) -> None:
        subprocess.run(["ip", "-n", f"{self._name}{name}", *words], check=True)
