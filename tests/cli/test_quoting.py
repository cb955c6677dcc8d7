"""Commands that are printed to be copied mean the same in a shell."""

import shlex

import pytest
from small_run import sklearn_only
from typer.testing import CliRunner

import distens
from distens.cli.main import app
from distens.errors import RunError


def commands(text):
    """Return the words of the commands that a text has between backticks."""
    return [shlex.split(part) for part in text.split("`")[1::2] if part.startswith("distens ")]


def test_a_folder_with_a_space_is_one_word(tmp_path):
    config = sklearn_only(
        tmp_path / "my runs", search={"kind": "random", "members": 2}, runtime="inline", tracking="off"
    )
    result = distens.run(config)
    with pytest.raises(RunError, match="has finished") as refused:
        distens.run(config)
    assert ["distens", "report", result.path] in commands(str(refused.value))
    (tmp_path / "my runs").joinpath(result.path, "results.json").unlink()
    found = CliRunner().invoke(app, ["report", result.path])
    assert ["distens", "resume", result.path] in commands(str(found.exception))
    with pytest.raises(RunError, match="was not finished") as refused:
        distens.run(config)
    assert ["distens", "resume", result.path] in commands(str(refused.value))
