"""Networks whose constructor reads weights: the file is needed to train, and not to load what was trained."""

import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import small_run
import torch
from plugins import nets
from sklearn.datasets import load_iris

import distens
from distens import registry
from distens.data.dataset import Examples
from distens.errors import BundleError, ConfigError, Refused
from distens.models._absent import Absent, absent_weights
from distens.serve import predictor
from distens.training.context import Context

PLAIN = {"search": {"kind": "random", "members": 2}, "baselines": [], "distill": None}
REPLACED = [(torch, "load"), (safetensors.torch, "safe_open"), (torch.hub, "download_url_to_file")]
REPLACED += [(torch.nn.Module, "load_state_dict")]


def problem():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(90, 4)).astype(np.float32)
    return Examples(inputs, (inputs[:, 0] > 0).astype(np.int64) + (inputs[:, 1] > 1), classes=3)


def write_weights(folder, **more):
    """Write weights, in both formats, as `weights.*`, and those of a part as `backbone.weights.pt`."""
    torch.manual_seed(5)
    state = nets.Net(4, 3).state_dict()
    body = {f"module.{name}": value for name, value in nets.Net(4, 8).state_dict().items()}
    torch.save({"model": body, "epoch": 3}, folder / "backbone.weights.pt")
    torch.save({**state, **more}, folder / "weights.pt")
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    return state


def pretrained(name, folder):
    """Return settings of a member whose network starts from weights in a folder."""
    file = {"Safe": "weights.safetensors", "Backbone": "backbone.weights.pt"}.get(name, "weights.pt")
    options = {"url": (folder / file).as_uri()} if name == "Downloaded" else {"file": str(folder / file)}
    path = f"plugins.nets:{name}"
    return {"kind": "classifier", "model": {"kind": path, "options": options}, "epochs": 2}


@pytest.fixture(autouse=True)
def _everything_is_put_back(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    known = [getattr(place, name) for place, name in REPLACED]
    yield
    assert [getattr(place, name) for place, name in REPLACED] == known


def forget(folder):
    for file in folder.rglob("*weights.*"):
        file.unlink()


@pytest.mark.parametrize("kind", ["classifier", "module"])
@pytest.mark.parametrize("name", ["Tuned", "Safe", "Downloaded", "Backbone", "Asks"])
def test_what_was_trained_loads_without_the_file(name, kind, tmp_path):
    state = write_weights(tmp_path)
    settings, data = pretrained(name, tmp_path), problem()
    if kind == "module":
        own = settings["model"]
        settings = {"kind": "module", "path": own["kind"], "options": own["options"], "epochs": 2}
    member = registry.build_member(settings)
    if name != "Backbone":
        start = registry.make_plugin("models", pretrained(name, tmp_path)["model"], "model").build((4,), 3)
        assert torch.equal(start.state_dict()["last.weight"], state["last.weight"])
    member.fit(data, Context(seed=1))
    expected = member.predict(data.inputs)
    forget(tmp_path)
    again = registry.build_member(settings)
    again.load(member.state())
    np.testing.assert_array_equal(again.predict(data.inputs), expected)
    assert not list(tmp_path.rglob("*weights.*"))


def test_nothing_is_downloaded_to_load(tmp_path):
    write_weights(tmp_path)
    settings, data = pretrained("Downloaded", tmp_path), problem()
    member = registry.build_member(settings)
    member.fit(data, Context(seed=1))
    cached = next((tmp_path / "cache").rglob("weights.pt"))
    cached.unlink()
    again = registry.build_member(settings)
    again.load(member.state())
    np.testing.assert_array_equal(again.predict(data.inputs), member.predict(data.inputs))
    assert not cached.exists()


def test_a_file_that_is_there_is_read(tmp_path):
    write_weights(tmp_path, scale=0.5)
    settings, data = pretrained("Scaled", tmp_path), problem()
    settings["model"]["kind"] = "plugins.nets:Scaled"
    member = registry.build_member(settings)
    member.fit(data, Context(seed=1))
    again = registry.build_member(settings)
    again.load(member.state())
    np.testing.assert_array_equal(again.predict(data.inputs), member.predict(data.inputs))


def test_what_only_the_file_holds_is_never_guessed(tmp_path):
    """`content.get("scale", 1.0)` would be another network without the file."""
    write_weights(tmp_path, scale=0.5)
    settings, data = pretrained("Scaled", tmp_path), problem()
    member = registry.build_member(settings)
    member.fit(data, Context(seed=1))
    forget(tmp_path)
    again = registry.build_member(settings)
    again.load(member.state())
    with pytest.raises(TypeError, match="'Absent'"):
        again.predict(data.inputs)


def test_a_constructor_that_opens_the_file_itself_is_told_of_restoring(tmp_path):
    write_weights(tmp_path)
    settings, data = pretrained("Opens", tmp_path), problem()
    member = registry.build_member(settings)
    member.fit(data, Context(seed=1))
    forget(tmp_path)
    with pytest.raises(Refused) as caught:
        registry.build_member(settings).load(member.state())
    words = [f"FileNotFoundError: [Errno 2] No such file or directory: '{tmp_path}/weights.pt' ({nets.__file__}, line "]
    words += ["a parameter `restoring` of the constructor is True when the weights are stored"]
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("name", ["Tuned", "Safe", "Opens"])
def test_a_training_without_the_file_names_it(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "weights")):
        registry.build_member(pretrained(name, tmp_path)).fit(problem(), Context(seed=1))


