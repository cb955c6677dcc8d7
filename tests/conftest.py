"""What takes seconds to make, made once: a local Ray, and an MLflow store."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from _services import Process, free_port
from s3_server import KEYS, Server

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # a Ray is noted here, and the runs of another worker would join it
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: sockets lie in it
    atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)


LONG = (
    "system/test_submit",
    "tune/",
    "members/test_modules",
    "runtime/",
    "system/",
    "roles/",
    "lifecycle/",
    "schedule/",
)
"""What takes minutes comes first, so that no process has such a file left to do when the others have ended."""


def pytest_collection_modifyitems(items):
    def place(item):
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((number for number, name in enumerate(LONG) if path.startswith(name)), len(LONG))

    items.sort(key=place)


@pytest.fixture(scope="session")
def ray_here():
    import ray

    tests = Path(__file__).parent
    rooms = sorted(path for path in tests.iterdir() if path.is_dir())  # what is in a test's own module goes to actors
    found = [*map(str, [tests, *rooms]), os.environ.get("PYTHONPATH", "")]
    env = {"PYTHONPATH": os.pathsep.join(filter(None, found))}
    # GPUs are a number only: it is enough to place by. A machine that stands still for a minute ends no driver.
    machine = {"num_cpus": 2, "num_gpus": 4, "include_dashboard": False, "runtime_env": {"env_vars": env}}
    patient = {"health_check_failure_threshold": 100, "gcs_rpc_server_reconnect_timeout_s": 600}
    ray.init(address="local", **machine, log_to_driver=False, _system_config=patient)
    yield ray
    ray.shutdown()


@pytest.fixture
def neighbour(ray_here):
    """Return a function that lets an actor, which is none of ours, hold so many CPUs until the test ends."""
    actors = []

    class Neighbour:
        def ready(self):
            return True

    def hold(cpus):
        actors.append(ray_here.remote(num_cpus=cpus)(Neighbour).remote())
        assert ray_here.get(actors[-1].ready.remote())

    yield hold
    for actor in actors:
        ray_here.kill(actor)


@pytest.fixture(scope="session")
def _s3_server(tmp_path_factory):
    port = free_port()
    server = Server(port)
    command = [sys.executable, str(Path(__file__).parent / "s3_server.py"), str(port)]
    with Process(command, server.asked, tmp_path_factory.mktemp("s3") / "log"):
        yield server


@pytest.fixture
def s3(_s3_server, request, monkeypatch):
    """A store that the environment names, empty but for a bucket of the test's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {"AWS_ENDPOINT_URL": _s3_server.endpoint, **KEYS}.items():
        monkeypatch.setenv(name, value)
    _s3_server.begin(request.node.name)
    yield _s3_server
    _s3_server.fail()


@pytest.fixture(scope="session")
def _empty_mlflow(tmp_path_factory):
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}", f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def mlflow_store(tmp_path, _empty_mlflow):
    """A store of the test's own: its address, and a client. Making its tables takes seconds, copying it does not."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{shutil.copy(_empty_mlflow, tmp_path)}"
    return uri, MlflowClient(uri, uri)
