"""What goes to a cluster as a job, and what is refused before it goes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from distens import submit
from distens.config import load_config
from distens.errors import ConfigError

TRAIN = Path(__file__).parents[1] / "jobs" / "train.py"

IRIS = """
name: iris
data: {source: sklearn:iris}
members:
  forest: {kind: estimator, estimator: random_forest}
search: {kind: random, members: 3}
tracking: off
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def project(tmp_path):
    """Return a folder with configs, and one for what comes of them."""
    folder = tmp_path / "project"
    folder.mkdir()
    texts = {"iris.yaml": IRIS, "nets.py": "a: b: c", "list.yaml": "[1]", "text.yaml": "env_vars: x"}
    for name, text in {**texts, "key.yaml": "pip: ['git+https://me:hidden@host/x']", "latin.yaml": "\xff"}.items():
        (folder / name).write_text(text, encoding="latin-1")
    return folder


def test_nobody_at_the_address(project):
    command = [sys.executable, "-m", "distens.cli", "submit", "iris.yaml", "--set", f"storage={project.parent}/runs"]
    command += ["--address", f"http://127.0.0.1:{free_port()}"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no connection to Ray's dashboard" in done.stderr


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        (["storage=runs"], {}, "storage: 'runs' would lie in the job's own folder"),
        (["tracking={kind: mlflow_runs, uri: 'sqlite:///a.db'}"], {}, "tracking: 'sqlite:///a.db' would lie"),
        ([], {"variables": ["NOT_THERE"]}, "--env NOT_THERE: not set here"),
        ([], {"variables": ["AWS_SECRET_ACCESS_KEY"]}, "--env AWS_SECRET_ACCESS_KEY: looks like a secret"),
        ([], {"working_dir": Path("/usr")}, "not in the working directory /usr"),
        ([], {"more": Path("nets.py")}, "nets.py: not YAML"),
        ([], {"more": Path("list.yaml")}, "--runtime-env list.yaml: expected keys"),
        ([], {"more": Path("text.yaml")}, "--runtime-env text.yaml: env_vars: a dict is wanted, found 'x'"),
        ([], {"more": Path("latin.yaml")}, "--runtime-env latin.yaml: 'utf-8' codec can't decode"),
        ([], {"more": Path("key.yaml")}, "--runtime-env key.yaml: pip.0: an address with credentials"),
    ],
)
def test_what_would_be_lost_or_shown_is_refused(changes, options, words, project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load_config("iris.yaml", ["storage=/tmp/runs", *changes])
    with pytest.raises(ConfigError) as refused:
        submit.Job.of(config, Path("iris.yaml"), changes, **options)
    assert words in str(refused.value)


def test_addresses_go_along_and_passwords_do_not(project, monkeypatch):
    monkeypatch.chdir(project)
    config = load_config("iris.yaml", ["storage=/tmp/runs"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "xyz")
    monkeypatch.setenv("MINE", "1")
    Path("more.yaml").write_text("{pip: [einops], env_vars: {ALSO: '2'}, excludes: [big]}")
    job = submit.Job.of(config, Path("iris.yaml"), ["seed=3"], variables=["MINE"], more=Path("more.yaml"))
    env = job.runtime_env
    assert env["env_vars"].items() >= {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "MINE": "1", "ALSO": "2"}.items()
    assert "xyz" not in str(job) and env["pip"] == ["einops"] and {".git", "big"} <= set(env["excludes"])
    assert job.entrypoint == "python -m distens.cli run --go-on iris.yaml --set seed=3"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@mlflow:5000")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI: an address with credentials") as refused:
        submit.Job.of(config, Path("iris.yaml"))
    assert "hidden" not in str(refused.value)


def test_a_job_whose_results_would_be_lost_is_refused_there_too(project):
    """In a folder as Ray unpacks one; where MLflow is, the nodes' environment may say, so it is asked there."""
    folder = project.rename(project.parent / "_ray_pkg_0123")
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    for changes, words in (
        (["storage=runs"], "storage: 'runs'"),
        (["storage=/tmp/r", "tracking=mlflow_runs"], "tracking:"),
    ):
        command = [sys.executable, str(TRAIN), "iris.yaml", *(word for c in changes for word in ("--set", c))]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and words in done.stderr
