"""Runs as jobs on a cluster: a real head with a second node, a real job server, tokens."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from _cluster import Cluster, free_port

from distens.cli import submit
from distens.config.config import load_config
from distens.errors import ConfigError
from distens.lifecycle.ledger import Ledger
from distens.storage.store import Store

TRAIN = Path(__file__).parents[2] / "jobs" / "train.py"

NETS = """
import torch
class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 3)
    def forward(self, x):
        return self.net(x.flatten(1))
"""
IRIS = """
name: iris
data: {source: sklearn:iris}
members:
  forest: {kind: estimator, estimator: random_forest}
search: {kind: random, members: 3}
tracking: off
"""
SLOW = """
name: slow
data: {source: sklearn:digits}
members:
  mlp: {kind: classifier, model: {kind: mlp, hidden: [512, 512]}, epochs: 120, learning_rate: {low: 1e-4, high: 1e-3}}
search: {kind: random, members: 8}
runtime: {kind: ray_actors, pack: 1}
tracking: off
"""


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as found:
        found.add()
        yield found


@pytest.fixture
def project(tmp_path):
    """Return a folder with configs, and one for what comes of them."""
    folder = tmp_path / "project"
    folder.mkdir()
    texts = {"iris.yaml": IRIS, "slow.yaml": SLOW, "nets.py": NETS, "bad.yaml": "a: b: c", "list.yaml": "[1]"}
    texts |= {"text.yaml": "env_vars: x", "key.yaml": "pip: ['git+https://me:hidden@host/x']", "latin.yaml": "\xff"}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="latin-1")
    return folder


def submitted(cluster, folder, *words, env=None):
    command = [sys.executable, "-m", "distens.cli", "submit", *words, "--address", cluster.dashboard]
    command += ["--set", f"storage={folder.parent}/runs"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=cluster.env if env is None else env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process):
    text, _ = process.communicate(timeout=240)
    return process.returncode, text


def jobs(cluster):
    return cluster.ray("job", "list", "--address", cluster.dashboard).stdout.count("submission_id=")


def test_a_run_goes_along_with_its_code_and_its_exit_code_comes_back(cluster, project):
    """A member's own module lies in the working directory, for the actors of both nodes; then the same again, by the
    entry point for Ray's own command: it has finished, and is shown."""
    members = "members={mine: {kind: module, path: 'nets:Small', epochs: 3}}"
    code, text = ended(submitted(cluster, project, "iris.yaml", "--set", members))
    assert code == 0, text
    assert "[3/3]" in text and "best_single" in text
    (folder,) = (project.parent / "runs").iterdir()
    assert (folder / "results.json").is_file()
    assert "INFO" not in text.partition("Running entrypoint")[0].replace("INFO job_manager", "")
    words = ["job", "submit", "--address", cluster.dashboard, "--working-dir", str(project)]
    words += ["--", "python", str(TRAIN), "iris.yaml", "--set", members, "--set", f"storage={project.parent}/runs"]
    again = cluster.ray(*words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "best_single" in again.stdout and "m0000" not in again.stdout


def test_a_module_that_the_job_brings_is_looked_for_there(cluster, project):
    """It lies in a folder beside the working directory, which `py_modules` sends; here it cannot be imported."""
    (project.parent / "brought" / "elsewhere").mkdir(parents=True)
    (project.parent / "brought" / "elsewhere" / "__init__.py").write_text(NETS)
    (project / "more.yaml").write_text(f"py_modules: ['{project.parent}/brought/elsewhere']")
    members = "members={mine: {kind: module, path: 'elsewhere:Small', epochs: 3}}"
    code, text = ended(submitted(cluster, project, "iris.yaml", "--set", members))
    assert code == 2 and "elsewhere" in text
    code, text = ended(submitted(cluster, project, "iris.yaml", "--set", members, "--runtime-env", "more.yaml"))
    assert code == 0, text
    said = "iris: not checked here, as there is no module 'elsewhere', which `py_modules` in more.yaml may bring"
    assert said in text and "best_single" in text


def test_other_faults_are_found_here_whatever_the_job_brings(project, monkeypatch):
    monkeypatch.chdir(project)
    Path("more.yaml").write_text("{pip: [einops]}")
    config = load_config("iris.yaml", ["storage=/tmp/runs", "tracking=off", "search=annealing"])
    with pytest.raises(ConfigError, match="annealing"):
        submit.Job.of(config, Path("iris.yaml"), more=Path("more.yaml"))


def test_what_is_wrong_with_a_config_is_said_before_anything_goes(cluster, project):
    before = jobs(cluster)
    code, text = ended(submitted(cluster, project, "iris.yaml", "--set", "search.members=x"))
    assert code == 2 and "search.members: Input should be a valid integer" in text
    code, text = ended(submitted(cluster, project, "iris.yaml", "--set", "search=annealing"))
    assert code == 2 and "annealing" in text
    assert jobs(cluster) == before


def test_what_only_the_cluster_can_find_has_its_exit_code(cluster, project):
    code, text = ended(submitted(cluster, project, "iris.yaml", "--set", "data.source=/no/such.csv"))
    assert code == 2 and "/no/such.csv" in text.partition("Running entrypoint")[2]


def test_a_stopped_job_resumes_when_it_is_submitted_again(cluster, project):
    """Members that had finished are not trained again."""
    process, said = submitted(cluster, project, "slow.yaml"), []
    for line in process.stdout:
        said.append(line)
        if "[2/8]" in line:
            break
    name = re.search(r"job (\S+) at", "".join(said))[1]
    stopped = cluster.ray("job", "stop", "--address", cluster.dashboard, name)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    code, text = ended(process)
    assert code == 130 and "Nothing that finished is lost" in text
    (folder,) = (project.parent / "runs").iterdir()
    done = {entry.task.id for entry in Ledger(Store(str(folder))).all_finished()}
    assert 2 <= len(done) < 8
    code, text = ended(submitted(cluster, project, "slow.yaml"))
    assert code == 0, text
    assert set(re.findall(r"\] (m\d+) ", text)) == {f"m{i:04d}" for i in range(8)} - done


def test_who_has_no_token_is_told_so(cluster, project):
    env = {name: value for name, value in cluster.env.items() if not name.startswith("RAY_AUTH")}
    env["HOME"] = str(project)  # where Ray looks for a token
    code, text = ended(submitted(cluster, project, "iris.yaml", env=env))
    assert code == 1 and "RAY_AUTH_TOKEN" in text and "Traceback" not in text


def test_nobody_at_the_address(project):
    nowhere = SimpleNamespace(dashboard=f"http://127.0.0.1:{free_port()}", env=dict(os.environ))
    code, text = ended(submitted(nowhere, project, "iris.yaml"))
    assert code == 1 and "no connection to Ray's dashboard" in text


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        (["storage=runs"], {}, "storage: 'runs' would lie in the job's own folder"),
        (["tracking={kind: mlflow_runs, uri: 'sqlite:///a.db'}"], {}, "tracking: 'sqlite:///a.db' would lie"),
        ([], {"variables": ["NOT_THERE"]}, "--env NOT_THERE: this variable is not set here"),
        ([], {"variables": ["AWS_SECRET_ACCESS_KEY"]}, "--env AWS_SECRET_ACCESS_KEY: looks like a secret"),
        ([], {"working_dir": Path("/usr")}, "not in the working directory /usr"),
        ([], {"more": Path("bad.yaml")}, "bad.yaml: not YAML"),
        ([], {"more": Path("list.yaml")}, "--runtime-env list.yaml: expected keys"),
        ([], {"more": Path("text.yaml")}, "--runtime-env text.yaml: env_vars: expected a dict, found 'x'"),
        (
            [],
            {"more": Path("latin.yaml")},
            "--runtime-env latin.yaml: cannot be read as text: 'utf-8' codec can't decode",
        ),
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
    assert job.entrypoint == "python -m distens.cli run --resume iris.yaml --set seed=3"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@mlflow:5000")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI: this address holds credentials") as refused:
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
