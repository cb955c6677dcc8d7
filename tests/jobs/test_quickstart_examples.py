"""The examples run as their users run them: in their folder, by the command line, made smaller."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "jobs" / "examples"
SMALLER = {
    "flower_quickstart": (["federated.rounds=2", "members.client.epochs=1"], "global"),
    "torchensemble_quickstart": (["search.members=2", "members.mlp.epochs=2"], "ensemble"),
    "scikit_learn_pipeline": (["search.members=2"], "ensemble"),
}


@pytest.mark.parametrize("name", SMALLER)
def test_an_example_runs_in_its_folder(name, tmp_path):
    smaller, row = SMALLER[name]
    changes = [f"storage={tmp_path}", "runtime=inline", *smaller]
    command = [sys.executable, "-m", "distens.cli", "run", "run.yaml", *(f"--set={change}" for change in changes)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLES / name)
    assert done.returncode == 0, done.stderr
    assert f" {row} " in done.stdout
    own = ("nets.py", "pipes.py", "run.yaml", "__pycache__")
    assert not [path for path in (EXAMPLES / name).iterdir() if path.name not in own]
