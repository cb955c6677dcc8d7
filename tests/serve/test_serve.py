"""Bundles: what is written predicts the same in another process, and damage is named."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from distens import registry
from distens.config.sections import DataSection
from distens.data.dataset import Examples
from distens.data.preprocessing import Preprocessing
from distens.errors import BundleError, DataError
from distens.probabilities import apply_temperature
from distens.records import State
from distens.serve import bundle, predictor
from distens.storage.store import Store
from distens.targets.classes import Classes
from distens.training.context import Context

SETTINGS = {
    "m0000": {"family": "net", "kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 3},
    "m0001": {"family": "trees", "kind": "estimator", "estimator": "extra_trees", "options": {"n_estimators": 5}},
}
WEIGHTS_M = np.array([0.25, 0.75])
TEMPERATURE = 1.5


def iris():
    found = load_iris(as_frame=True)
    return found.data, found.target.to_numpy(), tuple(map(str, found.target_names))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with two trained members and its bundle; what it predicts for all rows, from live members."""
    rows, labels_N, classes = iris()
    store = Store(str(tmp_path_factory.mktemp("runs") / "iris-1a2b3c4d"))
    preprocessing = Preprocessing.fit(rows, np.arange(0, 150, 2), DataSection(source="sklearn:iris"))
    inputs = preprocessing.transform(rows)
    members, probs_MNC = [], []
    for (name, settings), weight in zip(SETTINGS.items(), WEIGHTS_M, strict=True):
        member = registry.build_member(settings)
        member.fit(Examples(inputs[::2], labels_N[::2], 3), Context(seed=1))
        address = store.write_state(f"members/{name}/1/state.safetensors", member.state())
        members.append(bundle.BundleMember(name, settings, float(weight), address))
        probs_MNC.append(member.predict(inputs).astype(np.float64))
    combiner = registry.make_plugin("combine", "average", "combine")
    state = combiner.fit(np.stack(probs_MNC), labels_N, WEIGHTS_M)
    write = {
        "name": "iris",
        "target": Classes(classes),
        "preprocessing": preprocessing.to_json(),
        "members": members,
        "combine": "average",
        "combine_state": state,
        "temperature": TEMPERATURE,
        "metrics": {"accuracy": 0.9},
    }
    bundle.write_bundle(store, "final/ensemble", **write)
    store.write_json("run.json", {"format": 1})
    expected_NC = apply_temperature(combiner.combine(np.stack(probs_MNC), state), TEMPERATURE)
    return store, write, rows, expected_NC


@pytest.fixture
def folder(run, tmp_path):
    """A copy of the bundle, to be damaged."""
    return shutil.copytree(run[0].path("final/ensemble"), tmp_path / "bundle")


def rewrite(folder, change):
    values = json.loads((folder / "bundle.json").read_text())
    change(values)
    (folder / "bundle.json").write_text(json.dumps(values))


def refused(path, *texts):
    with pytest.raises(BundleError) as error:
        predictor.load(str(path)).predict_proba(iris()[0])
    for text in texts:
        assert text in str(error.value)


def test_temperature_and_weights_are_applied_by_hand(tmp_path):
    """Two members that always say (0.8, 0.2) and (0.2, 0.8), weights 0.75 and 0.25: the mean is (0.65, 0.35).

    Temperature 0.5 squares and normalises: (0.4225, 0.1225) / 0.545 = (0.775229, 0.224771).
    k nearest neighbours with k = 5 and labels of which four fifths are class 0 (or 1) say exactly that.
    """
    store = Store(str(tmp_path))
    inputs = np.zeros((5, 1), dtype=np.float32)
    inputs[:, 0] = np.arange(5)
    settings = {"kind": "estimator", "estimator": "k_nearest_neighbours", "options": {"n_neighbors": 5}}
    settings["options"]["weights"] = "uniform"
    members = []
    for name, labels, weight in (("a", [0, 0, 0, 0, 1], 0.75), ("b", [1, 1, 1, 1, 0], 0.25)):
        member = registry.build_member(settings)
        member.fit(Examples(inputs, np.array(labels), 2), Context(seed=0))
        members.append(bundle.BundleMember(name, settings, weight, store.write_state(f"{name}.st", member.state())))
    rows = pd.DataFrame({"x": inputs[:, 0].astype(float)})
    bundle.write_bundle(
        store,
        "b",
        name="hand",
        target=Classes(("no", "yes")),
        preprocessing=Preprocessing.fit(rows, np.arange(5), DataSection(source="x")).to_json(),
        members=members,
        combine="average",
        combine_state=State({"weights": np.array([0.75, 0.25])}),
        temperature=0.5,
        metrics={},
    )
    found = predictor.load(str(tmp_path / "b"))
    np.testing.assert_allclose(found.predict_proba(rows), [[0.775229, 0.224771]] * 5, atol=1e-6)
    assert list(found.predict(rows)) == ["no"] * 5
    assert found.members == ("a", "b")


