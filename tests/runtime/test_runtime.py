"""Runners: both do the same, bit for bit, and whatever happens to a member has a name. Real Ray, real kills."""

import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest

from distens import registry
from distens.config.sections import DataSection
from distens.data.load import load_data
from distens.errors import RunError
from distens.lifecycle.work.train import Train
from distens.records import Failure, Report, Task
from distens.runtime.protocol import RunContext
from distens.storage.store import Store

QUICK = {"family": "a", "kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 3}
LONG = {**QUICK, "epochs": 100_000}


@pytest.fixture(scope="module")
def dataset():
    return load_data(DataSection(source="sklearn:iris"), 0).dataset.for_members()


def carried_out(spec, tasks, dataset, folder, packs=None):
    """Return all outcomes of the tasks, through the runner that spec describes."""
    runner = registry.make_plugin("runtime", spec, "runtime")
    runner.start(RunContext(Store(str(folder)), dataset))
    try:
        return [outcome for outcomes in runner.run(iter(packs or [[task] for task in tasks])) for outcome in outcomes]
    finally:
        runner.stop()


def test_both_runners_agree_bit_for_bit(dataset, tmp_path, ray_here):
    tasks = [
        Task("m0", "search", QUICK, 1, work=Train()),
        Task("m1", "search", {**QUICK, "model": {"kind": "mlp", "hidden": [8], "dropout": 0.5}}, 2, work=Train()),
        Task(
            "m2",
            "search",
            {"family": "f", "kind": "estimator", "estimator": "random_forest", "options": {}},
            3,
            work=Train(),
        ),
    ]
    found = {}
    for kind in ("inline", "ray_actors"):
        outcomes = carried_out(kind, tasks, dataset, tmp_path / kind)
        assert all(isinstance(o, Report) for o in outcomes), outcomes
        store = Store(str(tmp_path / kind))
        found[kind] = {
            (o.task_id, split): store.read_predictions(o.files[split]).copy()
            for o in outcomes
            for split in ("search", "combine", "test")
        }
    assert found["inline"].keys() == found["ray_actors"].keys()
    assert all(np.array_equal(found["inline"][key], found["ray_actors"][key]) for key in found["inline"])


@pytest.mark.parametrize("kind", ["inline", "ray_actors"])
def test_every_failure_has_a_name_and_the_others_finish(kind, dataset, tmp_path, request):
    if kind == "ray_actors":
        request.getfixturevalue("ray_here")
    spec = {"kind": kind} if kind == "inline" else {"kind": kind, "retries": 0}
    tasks = [
        Task("diverged", "search", {**QUICK, "optimizer": "sgd", "learning_rate": 1e12}, 1, work=Train()),
        Task("refused", "search", {**QUICK, "model": "lenet"}, 1, work=Train()),
        Task("out_of_memory", "search", {**QUICK, "model": {"kind": "mlp", "hidden": [2**24, 2**24]}}, 1, work=Train()),
        Task("fine", "search", QUICK, 1, work=Train()),
    ]
    outcomes = {o.task_id: o for o in carried_out(spec, tasks, dataset, tmp_path)}
    for name in ("diverged", "refused", "out_of_memory"):
        assert isinstance(outcomes[name], Failure)
        assert outcomes[name].reason == name, outcomes[name]
        assert outcomes[name].final
        assert outcomes[name].message
    assert isinstance(outcomes["fine"], Report)
    assert set(outcomes["fine"].metrics) >= {"nll", "error"}


def test_a_task_is_pulled_only_when_a_slot_is_free(dataset, tmp_path):
    """So search sees every finished member before it proposes the next."""
    runner = registry.make_plugin("runtime", "inline", "runtime")
    runner.start(RunContext(Store(str(tmp_path)), dataset))
    seen: list[str] = []

    def tasks():
        for i in range(3):
            assert len(seen) == i
            yield [Task(f"m{i}", "search", QUICK, i, work=Train())]

    for outcomes in runner.run(tasks()):
        seen += [outcome.task_id for outcome in outcomes]
    runner.stop()
    assert seen == ["m0", "m1", "m2"]


def test_what_an_earlier_attempt_finished_is_not_done_again(dataset, tmp_path):
    first = carried_out("inline", [Task("m0", "search", QUICK, 1, work=Train())], dataset, tmp_path)[0]
    second = carried_out("inline", [Task("m0", "search", QUICK, 1, attempt=2, work=Train())], dataset, tmp_path)[0]
    assert second == first
    assert Store(str(tmp_path)).names("members/m0") == ["1"]


def test_a_killed_member_is_tried_again_with_the_same_seed(dataset, tmp_path, ray_here):
    """SIGKILL to the actor's process, in mid-member: the attempt is named, the next one equals an undisturbed run."""
    settings = {**QUICK, "epochs": 1500}

    def kill_the_first():
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # Ray's own come and go
                    if process.name().startswith("ray::_Actor.exe"):
                        time.sleep(0.5)
                        process.kill()
                        return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    outcomes = carried_out(
        {"kind": "ray_actors", "concurrency": 1},
        [Task("m0", "search", settings, 5, work=Train())],
        dataset,
        tmp_path / "killed",
    )
    killer.join()
    assert isinstance(outcomes[0], Failure)
    assert (outcomes[0].reason, outcomes[0].attempt, outcomes[0].final) == ("crashed", 1, False)
    assert isinstance(outcomes[1], Report)
    assert outcomes[1].attempt == 2
    (undisturbed,) = carried_out(
        "inline", [Task("m0", "search", settings, 5, work=Train())], dataset, tmp_path / "calm"
    )
    assert isinstance(undisturbed, Report)
    found, wanted = (
        Store(str(tmp_path / folder)).read_predictions(report.files["test"])
        for folder, report in (("killed", outcomes[1]), ("calm", undisturbed))
    )
    assert np.array_equal(found, wanted)


def test_a_member_that_takes_too_long_is_ended_and_named(dataset, tmp_path, ray_here):
    spec = {"kind": "ray_actors", "timeout_seconds": 2, "concurrency": 1}
    tasks = [Task("slow", "search", LONG, 1, work=Train()), Task("fine", "search", QUICK, 1, work=Train())]
    outcomes = {o.task_id: o for o in carried_out(spec, tasks, dataset, tmp_path)}
    slow = outcomes["slow"]
    assert isinstance(slow, Failure)
    assert (slow.reason, slow.final) == ("timed_out", True)
    assert "2 s" in slow.message
    assert isinstance(outcomes["fine"], Report)


def test_an_address_without_a_ray_is_refused(dataset, tmp_path):
    """In a process of its own, since this one may be connected to a Ray already."""
    code = (
        "from distens import registry\n"
        "runner = registry.make_plugin('runtime', {'kind': 'ray_actors', 'address': '127.0.0.1:9'}, 'runtime')\n"
        "runner.start(None)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "RunError: runtime.address: no Ray at 127.0.0.1:9" in found.stderr


def test_the_note_of_a_dead_cluster_is_not_followed(tmp_path, monkeypatch):
    from distens.runtime._connection import cluster_here

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert cluster_here() == "local"
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        threading.Thread(target=_greet, args=(server,), daemon=True).start()
        assert cluster_here() == address
    assert cluster_here() == "local"


def _greet(server):
    """Answer once as a head does: with HTTP/2's frame of settings."""
    connection, _ = server.accept()
    connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    connection.recv(100)


def test_more_than_any_node_has_is_refused_before_work(dataset, tmp_path, ray_here):
    for option, words in (({"gpus_per_member": 9}, "gpus_per_member: 9 GPUs"), ({"cpus_per_member": 64}, "64 CPUs")):
        runner = registry.make_plugin("runtime", {"kind": "ray_actors", **option}, "runtime")
        with pytest.raises(RunError, match=f"{words}.*no node has more than"):
            runner.start(RunContext(Store(str(tmp_path)), dataset))
        runner.stop()
