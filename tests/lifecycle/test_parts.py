"""One training that leaves several models: averaged, as folds are, or selectable, as snapshots are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.datasets import load_iris
from small_run import config

import distens
from distens.config.config import parse_config
from distens.errors import BundleError, ConfigError
from distens.lifecycle.ledger import Ledger
from distens.records import Address, Finished, Part, Report, State, Task
from distens.roles.federated.plan import build_plan
from distens.serve.predictor import load
from distens.storage.encoding import report_from_json, to_json
from distens.storage.parts import Parts
from distens.storage.store import Store

SURE, UNSURE = [0.5, 0.3, 0.2], [0.7, 0.2, 0.1]
FLAT = [0.35, 0.33, 0.32]
MANY = {"kind": "top", "size": 50}


def parted(folder, kind, count=1, select=MANY, **changes):
    member = {"kind": f"plugins.members.parted:{kind}", "early": SURE, "late": UNSURE, **changes.pop("member", {})}
    values = {
        "members": {"toy": member},
        "search": {"kind": "random", "members": count},
        "select": select,
        "calibrate": "none",
        "distill": None,
        "baselines": [],
    }
    return config(folder, **{**values, **changes})


def left(result):
    """Return the finished search members of a run."""
    return Ledger(Store(result.path)).finished("search")


def nll(probs_C):
    """Return what the same probabilities of every row are worth; iris has as many rows of each class in each split."""
    return -np.mean(np.log(probs_C))


# Averaged -------------------------------------------------------------------------------------------------------------


def test_averaged_parts_make_one_prediction_their_mean(tmp_path):
    """(.5 .3 .2) and (.7 .2 .1): (.6 .25 .15), in the run, its report and its bundle, which holds both states."""
    result = distens.run(parted(tmp_path, "Folds"))
    (entry,) = left(result)
    assert [part.name for part in entry.report.parts] == ["early", "late"] and entry.report.averaged
    assert (entry.report.parameters, entry.models()) == (6, [entry])
    store = Store(result.path)
    for split in ("search", "combine", "test"):
        probs_NC = store.read_predictions(entry.report.files[split])
        np.testing.assert_allclose(probs_NC, np.tile([0.6, 0.25, 0.15], (len(probs_NC), 1)), rtol=1e-6)
    assert entry.report.metrics["nll"] == pytest.approx(nll([0.6, 0.25, 0.15]), abs=1e-6)
    assert [part.metrics["nll"] for part in entry.report.parts] == pytest.approx([nll(SURE), nll(UNSURE)], abs=1e-6)
    assert [set(part.files) for part in entry.report.parts] == [{"state"}, {"state"}]
    assert list(result.weights) == ["m0000"]

    bundle = Path(result.path, "final/ensemble")
    marker = json.loads((bundle / "bundle.json").read_text())
    assert (marker["format"], marker["members"][0]["parts"]) == (2, ["early", "late"])
    assert sorted(path.name for path in (bundle / "members/m0000").iterdir()) == [
        "early.safetensors",
        "late.safetensors",
    ]
    rows = pd.DataFrame(load_iris().data[:4], columns=load_iris().feature_names)
    np.testing.assert_allclose(load(bundle).predict_proba(rows), np.tile([0.6, 0.25, 0.15], (4, 1)), rtol=1e-6)


def test_an_average_counts_once_beside_another_member(tmp_path):
    """The mean over members of (.6 .25 .15) and (.35 .33 .32), not over their four parts."""
    member = {"early": {"choices": [SURE, FLAT]}, "late": {"choices": [UNSURE, FLAT]}}
    result = distens.run(parted(tmp_path, "Folds", count=12, member=member))
    means = [np.mean([e.task.settings["early"], e.task.settings["late"]], axis=0) for e in left(result)]
    assert len({tuple(mean) for mean in means}) > 1
    rows = pd.DataFrame(load_iris().data[:2], columns=load_iris().feature_names)
    np.testing.assert_allclose(load(result.path).predict_proba(rows)[0], np.mean(means, axis=0), rtol=1e-5)


def test_teachers_of_an_average_share_its_weight():
    addresses = [Address(f"members/m1/1/{name}/state.safetensors", "0" * 64, 1) for name in ("a", "b")]
    parts = tuple(Part(a.path.split("/")[3], {}, 1, 0.0, {"state": a}) for a in addresses)
    report = Report("m1", 1, {}, 1.0, 2, 0.0, "", {}, parts, averaged=True)
    found = Finished(Task("m1", "search", {"kind": "x"}, 0), report).teachers(0.5)
    assert [(one.name, one.weight, one.state) for one in found] == [
        ("m1/a", 0.25, addresses[0]),
        ("m1/b", 0.25, addresses[1]),
    ]


# Selectable -----------------------------------------------------------------------------------------------------------


def test_selectable_parts_are_selected_weighted_and_deployed_by_themselves(tmp_path):
    """All four parts of two trainings: the mean is over four, under their names; search sees the best part of each."""
    result = distens.run(parted(tmp_path, "Snapshots", count=2))
    assert result.weights == dict.fromkeys(["m0000/early", "m0000/late", "m0001/early", "m0001/late"], 0.25)
    for entry in left(result):
        assert not entry.report.averaged and entry.report.metrics["nll"] == pytest.approx(nll(SURE), abs=1e-6)
        assert entry.report.files["search"].path.split("/")[-2:] == ["early", "search.arrow"]
    results = json.loads(Path(result.path, "results.json").read_text())
    assert results["members"]["m0001/late"] == pytest.approx(nll(UNSURE), abs=1e-6)
    seconds = sum(entry.report.seconds for entry in left(result))
    assert result.rows["ensemble"]["train_seconds"] == pytest.approx(seconds), "one training is paid once"
    assert result.rows["best_single"]["nll"] == pytest.approx(nll(SURE), abs=1e-3)

    bundle = Path(result.path, "final/ensemble")
    assert (bundle / "members/m0001/late.safetensors").exists()
    assert load(bundle).members == ("m0000/early", "m0000/late", "m0001/early", "m0001/late")
    rows = pd.DataFrame(load_iris().data[:3], columns=load_iris().feature_names)
    np.testing.assert_allclose(load(bundle).predict_proba(rows)[0], [0.6, 0.25, 0.15], rtol=1e-6)


def test_one_part_may_be_selected_without_the_other(tmp_path):
    result = distens.run(parted(tmp_path, "Snapshots", select={"kind": "greedy", "size": 1}))
    assert result.weights == {"m0000/early": 1.0}
    names = [path.name for path in Path(result.path, "final/ensemble/members").rglob("*.safetensors")]
    assert names == ["early.safetensors"]


def test_the_best_part_is_so_by_the_targets_usual_metric(tmp_path):
    """Numbers of about 150: the later guess is nearer, so it stands for the task where search looks at one."""
    member = {"early": [0.0], "late": [150.0]}
    result = distens.run(parted(tmp_path, "Guesses", member=member, data={"source": "sklearn:diabetes"}))
    (entry,) = left(result)
    assert entry.report.files["search"].path.split("/")[-2] == "late"
    assert entry.report.metrics["rmse"] == entry.report.parts[1].metrics["rmse"] < entry.report.parts[0].metrics["rmse"]


def test_parts_are_tracked_on_their_members_run(tmp_path, mlflow_store):
    uri, client = mlflow_store
    tracking = {"kind": "mlflow_runs", "uri": uri}
    distens.run(parted(tmp_path, "Snapshots", tracking=tracking))
    (experiment,) = [one for one in client.search_experiments() if one.name == "iris"]
    runs = MlflowClient(uri, uri).search_runs([experiment.experiment_id])
    (child,) = [run for run in runs if run.data.tags.get("distens.task") == "m0000"]
    assert child.data.metrics["weight.early"] == child.data.metrics["weight.late"] == 0.5
    assert child.data.metrics["late.nll"] == pytest.approx(nll(UNSURE), abs=1e-6)
    assert child.data.metrics["nll"] == pytest.approx(nll(SURE), abs=1e-6)


# What is there, and what was ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Folds", "Snapshots"])
def test_a_part_that_is_on_disk_is_not_trained_again(kind, tmp_path, ray_here):
    """The process dies between the two parts; the second attempt trains the second alone, and all is as undisturbed."""
    died, trained = tmp_path / "died", tmp_path / "trained"
    member = {"die": str(died), "trained": str(trained)}
    result = distens.run(parted(tmp_path, kind, member=member, runtime="ray_actors"))
    assert died.exists() and [line.split()[0] for line in trained.read_text().splitlines()] == ["early", "late"]
    (entry,) = left(result)
    assert entry.report.attempt == 2
    early, late = (part.files["state"].path for part in entry.report.parts)
    assert early.startswith("members/m0000/1/early/") and late.startswith("members/m0000/2/late/")
    calm = distens.run(parted(tmp_path / "calm", kind))
    assert calm.rows["ensemble"]["nll"] == result.rows["ensemble"]["nll"]
    assert calm.weights == result.weights


def test_a_finished_run_with_parts_is_delivered_anew_from_its_journal(tmp_path):
    result = distens.run(parted(tmp_path, "Snapshots", member={"trained": str(tmp_path / "trained")}))
    before = Path(result.path, "final/ensemble/bundle.json").read_bytes()
    Path(result.path, "results.json").unlink()
    again = distens.resume(result.path)
    assert again.weights == result.weights and Path(result.path, "final/ensemble/bundle.json").read_bytes() == before
    assert len((tmp_path / "trained").read_text().splitlines()) == 2


def test_a_lost_part_is_trained_again(tmp_path):
    result = distens.run(parted(tmp_path, "Folds", member={"trained": str(tmp_path / "trained")}))
    Path(result.path, "results.json").unlink()
    Path(result.path, "members/m0000/1/late/state.safetensors").unlink()
    distens.resume(result.path)
    names = [line.split()[0] for line in (tmp_path / "trained").read_text().splitlines()]
    assert names == ["early", "late", "late"]


def test_a_report_of_one_model_is_written_as_ever_and_read_as_ever():
    files = {"state": Address("members/m1/1/state.safetensors", "0" * 64, 7)}
    plain = Report("m1", 1, {"nll": 0.5}, 1.0, 2, 0.0, "here", files)
    assert set(to_json(plain)) == {
        "task_id", "attempt", "metrics", "seconds", "parameters", "predict_ms_per_1000", "node", "files",
    }  # fmt: skip
    assert report_from_json(to_json(plain)) == plain and plain.states() == {"m1": files["state"]}
    part = Part("a", {"nll": 0.25}, 1, 0.5, {"state": Address("members/m1/1/a/state.safetensors", "1" * 64, 7)})
    several = Report("m1", 1, {"nll": 0.25}, 1.0, 1, 0.5, "here", part.files, (part,))
    assert report_from_json(json.loads(json.dumps(to_json(several)))) == several


def test_parts_are_kept_in_the_order_in_which_they_were_left(tmp_path):
    store = Store(str(tmp_path))
    first = Parts(store, "m0", 1)
    for name in ("zebra", "ant"):
        first.leave(name, State({"a_1": np.ones(1)}), {"parameters": 1})
    again = Parts(store, "m0", 3)
    assert list(again) == ["zebra", "ant"] and again["ant"].metrics == {"parameters": 1}
    np.testing.assert_array_equal(again.state("zebra").arrays["a_1"], [1.0])
    (tmp_path / "members/m0/1/ant/part.json").write_text("{")
    assert list(Parts(store, "m0", 3)) == ["zebra"], "damaged: it is trained again"
    for name in ("1", "../x", "a/b", "zebra", ""):
        with pytest.raises(ValueError, match="a part's name must begin with a letter"):
            again.leave(name, State({}), {})


# What is refused ------------------------------------------------------------------------------------------------------


def test_parts_of_a_kind_that_says_not_what_they_are_for_are_a_named_failure(tmp_path):
    with pytest.raises(distens.RunError, match=r"leaves parts \(early, late\) and does not say by `parts`"):
        distens.run(parted(tmp_path, "Unsaid"))


def test_a_client_leaves_one_model(tmp_path):
    values = {
        "name": "fed", "role": "federated", "storage": str(tmp_path), "tracking": "off", "runtime": "inline",
        "data": {"source": "sklearn:digits"}, "federated": {"clients": 2},
        "members": {"client": {"kind": "plugins.members.parted:PartedClient", "model": "lenet", "epochs": 1}},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"members.client.kind: a client leaves one model, .* several parts"):
        build_plan(parse_config(values))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bundle of two averaged parts."""
    return Path(distens.run(parted(tmp_path_factory.mktemp("runs"), "Folds")).path, "final/ensemble")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda m: m["members"][0].update(parts=["early"]),
            "'members/m0000/late.safetensors' is not the name of a file",
        ),
        (lambda m: m["members"][0].update(parts=["early", "early"]), "members: a part occurs twice"),
        (lambda m: m["members"][0].update(parts=["early", "../late"]), "members.0.parts.1"),
        (lambda m: m["members"][0].update(id="m0000/x"), "is a part itself, and has none"),
        (lambda m: m["members"][0].update(id="a/b/c", parts=[]), "members.0.id"),
        (lambda m: m.update(format=1), "a bundle of format 1 has no parts"),
        (lambda m: m.update(format=3), "reads formats up to 2"),
    ],
)
def test_a_bundle_whose_parts_are_not_what_it_says_is_refused(change, words, whole, tmp_path):
    bundle = shutil.copytree(whole, tmp_path / "bundle") / "bundle.json"
    marker = json.loads(bundle.read_text())
    change(marker)
    bundle.write_text(json.dumps(marker))
    with pytest.raises(BundleError, match=words):
        load(bundle.parent)
