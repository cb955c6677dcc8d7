"""Several runs in one process, in threads of their own: they share the process's connection to Ray.

In processes of their own: that of the tests may be connected already, by a fixture.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from threadpoolctl import threadpool_info

from distens.lifecycle._blas_limit import BlasLimit

HEAD = """
import sys, threading, time
from pathlib import Path
import ray
import distens
from distens.errors import RunError
from distens.runtime import _cluster_use
from small_run import sklearn_only

folder = Path(sys.argv[1])

def carry_out(seed, members):
    config = sklearn_only(folder, seed=seed, search={"kind": "random", "members": members}, tracking="off")
    return distens.run(config)
"""


def printed(tmp_path, body):
    """Return the lines that a script prints."""
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", HEAD + textwrap.dedent(body), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_runs_that_overlap_all_finish_and_the_last_one_disconnects(tmp_path):
    """The second begins while the first trains; the third begins as the first ends."""
    body = """
    first_ended = threading.Event()

    def one(seed, members, begin=None):
        if begin is not None:
            begin.wait()
        try:
            print(seed, carry_out(seed, members).rows["ensemble"]["accuracy"] > 0.8, flush=True)
        finally:
            if seed == 1:
                first_ended.set()

    threads = [threading.Thread(target=one, args=given) for given in ((1, 3), (2, 16), (3, 3, first_ended))]
    for thread in threads:
        thread.start()
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    time.sleep(1)
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("distens-ray")]
    print("connected", ray.is_initialized(), left)
    """
    lines = printed(tmp_path, body)
    assert sorted(line for line in lines if line[0].isdigit()) == ["1 True", "2 True", "3 True"]
    assert [line for line in lines if line.startswith("connected")] == ["connected False []"]


def test_a_connection_of_the_users_own_is_left_alone(tmp_path):
    body = """
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    print(_cluster_use.join(None))
    carry_out(1, 2)
    print(ray.is_initialized())
    """
    assert printed(tmp_path, body) == ["False", "True"]


def test_a_process_has_one_connection(tmp_path):
    body = """
    try:
        _cluster_use.join("127.0.0.1:9")
    except RunError as error:
        print("no Ray at" in str(error), _cluster_use._connection, ray.is_initialized())
    print([_cluster_use.join(address) for address in ("local", None, "local")])
    try:
        _cluster_use.join("10.0.0.1:6379")
    except RunError as error:
        print(error)
    for _ in range(3):
        print(ray.is_initialized())
        _cluster_use.leave()
    print(ray.is_initialized())
    """
    lines = printed(tmp_path, body)
    assert lines[:2] == ["True None False", "[True, True, True]"]
    assert lines[2].startswith("runtime.address: 10.0.0.1:6379, but another run in this process is connected to local")
    assert lines[3:] == ["True", "True", "True", "False"]


def test_the_limit_of_threads_is_lifted_by_whoever_leaves_last():
    import scipy.linalg  # brings a BLAS

    def limits():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    assert scipy.linalg is not None
    before = limits()
    one, other = BlasLimit(), BlasLimit()
    one.__enter__()
    other.__enter__()
    assert set(limits()) == {1}
    one.__exit__(None, None, None)
    assert set(limits()) == {1}
    other.__exit__(None, None, None)
    assert limits() == before
