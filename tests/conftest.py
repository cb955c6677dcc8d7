"""What takes seconds to make, made once: a local Ray, and an MLflow store."""

import os
import shutil

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture(scope="session")
def ray_here():
    import ray

    tests = os.path.dirname(__file__)
    env = {"PYTHONPATH": os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH", "")]))}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": env})
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
