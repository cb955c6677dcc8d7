"""A runner that gets ready while the data are read: what it does, how it fails, what it leaves behind.

In processes of their own, since this one may be connected to a Ray already. Real Ray, started by the run.
"""

import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from kills import HEEDING

from distens import registry
from distens.errors import RunError

BEGINNING = """
import sys, time
import numpy as np, psutil, ray
import distens
from distens import registry
from distens.config.config import DataSection, parse_config
from distens.data.load import load_data
from distens.lifecycle.work.train import Train
from distens.records import Task
from distens.runtime.protocol import RunContext
from distens.storage.store import Store

folder = sys.argv[1]

def left():
    return [p.name() for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
"""


def said(body: str, folder: object) -> str:
    """Return what a script prints."""
    code = BEGINNING + textwrap.dedent(body)
    command = [sys.executable, "-c", code, str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_prepared_or_not_the_predictions_are_the_same_and_nothing_stays(tmp_path):
    body = """
    quick = {"family": "a", "kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 3}
    dataset = load_data(DataSection(source="sklearn:iris"), 0).dataset.for_members()
    found = {}
    for spec in ({"kind": "ray_actors", "address": "local"}, "inline"):
        runner = registry.make_plugin("runtime", spec, "runtime")
        runner.prepare(1)
        store = Store(f"{folder}/{registry.plugin_kind(runner)}")
        runner.start(RunContext(store, dataset))
        if ray.is_initialized():
            actors = len(runner._spare.prepared)
        tasks = iter([[Task("m0", "search", quick, 1, work=Train())]])
        (report,) = [o for outcomes in runner.run(tasks) for o in outcomes]
        if ray.is_initialized():
            actors = actors, len(runner._spare.prepared), len(runner._spare.idle)
        found[registry.plugin_kind(runner)] = store.read_predictions(report.files["test"]).copy()
        runner.stop()
    print(np.array_equal(found["inline"], found["ray_actors"]), actors, left(), ray.is_initialized())
    """
    assert said(body, tmp_path).split("\n")[-2] == "True (1, 0, 1) [] False"


def test_what_fails_before_the_start_leaves_no_process(tmp_path):
    """No data; and more asked for than any node has."""
    body = """
    def raised(**changes):
        config = {"name": "x", "storage": folder, "data": {"source": "sklearn:iris"}, "tracking": "off",
                  "members": {"a": {"kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}}},
                  "search": {"kind": "random", "members": 2}, "runtime": {"kind": "ray_actors", "address": "local"}}
        try:
            distens.run(parse_config({**config, **changes}))
        except distens.DistensError as error:
            print(type(error).__name__, str(error)[:60], left(), ray.is_initialized())

    raised(data={"source": "/no/such/file.csv"})
    raised(runtime={"kind": "ray_actors", "address": "local", "gpus_per_member": 64})
    """
    lines = said(body, tmp_path).splitlines()
    assert lines[0].startswith("DataError"), lines
    assert lines[1].startswith("RunError runtime.gpus_per_member: 64 GPUs"), lines
    assert len(lines) == 2
    assert all(line.endswith("[] False") for line in lines), lines


def test_no_ray_at_the_address_is_said_at_the_start(tmp_path):
    body = """
    runner = registry.make_plugin("runtime", {"kind": "ray_actors", "address": "127.0.0.1:9"}, "runtime")
    runner.prepare(2)
    try:
        runner.start(None)
    except distens.RunError as error:
        print(error)
    runner.stop()
    runner.stop()
    """
    assert said(body, tmp_path).startswith("runtime.address: no Ray at 127.0.0.1:9")


def test_a_driver_that_is_asked_to_end_says_so_in_its_own_words(tmp_path):
    """Ray's, which would come first, print a trace of the stack."""
    body = """
    import os, signal
    os.dup2(1, 2)
    signal.signal(signal.SIGTERM, lambda number, frame: print("stopped", flush=True))
    runner = registry.make_plugin("runtime", {"kind": "ray_actors", "address": "local"}, "runtime")
    runner.prepare(1)
    runner.start(RunContext(Store(folder), load_data(DataSection(source="sklearn:iris"), 0).dataset.for_members()))
    os.kill(os.getpid(), signal.SIGTERM)
    runner.stop()
    """
    assert said(body, tmp_path) == "stopped\n"


def test_a_head_that_is_lost_is_said_with_what_to_do_and_one_that_we_end_is_not(tmp_path):
    body = """
    import logging, os, threading
    heard = []
    logging.getLogger("distens").addHandler(logging.Handler())
    logging.getLogger("distens").handlers[0].emit = lambda record: heard.append(record.getMessage())
    data = load_data(DataSection(source="sklearn:iris"), 0).dataset.for_members()

    def watches():
        return [thread for thread in threading.enumerate() if thread.name == "distens-head"]

    def started():
        runner = registry.make_plugin("runtime", {"kind": "ray_actors", "address": "local"}, "runtime")
        runner.start(RunContext(Store(folder), data))
        return runner

    runner = started()
    (watch,) = watches()
    runner.stop()
    watch.join(20)
    print(len(watches()), heard)
    started()
    below = psutil.Process().children(recursive=True)
    (head,) = [process for process in below if process.name() == "gcs_server"]
    head.kill()
    until = time.monotonic() + 50
    while not heard and time.monotonic() < until:
        time.sleep(0.1)
    print(*heard, flush=True)
    for process in below:
        process.kill()
    os._exit(0)
    """
    before, said_of_it = said(body, tmp_path).splitlines()
    assert before == "0 []"
    assert said_of_it.startswith("Ray's head at ")
    assert "does not answer" in said_of_it and "`distens resume` continues" in said_of_it


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_while_it_gets_ready_leaves_no_process(number, tmp_path):
    body = """
    runner = registry.make_plugin("runtime", {"kind": "ray_actors", "address": "local"}, "runtime")
    try:
        runner.prepare(2)
        print("begun", flush=True)
        time.sleep(200)
    finally:
        runner.stop()
    """
    command = [*HEEDING, sys.executable, "-c", BEGINNING + textwrap.dedent(body), str(tmp_path)]
    driver = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert driver.stdout.readline() == b"begun\n"
    deadline = time.monotonic() + 60
    while not (below := driver.children(recursive=True)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.send_signal(number)
    while driver.poll() is None and time.monotonic() < deadline:
        below = list({*below, *driver.children(recursive=True)})
        time.sleep(0.02)
    assert driver.wait(1)
    driver.stdout.close()
    gone, alive = psutil.wait_procs(below, timeout=90)
    assert gone
    assert not alive


def test_actors_are_prepared_where_there_is_room_and_as_many_as_there_are_packs(ray_here):
    for packs, concurrency, wanted in ((1, None, 1), (9, None, 2), (9, 1, 1), (None, None, 2), (0, None, 0)):
        runner = registry.make_plugin("runtime", {"kind": "ray_actors", "concurrency": concurrency}, "runtime")
        deadline = time.monotonic() + 60
        while runner._places.free() < 2:  # those of the runner before are still going
            assert time.monotonic() < deadline
            time.sleep(0.05)
        runner.prepare(packs)
        assert len(runner._spare.prepared) == wanted
        runner.stop()
    with pytest.raises(RunError, match="no node has more than"):
        registry.make_plugin("runtime", {"kind": "ray_actors", "cpus_per_member": 64}, "runtime").prepare(1)


def test_actors_are_not_prepared_where_others_work(neighbour):
    neighbour(2)
    runner = registry.make_plugin("runtime", "ray_actors", "runtime")
    deadline = time.monotonic() + 60
    while runner._places.free():  # the head hears of it a moment later
        assert time.monotonic() < deadline
        time.sleep(0.05)
    runner.prepare(2)
    assert runner._spare.prepared == []
    runner.stop()
