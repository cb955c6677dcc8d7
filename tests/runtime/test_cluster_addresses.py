"""Addresses of clusters: what each kind of wrong one is answered with, and where it came from."""

import json
import re
import socket
import subprocess
import sys
import threading
import time

import pytest
from _cluster import Cluster

from distens.errors import RunError
from distens.runtime import _connection


@pytest.fixture
def no_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def refused(address=None):
    began = time.monotonic()
    with pytest.raises(RunError) as found:
        _connection.join_cluster(address)
    assert time.monotonic() - began < 8
    text = str(found.value)
    assert "token" not in text and "TOKEN" not in text and len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(
    "address",
    ["http://head:8265", "https://head:8265/", "http://[::1]:8265", "http://head", "http://10.0.0.1:8265/#/jobs"],
)
@pytest.mark.parametrize("by", ["RAY_ADDRESS", "runtime.address"])
def test_the_job_servers_address_is_named_as_such(address, by, no_cluster, monkeypatch):
    if by == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", address)
    text = refused(None if by == "RAY_ADDRESS" else address)
    host = {"http://[::1]:8265": "[::1]", "http://10.0.0.1:8265/#/jobs": "10.0.0.1"}.get(address, "head")
    assert text.startswith(f"{by}: {address} is the address of the job server")
    assert f"the cluster's own is {host}:6379, or ray://{host}:10001" in text


@pytest.mark.parametrize(
    "address",
    [
        "head",
        "head:",
        ":6379",
        "head:0",
        "head:99999",
        "head:x",
        "::1:6379",
        "::1",
        "grpc://head:6379",
        "ray://head",
        "a b",
        "head:６３７９",
    ],
)
def test_what_is_no_address_is_answered_with_the_forms(address, no_cluster):
    assert refused(address).startswith("runtime.address: expected host:port, [IPv6]:port, ray://host:port, `auto`")


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
@pytest.mark.parametrize("by", ["RAY_ADDRESS", "runtime.address"])
def test_an_address_where_nobody_listens(form, host, by, no_cluster, monkeypatch):
    address = form.format(f"{host}:9")
    monkeypatch.setenv("RAY_ADDRESS", address)
    found = refused(None if by == "RAY_ADDRESS" else address)
    assert found.startswith(f"{by}: no Ray at {address}: ") and "refused" in found.lower() + "connection refused" * (
        host == "localhost"
    )


def test_a_name_that_is_unknown(no_cluster):
    assert refused("no-such-host.invalid:6379").startswith("runtime.address: no Ray at no-such-host.invalid:6379: ")


class Listener:
    """A server that accepts, reads, and answers with given bytes, or with nothing."""

    def __init__(self, host, answer):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.server = socket.create_server((host, 0), family=family)
        self.port, self.kept = self.server.getsockname()[1], []
        threading.Thread(target=self.live, args=(answer,), daemon=True).start()

    def live(self, answer):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.kept.append(connection)
            if answer:
                connection.recv(100)
                connection.sendall(answer)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command\r\n", b"SSH-2.0-OpenSSH_9\r\n"],
    ids=["nothing", "HTTP", "Redis", "SSH"],
)
def test_a_server_of_another_kind(answer, no_cluster, monkeypatch):
    address = f"127.0.0.1:{Listener('127.0.0.1', answer).port}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    found = refused()
    assert found.startswith(f"RAY_ADDRESS: what listens at {address} is not the head of a Ray cluster")


def test_a_head_at_an_address_of_ipv6_is_reached(no_cluster):
    """What answers as a head does is one, as far as can be told without Ray."""
    listener = Listener("::1", bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    _connection._check_address(f"[::1]:{listener.port}", "runtime.address")
    _connection._check_address(f"ray://[::1]:{listener.port}", "runtime.address")


def test_a_real_head_is_known_as_one(no_cluster):
    with Cluster(cpus=0, jobs=False) as cluster:
        _connection._check_address(cluster.env["RAY_ADDRESS"], "RAY_ADDRESS")


IN_ACTOR = """
import json, ray, sys
from distens import registry
from distens.errors import RunError

cpus, cases = json.loads(sys.argv[1])
ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)

def check(runtime):
    runner = registry.make_plugin("runtime", {"kind": "ray_actors", **runtime}, "runtime")
    try:
        runner.prepare(1, ())
        runner.check()
    except RunError as error:
        return f"RunError: {error}"
    finally:
        runner.stop()
    return f"room for {runner._places.slots()}"

@ray.remote
class Holder:
    def check(self, runtime):
        return check(runtime)

for kind, held, runtime in cases:
    if kind == "actor":
        holder = Holder.options(num_cpus=held).remote()
        found = ray.get(holder.check.remote(runtime))
        ray.kill(holder)
    else:
        found = ray.get(ray.remote(check).options(num_cpus=held).remote(runtime))
    print(json.dumps(found))
"""

ONE_CPU = [
    (
        "actor",
        1,
        {},
        "RunError: runtime.cpus_per_member: 1 CPUs for one member, but no node has more than 0, beside what",
    ),
    ("actor", 1, {"wait_seconds": 2}, "beside what the Ray actor or task holds"),
    ("actor", 0.5, {}, "no node has more than 0.5, beside"),
    ("actor", 0, {}, "room for 1"),
    ("actor", 1, {"cpus_per_member": 2}, "no node has more than 1$"),
    ("task", 1, {}, "room for 1"),  # it gives its CPU back while it waits
]
TWO_CPUS = [
    ("actor", 1, {"cpus_per_member": 2}, "no node has more than 1, beside what the Ray actor or task holds"),
    ("actor", 1, {}, "room for 1"),
]


@pytest.mark.parametrize(("cpus", "cases"), [(1, ONE_CPU), (2, TWO_CPUS)])
def test_a_run_inside_an_actor_counts_what_is_left_beside_it(cpus, cases, tmp_path):
    given = json.dumps([cpus, [case[:3] for case in cases]])
    command = [sys.executable, "-c", IN_ACTOR, given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases), done.stdout + done.stderr
    for text, (*_, words) in zip(found, cases, strict=True):
        assert re.search(words, text, re.MULTILINE), found
