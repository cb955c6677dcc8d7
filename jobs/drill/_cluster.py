"""A Ray cluster of processes on this machine, for drills and tests: a head, and nodes that come and go.

It has its own folder, ports and token, so that it cannot mix with another cluster on the machine.
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
from typing import Any

import psutil

START_SECONDS = 120.0
END_SECONDS = 20.0


def free_port() -> int:
    """Return a free port of the loopback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Cluster:
    """A head, and the nodes that `add` starts; `close`, or the end of a `with`, ends them all.

    Args:
        cpus: the CPUs of the head, for members.
        env: environment variables for all processes of the cluster.
        jobs: True if it takes jobs, for which the head needs a dashboard, which takes half of its start.
        scaling: the largest number of nodes, of one CPU each, that Ray's autoscaler starts for waiting tasks and ends
            when idle.

    Attributes:
        address: the address for drivers.
        dashboard: the address for jobs.
        env: the environment of all processes of the cluster, including drivers.
    """

    def __init__(self, cpus: float = 1, env: Mapping[str, str] = {}, jobs: bool = True, scaling: int = 0) -> None:
        self._cpus, self._given, self._jobs, self._scaling = cpus, dict(env), jobs, scaling
        self._open()

    def _open(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: sockets lie in it
        port, dashboard = free_port(), free_port()
        self.address, self.dashboard = f"{self.ip(0)}:{port}", f"http://127.0.0.1:{dashboard}"
        self.env = {
            **os.environ,
            **self._given,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "RAY_TMPDIR": self.folder,
            "RAY_raylet_start_wait_time_s": f"{START_SECONDS:.0f}",  # Ray's 30 s are too few on a busy machine
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
        }
        self._nodes: list[psutil.Popen] = []
        self._started = 0
        try:
            words = ["--head", f"--port={port}", f"--num-cpus={self._cpus}", f"--ray-client-server-port={free_port()}"]
            words += [f"--dashboard-port={dashboard}"] if self._jobs else ["--include-dashboard=false"]
            scaled = {}
            if self._scaling:
                scaled = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
                plan = Path(self.folder, "scaling.json")  # JSON is YAML, too
                plan.write_text(json.dumps(_scaling(self._scaling, self._cpus, self.address)))
                words += [f"--autoscaling-config={plan}"]
            head, log = self._start(words, scaled)
            listed = ("job", "list", "--address", self.dashboard)
            self._await(head, log, lambda: _up(log) and not (self._jobs and self.ray(*listed).returncode))
        except BaseException:
            self.close()
            raise
        self.env["RAY_ADDRESS"] = self.address

    def ip(self, node: int) -> str:
        """Return the address of a node; 0 is the head."""
        return "127.0.0.1"

    def within(self, node: int) -> list[str]:
        """Return the prefix of a command that is to run on a node's host."""
        return []

    def ray(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of Ray's own commands on the head's host."""
        command = [*self.within(0), sys.executable, "-m", "ray.scripts.scripts", *words]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)

    @property
    def nodes(self) -> list[psutil.Popen]:
        """Return the nodes besides the head, the oldest first."""
        return self._nodes[1:]

    def actors(self) -> list[psutil.Process]:
        """Return the processes in which members are trained."""
        below = [process for node in self._nodes for process in _below(node)]
        return [process for process in below if _name(process).startswith("ray::_Actor")]

    def add(
        self,
        cpus: float = 1,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        store_mib: int | None = None,
        spare_gib: float | None = None,
    ) -> psutil.Popen:
        """Start a node; return its process, with the rest of the node below it, once it has joined.

        Nodes are started one after the other: of two that start at the same time on one machine, one never comes up.

        Args:
            store_mib: the size of its object store.
            spare_gib: Ray ends processes once the machine uses this much more memory than now.
        """
        # In the folder of another node, it would unpack a job's files over those that the job's driver works in.
        words = [f"--address={self.address}", f"--num-cpus={cpus}", f"--temp-dir={self.folder}/{self._started}"]
        words += [f"--resources={json.dumps(dict(resources))}"] if resources else []
        words += [f"--labels={','.join(f'{k}={v}' for k, v in labels.items())}"] if labels else []
        words += [f"--object-store-memory={store_mib << 20}"] if store_mib is not None else []
        node, log = self._start(words, _limits(spare_gib) if spare_gib is not None else {})
        self._await(node, log, lambda: _up(log))
        return node

    def kill(self, node: psutil.Popen) -> None:
        """Kill a node at once, as a loss of power would."""
        for process in _below(node):
            _send(process.kill)
        self._nodes.remove(node)
        node.wait()

    def replace(self) -> None:
        """Kill the whole cluster at once, and start another head, which has no record of this one."""
        for node in list(self._nodes):
            self.kill(node)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._open()

    def close(self) -> None:
        """End the whole cluster."""
        below = [process for node in self._nodes for process in _below(node)]
        if not self._scaling:  # an autoscaler's nodes do not end with the head, nor the head without their end
            for node in reversed(self._nodes):
                _send(node.terminate)
            _await_end(below)
        for process in below:
            _send(process.kill)
        _await_end(below)
        for node in self._nodes:
            node.wait(END_SECONDS)
        self._nodes = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self, words: list[str], env: Mapping[str, str] = {}) -> tuple[psutil.Popen, Path]:
        command = [*self.within(self._started), sys.executable, "-m", "ray.scripts.scripts", "start", *words]
        # Without its own port, a node's agent has none if another agent on this machine has the usual one. A head then
        # takes no jobs.
        command += [f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats", "--block"]
        place = Path(f"{self.folder}/node{self._started}.log")
        self._started += 1
        with place.open("wb") as log:
            node = psutil.Popen(command, env={**self.env, **env}, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._nodes.append(node)
        return node, place

    def _await(self, node: psutil.Popen, log: Path, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if node.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a node did not start: {log.read_text()}")
            time.sleep(0.3)


def _scaling(nodes: int, head_cpus: float, address: str) -> dict[str, Any]:
    """Return an autoscaler's config, whose provider starts nodes as child processes of the head."""
    unused = ["initialization_commands", "rsync_exclude", "rsync_filter", "cluster_synced_files"]
    unused += [f"{who}setup_commands" for who in ("", "head_", "worker_")]
    unused += [f"{who}_start_ray_commands" for who in ("head", "worker")]
    return {
        "cluster_name": "scaling",
        "max_workers": nodes,
        "idle_timeout_minutes": 0.2,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0},
            "one": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": nodes},
        },
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in unused},
    }


def _below(node: psutil.Popen) -> list[psutil.Process]:
    """Return a node's processes; none if the node has ended by itself."""
    with suppress(psutil.NoSuchProcess):
        return [node, *node.children(recursive=True)]
    return []


def _up(log: Path) -> bool:
    return "Ray runtime started" in log.read_text()


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return (process.cmdline() or [""])[0]
    return ""


def _limits(spare_gib: float) -> dict[str, str]:
    memory = psutil.virtual_memory()
    part = (memory.total - memory.available + spare_gib * 2**30) / memory.total
    return {"RAY_memory_usage_threshold": f"{part:.4f}", "RAY_memory_monitor_refresh_ms": "50"}


def _await_end(processes: list[psutil.Process]) -> None:
    """Wait until processes have ended, END_SECONDS at most; a zombie whose parent has gone counts as ended."""
    deadline = time.monotonic() + END_SECONDS
    while any(map(_lives, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _send(call: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):  # the process has ended by itself
        call()
