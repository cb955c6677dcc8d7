"""A user's own code that is edited after the run is not taken for the run's."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import small_run
from sklearn.datasets import load_iris

import distens
from distens import coordinator
from distens.config.sources import describe_edited, hash_sources
from distens.errors import BundleError, RunError
from distens.training.outputs import PROBABILITIES_ADVICE

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.layer = nn.Linear(input_shape[0], classes)

    def forward(self, inputs):
        return self.layer(inputs)


class Soft(Net):
    def forward(self, inputs):
        return torch.softmax(self.layer(inputs), 1)
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """Return a function that writes the user's module, as if a new process had imported it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "nets.py"

    def write(code):
        file.write_text(code)
        sys.modules.pop("nets", None)
        importlib.invalidate_caches()
        return importlib.import_module("nets")

    write(CODE)
    yield write
    sys.modules.pop("nets", None)


def config(folder, name="Net", **changes):
    members = {"mine": {"kind": "module", "path": f"nets:{name}", "epochs": 2}}
    search = {"kind": "random", "members": 3}
    return small_run.config(folder / "runs", members=members, search=search, distill=None, baselines=[], **changes)


def test_a_bundle_says_that_its_code_was_edited(nets, tmp_path):
    path = coordinator.run(config(tmp_path)).path
    iris: Any = load_iris(as_frame=True)
    rows = iris.data
    stored = json.loads((tmp_path / path / "final" / "ensemble" / "bundle.json").read_text())["extra"]["sources"]
    assert list(stored) == ["nets"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before_NC = distens.load(path).predict_proba(rows)
    nets(CODE.replace("self.layer(inputs)", "-self.layer(inputs)"))
    with pytest.warns(UserWarning, match=r"code was edited since the run.*nets \(.*nets.py\)"):
        edited = distens.load(path)
    assert not np.array_equal(edited.predict_proba(rows), before_NC)
    sys.modules.pop("nets")
    with pytest.warns(UserWarning, match=r"code was edited since the run.*nets \(.*nets.py\)"):
        distens.load(path, imports=True)
    nets(CODE.replace("input_shape[0], classes", "input_shape[0], classes + 1"))
    with (
        pytest.warns(UserWarning, match="edited"),
        pytest.raises(BundleError, match=r"member .* cannot be loaded: .*do not fit"),
    ):
        distens.load(path).predict_proba(rows)
    nets(CODE)
    np.testing.assert_array_equal(distens.load(path).predict_proba(rows), before_NC)


def test_a_run_of_edited_code_is_not_the_finished_one(nets, tmp_path):
    path = coordinator.run(config(tmp_path)).path
    with pytest.raises(RunError, match="this run has finished"):
        coordinator.run(config(tmp_path))
    nets(CODE + "\n# as before\n")
    with pytest.raises(
        RunError, match=r"had other code: since it began, there were edits of nets \(.*nets.py\)"
    ) as caught:
        coordinator.run(config(tmp_path))
    assert "has finished" not in str(caught.value)
    result = coordinator.resume(path)
    assert [note for note in result.notes if "the code was edited since the run began" in note]
    assert coordinator.run(config(tmp_path), overwrite=True).path == path
    with pytest.raises(RunError, match="this run has finished"):
        coordinator.run(config(tmp_path))


def test_a_softmax_is_noted_with_the_result_once(nets, tmp_path):
    with pytest.warns(UserWarning, match="nets:Soft: forward returns probabilities"):
        result = coordinator.run(config(tmp_path, "Soft"))
    assert [note for note in result.notes if "probabilities" in note] == [f"members.mine: {PROBABILITIES_ADVICE}"]


def test_what_a_module_imports_of_the_user_s_is_its_code_too(nets, tmp_path):
    folder = tmp_path / "own_package"
    folder.mkdir()
    files = {
        "__init__.py": "",
        "nets.py": "import json\nimport torch\nfrom . import more\nfrom .parts import WIDTH\n",
        "more.py": "import own_package.nets\n",
        "parts.py": "WIDTH = 3\n",
        "unused.py": "",
    }
    for name, code in files.items():
        (folder / name).write_text(code)
    importlib.import_module("own_package.nets")
    values = {"a": {"path": "own_package.nets:Net"}}
    found = hash_sources(values)
    assert list(found) == ["own_package", "own_package.more", "own_package.nets", "own_package.parts"]
    (folder / "parts.py").write_text("WIDTH = 4\n")
    assert describe_edited(values, found) == f"own_package.parts ({folder / 'parts.py'})"
    (folder / "nets.py").write_text("import json\nthis is no Python\n")
    assert describe_edited(values, found) == f"own_package.nets ({folder / 'nets.py'})"


@pytest.mark.usefixtures("nets")
def test_only_addresses_are_hashed():
    values = {
        "data": {"source": "sklearn:iris"},
        "members": {
            "a": {"kind": "module", "path": {"choices": ["nets:Net", "nets:Soft"]}},
            "b": {"kind": "estimator"},
        },
        "search": {"kind": "json:Mine"},
        "tracking": {"kind": "mlflow_runs", "uri": "http://host:80"},
        "other": {"path": "no_such_module:Net"},
    }
    found = hash_sources(values)
    assert list(found) == ["json", "nets"]
    assert hash_sources({"members": {"a": {"kind": "classifier"}}}) == {}
    assert describe_edited(values, found) == ""
    assert describe_edited(values, {**found, "nets": "0"}).startswith("nets (")
    assert describe_edited(values, {"json": found["json"]}) == ""
    assert describe_edited(values, None) == ""
    assert describe_edited(values, ["nets"]) == ""