def test_only_the_thread_that_restores_does_without_a_file(tmp_path):
    found = []

    def elsewhere():
        try:
            torch.load(tmp_path / "none.pt")
        except FileNotFoundError as error:
            found.append(error)
        network = nets.Net(4, 3)
        try:
            network.load_state_dict({})
        except RuntimeError as error:
            found.append(error)

    with absent_weights():
        assert isinstance(torch.load(tmp_path / "none.pt"), Absent)
        with absent_weights():  # a constructor may load a bundle
            assert isinstance(torch.load(tmp_path / "none.pt"), Absent)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        nets.Net(4, 3).load_state_dict({})
    assert [type(error) for error in found] == [FileNotFoundError, RuntimeError]


def test_weights_that_do_not_fit_are_an_error_while_all_files_are_there():
    with absent_weights(), pytest.raises(RuntimeError, match="Missing key"):
        nets.Net(4, 3).load_state_dict({})


# A whole run ----------------------------------------------------------------------------------------------------------


def test_a_bundle_is_loaded_and_served_where_the_file_is_gone(tmp_path):
    import mlflow.pyfunc

    write_weights(tmp_path)
    members = {"tuned": pretrained("Tuned", tmp_path)}
    result = distens.run(small_run.config(tmp_path / "runs", members=members, **PLAIN))
    rows = load_iris(as_frame=True).data
    expected = distens.load(result.path).predict_proba(rows)
    assert not result.missing
    forget(tmp_path)
    np.testing.assert_array_equal(distens.load(result.path).predict_proba(rows), expected)
    code, model = str(predictor.__file__).replace("predictor.py", "pyfunc.py"), str(tmp_path / "model")
    artifacts = {"bundle": f"{result.path}/final/ensemble"}
    mlflow.pyfunc.save_model(model, python_model=code, artifacts=artifacts, pip_requirements=[])
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(model).predict(rows), expected)


def test_a_bundle_that_cannot_do_without_the_file_says_so(tmp_path):
    write_weights(tmp_path)
    members = {"tuned": pretrained("Opens", tmp_path)}
    result = distens.run(small_run.config(tmp_path / "runs", members=members, **PLAIN))
    forget(tmp_path)
    with pytest.raises(BundleError, match=r"member m000\d cannot be loaded: .*weights.pt.*`restoring`"):
        distens.load(result.path).predict_proba(load_iris(as_frame=True).data)


def test_a_run_without_the_file_is_refused_before_it_starts(tmp_path):
    members = {"tuned": pretrained("Tuned", tmp_path)}
    line = Path(nets.__file__).read_text().splitlines().index("        self.load_state_dict(torch.load(file))") + 1
    with pytest.raises(ConfigError) as caught:
        distens.run(small_run.config(tmp_path / "runs", members=members, **PLAIN))
    assert f"No such file or directory: '{tmp_path}/weights.pt' ({nets.__file__}, line {line})" in str(caught.value)
    assert not list((tmp_path / "runs").iterdir())
