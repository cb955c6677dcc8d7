"""Two rows through a user's own code before anything starts: what would fail in every member is refused by its line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_federation
import small_run
from plugins import losses, nets

import distens
from distens.coordinator import make_plan, role_of
from distens.errors import ConfigError, DistensError
from distens.lifecycle import rehearsal
from distens.training.outputs import PROBABILITIES_ADVICE

PLAIN = {"baselines": [], "distill": None, "search": {"kind": "random", "members": 2}}
BINARY = {"source": "sklearn:breast_cancer"}


def own(folder, name, **changes):
    more = {key: changes.pop(key) for key in ("objective", "batch_size") if key in changes}
    kind = changes.pop("kind", "classifier")
    net = {"kind": kind, "model": f"plugins.nets:{name}", "epochs": 1, **more}
    if kind == "module":
        net = {"kind": kind, "path": net.pop("model"), **net}
    return small_run.config(folder / "runs", members={"net": net}, **{**PLAIN, **changes})


def federation(folder, name, **federated):
    client = {"model": f"plugins.nets:{name}"}
    return small_federation.config(folder / "runs", client=client, federated={"per_round": None, **federated})


def line(module, text):
    return f"({module.__file__}, line {Path(module.__file__).read_text().splitlines().index(text) + 1})"


def refused(config, folder):
    """Return the message with which a run is refused, which leaves nothing."""
    with pytest.raises(ConfigError) as caught:
        distens.run(config)
    assert not list((folder / "runs").iterdir())
    return str(caught.value)


def advice(config, on_gpu=False):
    plan = make_plan(config)
    data = role_of(plan.config).data(plan)
    return list(rehearsal.rehearse(plan.config, data.dataset, lambda settings: on_gpu))


WRONG_LINE = "        return self.hidden(self.last(inputs))"
FORWARD = "    def forward(self, inputs):"

MISTAKES = {
    "Broken": ["LookupError: no such preset", line(nets, '        raise LookupError("no such preset")')],
    "WrongShape": [
        "WrongShape: forward failed in training on inputs of shape (2, 30): RuntimeError: mat1 and mat2 shapes",
        line(nets, WRONG_LINE),
    ],
    "OneOutput": [
        "forward must return logits of shape (2 rows, 2 classes), found (2, 1)",
        line(nets, FORWARD),
        "One output is for a sigmoid; two classes need two outputs",
    ],
    "Flat": ["forward must return logits of shape (2 rows, 2 classes), found (2,)", "two classes need two outputs"],
    "Pair": ["forward must return logits of shape (2 rows, 2 classes), found tuple with entry 0 (2, 30)"],
    "Shared": [
        "Shared: all networks that are built share head.weight, head.bias, so that members would train each oth"
    ],
    "Detached": ["Detached: its loss of outputs of shape (2, 2) and targets of shape (2,) has no gradient"],
}


@pytest.mark.parametrize("kind", ["classifier", "module"])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_network_that_would_fail_in_every_member_is_refused(name, kind, tmp_path):
    said = refused(own(tmp_path, name, kind=kind, data=BINARY), tmp_path)
    assert said.startswith("members.net: ")
    assert all(words in said for words in MISTAKES[name]), said


def test_the_command_line_says_so_with_the_exit_code_of_a_user_s_mistake(tmp_path):
    values = {"name": "a", "data": BINARY, "tracking": "off", "runtime": "inline"}
    values["members"] = {"net": {"kind": "classifier", "model": "broken_nets:Broken"}}
    (tmp_path / "run.yaml").write_text(json.dumps({**values, **PLAIN}))
    (tmp_path / "broken_nets.py").write_text(Path(nets.__file__).read_text())
    command = [sys.executable, "-m", "distens.cli", "run", "run.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "error: members.net: broken_nets:Broken: cannot be made with options {}" in done.stderr
    assert f"LookupError: no such preset ({tmp_path / 'broken_nets.py'}, line " in done.stderr
    assert "Traceback" not in done.stderr and not list((tmp_path / "runs").iterdir())


def test_one_output_in_the_wrong_shape_is_named_for_numbers(tmp_path):
    config = own(tmp_path, "Flat", kind="regressor", data={"source": "sklearn:diabetes", "task": "regression"})
    said = refused(config, tmp_path)
    assert "logits of shape (2 rows, 1 classes), found (2,)" in said
    assert "one output for each row is of shape (N, 1)" in said


def test_a_loss_that_fails_is_named_with_its_line(tmp_path):
    members = {"ours": {"kind": "classifier", "objective": "plugins.losses:broken"}}
    said = refused(small_run.config(tmp_path / "runs", members=members, **PLAIN), tmp_path)
    words = "its loss failed on outputs of shape (2, 3) and targets of shape (2,): KeyError: 'weights'"
    assert words in said
    assert line(losses, '    return functional.cross_entropy(outputs, targets, **NO_WEIGHTS["weights"])') in said


def test_a_loss_for_each_row_is_named(tmp_path):
    said = refused(own(tmp_path, "Net", objective="plugins.losses:by_row"), tmp_path)
    assert "objective plugins.losses:by_row: must return the mean loss of the rows" in said


def test_a_student_s_loss_is_tried_with_probabilities(tmp_path):
    network = {"kind": "classifier", "model": "plugins.nets:Net", "objective": "plugins.losses:labels_alone"}
    config = own(tmp_path, "Net", distill={"kind": "student", "network": network})
    said = refused(config, tmp_path)
    assert said.startswith(
        "distill.network: Net: its loss failed on outputs of shape (2, 3) and targets of shape (2, 3)"
    )


@pytest.mark.parametrize("batch_size", [1, 37])
def test_a_last_batch_of_one_row_is_named(batch_size, tmp_path):
    """Iris has 75 rows to train on: 2 * 37 + 1."""
    said = refused(own(tmp_path, "Normalised", batch_size=batch_size), tmp_path)
    words = (
        f"forward failed in training on one row, which 75 rows in batches of {batch_size} leave: ValueError: Expected"
    )
    assert words in said
    assert "Take another batch_size" in said


def test_every_batch_size_among_choices_is_tried(tmp_path):
    assert advice(own(tmp_path, "Normalised", batch_size=36)) == []
    choices = {"choices": [36, 37]}
    assert "batches of 37 leave" in refused(own(tmp_path, "Normalised", batch_size=choices), tmp_path)


def test_a_softmax_is_noted_once(tmp_path):
    said = []
    result = distens.run(own(tmp_path, "Soft"), said.append)
    note = f"members.net: {PROBABILITIES_ADVICE}"
    assert [one.text for one in said].count(note) == 1
    assert result.notes.count(note) == 1


def test_constants_may_be_shared(tmp_path):
    assert advice(own(tmp_path, "SharedConstant", data=BINARY)) == []


def test_what_works_is_not_advised(tmp_path):
    for name in ("Net", "Normalised", "make", "Mapped", "WithAttention"):
        assert advice(own(tmp_path, name)) == []
        assert advice(federation(tmp_path, name)) == []


def test_code_for_a_gpu_is_not_refused_where_there_is_none(tmp_path):
    config = own(tmp_path, "NeedsGpu")
    with pytest.raises(ConfigError, match="expected a CUDA tensor"):
        advice(config)
    assert len(found := advice(config, on_gpu=True)) == 1
    assert found[0].startswith(
        "members.net: tried with two rows on the driver's CPU, it failed: NeedsGpu: forward failed"
    )
    with pytest.raises(ConfigError, match="no such preset"):
        advice(own(tmp_path, "Broken"), on_gpu=True)
    assert advice(own(tmp_path, "Broken", kind="module"), on_gpu=True) == [], "it is inspected where its GPU is"


def test_a_resumed_run_is_not_tried_again(tmp_path, monkeypatch):
    result = distens.run(own(tmp_path, "Net"))
    Path(result.path, "results.json").unlink()

    def fail(*given):
        raise LookupError("changed")

    monkeypatch.setattr(nets.Net, "__init__", fail)
    with pytest.raises(DistensError, match="changed"):
        advice(own(tmp_path, "Net"))
    monkeypatch.undo()
    assert distens.resume(result.path).weights == result.weights


# Federations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("name", ["Broken", "WrongShape", "Pair"])
def test_a_client_is_tried_with_the_shape_of_the_data(name, rounds, tmp_path):
    said = refused(federation(tmp_path, name, rounds=rounds), tmp_path)
    assert said.startswith("members.client: ")
    assert name == "Broken" or ("(2, 1, 8, 8)" in said if name == "WrongShape" else "found tuple" in said), said


def test_a_client_of_a_server_without_rows_is_tried_too(tmp_path):
    from sklearn.datasets import load_digits

    found = load_digits()
    np.savez(tmp_path / "a.npz", x=found.images[:300].astype(np.float32), y=found.target[:300])
    config = federation(tmp_path, "WrongShape", clients=None, partition=None, sources={"a": str(tmp_path / "a.npz")})
    assert "forward failed in training on inputs of shape (2, 1, 8, 8)" in refused(config, tmp_path)


# Runs that have nothing of the user's own -----------------------------------------------------------------------------


def test_networks_of_ours_are_not_tried(tmp_path):
    nothing = {"choices": [{"kind": "mlp"}, {"kind": "mlp", "hidden": [3]}]}
    members = {"ours": {"kind": "classifier", "model": nothing}, "knn": {"kind": "estimator", "estimator": "svm"}}
    config = small_run.config(tmp_path, members=members)
    dataset: distens.data.dataset.Dataset = None  # type: ignore[assignment]
    assert list(rehearsal.rehearse(config, dataset, lambda settings: False)) == []


def test_a_run_of_estimators_alone_loads_no_torch(tmp_path):
    code = (
        "import sys, small_run\nfrom pathlib import Path\nfrom distens.lifecycle import rehearsal\n"
        f"config = small_run.sklearn_only(Path({str(tmp_path)!r}))\n"
        "list(rehearsal.rehearse(config, None, bool))\nprint('torch' in sys.modules)\n"
    )
    tests = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tests, check=True)
    assert done.stdout == "False\n"