def test_another_process_predicts_the_same(run, tmp_path):
    store, _, rows, expected_NC = run
    rows.to_parquet(tmp_path / "rows.parquet")
    code = (
        "import sys, numpy, pandas; from distens.serve.predictor import load\n"
        "p = load(sys.argv[1]); numpy.save(sys.argv[3], p.predict_proba(pandas.read_parquet(sys.argv[2])))\n"
        "assert not {'ray', 'mlflow', 'lightning'} & set(sys.modules), 'too much is imported'"
    )
    arguments = [store.path("final/ensemble"), str(tmp_path / "rows.parquet"), str(tmp_path / "probs.npy")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    found_NC = np.load(tmp_path / "probs.npy")
    assert found_NC.dtype == np.float64
    np.testing.assert_allclose(found_NC, expected_NC, atol=1e-6)


def test_batches_do_not_show(run, monkeypatch):
    store, _, rows, expected_NC = run
    monkeypatch.setattr(predictor, "ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(predictor.load(store.url).predict_proba(rows), expected_NC, atol=1e-6)


def test_a_run_folder_stands_for_its_ensemble(run):
    store, _, rows, expected_NC = run
    found = predictor.load(store.url)
    assert found.classes == ("setosa", "versicolor", "virginica")
    names_N = found.predict(rows[::-1])
    assert list(names_N) == [found.classes[i] for i in expected_NC[::-1].argmax(axis=1)]


def test_bytes_are_the_same_each_time(run):
    store, write, _, _ = run
    bundle.write_bundle(store, "again", **write)
    names = ["bundle.json", "combine.safetensors", "members/m0000.safetensors", "members/m0001.safetensors"]
    assert [store.read(f"again/{n}") for n in names] == [store.read(f"final/ensemble/{n}") for n in names]


def test_settings_and_metrics_come_back(run):
    found = bundle.read_bundle(run[0].path("final/ensemble"))
    assert [dict(member.settings) for member in found.members] == list(SETTINGS.values())
    assert [member.weight for member in found.members] == [0.25, 0.75]
    assert (found.name, found.temperature, dict(found.metrics)) == ("iris", 1.5, {"accuracy": 0.9})


def test_rows_that_do_not_fit(run):
    store, _, rows, _ = run
    with pytest.raises(DataError, match="petal width"):
        predictor.load(store.url).predict_proba(rows.drop(columns="petal width (cm)"))


def test_a_damaged_state_is_not_put_into_a_bundle(run, tmp_path):
    from distens.errors import StorageError

    _, write, _, _ = run
    source = shutil.copytree(run[0].path(""), tmp_path / "run")
    file = source / "members/m0001/1/state.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(StorageError, match="m0001"):
        bundle.write_bundle(Store(str(source)), "final/again", **write)
    assert not (source / "final/again/bundle.json").exists()


@pytest.mark.parametrize("name", ["members/m0000.safetensors", "combine.safetensors"])
def test_a_damaged_byte(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(bytes(content))
    wanted = json.loads((folder / "bundle.json").read_text())["files"][name]["sha256"]
    refused(folder, name, "damaged", wanted)


def test_a_file_that_grew(folder):
    size = (folder / "members/m0001.safetensors").stat().st_size
    with (folder / "members/m0001.safetensors").open("ab") as out:
        out.write(b"more")
    refused(folder, "members/m0001.safetensors is damaged", f"{size + 4} bytes", f"instead of {size} bytes")


def test_a_missing_file(folder):
    (folder / "members/m0001.safetensors").unlink()
    refused(folder, "members/m0001.safetensors is missing")


def test_a_newer_format(folder):
    rewrite(folder, lambda values: values.update(format=3, distens="7.0.0"))
    refused(folder, "format 3", "7.0.0", "up to 2")


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "members/../../x.safetensors"])
def test_names_that_lead_out(folder, name):
    def change(values):
        values["files"][name] = values["files"]["combine.safetensors"]

    rewrite(folder, change)
    refused(folder, "refused", name)


def test_ids_that_lead_out(folder):
    rewrite(folder, lambda values: values["members"][0].update(id="../../m0000"))
    refused(folder, "refused", "../../m0000")


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (lambda v: v["members"][0]["settings"].update(kind="clasifier"), ("clasifier", "Did you mean 'classifier'?")),
        (lambda v: v["members"][0]["settings"].update(depth=3), ("depth",)),
        (lambda v: v.update(combine="averag"), ("averag", "Did you mean 'average'?")),
        (lambda v: v["preprocessing"].update(kind="pixels"), ("preprocessing",)),
        (lambda v: v.update(temperature=0.0), ("damaged", "greater than 0")),
        (lambda v: v.pop("members"), ("damaged", "members")),
        (lambda v: v.update(format="1"), ("damaged", "format")),
    ],
)
def test_content_that_is_not_known(folder, change, texts):
    rewrite(folder, change)
    refused(folder, *texts)


def test_a_marker_that_is_not_json(folder):
    (folder / "bundle.json").write_text("{")
    refused(folder, "bundle.json is damaged")


def test_a_run_that_has_not_finished(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    refused(tmp_path, "has not finished", "distens resume")


def test_no_bundle_at_all(tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "bundle.json is missing")


def test_two_members_that_agree_and_two_that_do_not():
    """Certain and opposite: ln 2 of disagreement and none of their own. Equal and undecided: the reverse."""
    target, weights_M = Classes(("no", "yes")), np.array([0.5, 0.5])
    parts = target.uncertainty(np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]]), weights_M)
    np.testing.assert_allclose(parts["entropy"], [np.log(2), np.log(2)])
    np.testing.assert_allclose(parts["expected_entropy"], [0.0, np.log(2)], atol=1e-9)
    np.testing.assert_allclose(parts["mutual_information"], [np.log(2), 0.0], atol=1e-9)
