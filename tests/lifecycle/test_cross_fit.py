"""Members by folds: nothing of a fold's held-out rows reaches its model, and what is done is not done again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_run
from kills import killed
from mlflow import MlflowClient
from mlflow.pyfunc import load_model

import distens
from distens import coordinator, own_loop, registry
from distens.data.dataset import Dataset
from distens.data.folds import make_folds, restore_model
from distens.data.load import load_data
from distens.errors import ConfigError
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.work.cross_fit import CrossFit
from distens.records import Failure, Resources, Task
from distens.roles.ensemble.plan import build_plan
from distens.runtime._execute import execute
from distens.runtime.protocol import RunContext
from distens.storage.store import Store
from distens.training.context import Context

MLP = {"kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 4, "batch_size": 16}
KINDS = {
    "packed": MLP,
    "bootstrapped": {**MLP, "rows": "bootstrap"},
    "sgd": {**MLP, "optimizer": "sgd"},
    "forest": {"kind": "estimator", "estimator": "extra_trees", "options": {"n_estimators": 5}},
    "boosted": {"kind": "estimator", "estimator": "lightgbm", "options": {"n_estimators": 5}},
    "logistic": {"kind": "estimator", "estimator": "logistic_regression"},
    "module": {"kind": "module", "path": "plugins.nets:Net", "epochs": 2},
}
NUMBERS = {
    "network": {"kind": "regressor", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 3},
    "ridge": {"kind": "estimator_regressor", "estimator": "ridge"},
}


def dataset(source="sklearn:breast_cancer", **changes):
    section = build_plan(small_run.config("x", data={"source": source, "rows": 120, "folds": 3, **changes})).config.data
    return load_data(section, 0).dataset


def numbers():
    values = {"data": {"source": "sklearn:diabetes", "rows": 120, "folds": 3}, "members": {"m": NUMBERS["ridge"]}}
    config = small_run.config("x", **values, search={"kind": "random", "members": 1}, distill=None, baselines=[])
    return load_data(build_plan(config).config.data, 0).dataset


def task(settings, name="m0", **changes):
    given = {"family": "f", **settings}
    return Task(name, "search", given, 7, work=CrossFit(), resources=Resources(), **changes)


def carried_out(store, data, *tasks):
    return execute(tasks, RunContext(store, data.for_members()), 1)


def states(store, report):
    return {part.name: store.read_state(part.files["state"].path).arrays for part in report.parts}


def models(store, data, report, settings):
    """Return fold's name -> its model, as a bundle loads it."""
    found = {}
    for part in report.parts:
        state, shape = store.read_state(part.files["state"].path), data.inputs["train"].shape[1:]
        found[part.name] = restore_model(registry.build_member(settings), state, shape)
    return found


CASES = [(name, settings, dataset) for name, settings in KINDS.items()]
CASES += [(name, settings, numbers) for name, settings in NUMBERS.items()]


@pytest.mark.parametrize(("name", "settings", "made"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_row_is_predicted_by_a_model_that_never_saw_it(name, settings, made, tmp_path):
    """Other inputs and other targets in the rows that a fold holds out leave its model as it is, bit for bit; and the
    out-of-fold predictions are those of the models, in the order of the rows."""
    data, store = made(), Store(str(tmp_path / "a"))
    (report,) = carried_out(store, data, task(settings))
    assert report.averaged and [part.name for part in report.parts] == ["fold1", "fold2", "fold3"]
    first = data.folds[0]
    inputs, targets = (values.copy() for values in (data.inputs["train"], data.targets["train"]))
    inputs[first.held_N] += 5
    targets[first.held_N] = targets[first.held_N][::-1]
    fold_RN = np.zeros((1, len(targets)), dtype=np.int64)
    for place, fold in enumerate(data.folds):
        fold_RN[0, fold.held_N] = place
    none = np.zeros(0, dtype=np.int64)
    changed = make_folds(fold_RN, data.target.strata(data.targets["train"]), inputs, inputs.shape[1], none)
    other = Dataset(
        {**data.inputs, "train": inputs, "search": inputs},
        {**data.targets, "train": targets, "search": targets},
        data.target,
        "other",
        folds=changed,
    )
    (leaky,) = carried_out(Store(str(tmp_path / "b")), other, task(settings))
    one, two = (states(Store(str(tmp_path / folder)), found) for folder, found in (("a", report), ("b", leaky)))
    same = {fold: all(np.array_equal(one[fold][key], two[fold].get(key)) for key in one[fold]) for fold in one}
    assert same == {"fold1": True, "fold2": False, "fold3": False}
    stored_NK, restored = store.read_predictions(report.files["search"]), models(store, data, report, settings)
    for fold in data.folds:
        predictions = restored[fold.name].predict(data.inputs["train"][fold.held_N])
        np.testing.assert_allclose(stored_NK[fold.held_N], predictions, rtol=1e-5, atol=1e-6)
    for split in ("combine", "test"):
        mean_NK = np.mean([model.predict(data.inputs[split]) for model in restored.values()], axis=0)
        np.testing.assert_allclose(store.read_predictions(report.files[split]), mean_NK, rtol=1e-5, atol=1e-6)
    usual = data.target.minimised[0]
    assert report.metrics[usual] == pytest.approx(data.target.metrics(stored_NK, data.targets["train"])[usual])
    assert report.parameters == sum(part.parameters for part in report.parts)


def test_folds_of_a_pack_are_what_each_would_be_alone(tmp_path):
    """Two members of three folds as one program; and each fold by `fit`, from its own rows."""
    data, store = dataset(), Store(str(tmp_path))
    tasks = [task(MLP, "m0"), task({**MLP, "learning_rate": 0.01, "epochs": 6}, "m1")]
    reports = carried_out(store, data, *tasks)
    for one, report in zip(tasks, reports, strict=True):
        assert [part.metrics["pack"] for part in report.parts] == [6, 6, 6]
        restored = models(store, data, report, one.settings)
        for fold in data.folds:
            alone = registry.build_member(one.settings)
            found = alone.fit(data.examples().of_fold(fold), Context(one.seed).of_part(fold.name))
            probs_NC = restored[fold.name].predict(data.inputs["test"])
            np.testing.assert_allclose(probs_NC, alone.predict(fold.rescaling.apply(data.inputs["test"])), atol=1e-5)
            (part,) = (part for part in report.parts if part.name == fold.name)
            assert part.metrics["train_loss"] == pytest.approx(found["train_loss"], abs=1e-5)
        assert report.metrics["steps"] == sum(part.metrics["steps"] for part in report.parts)
        assert report.metrics["epochs"] == one.settings["epochs"]


def test_missing_values_and_repeats_in_a_pack(tmp_path):
    """A fold's own medians stand for missing values, in training as in prediction; a row's predictions are means."""
    data, store = dataset(folds={"folds": 2, "repeats": 2}), Store(str(tmp_path))
    inputs = {split: np.pad(values, ((0, 0), (0, 1))) for split, values in data.inputs.items()}
    missing_N = np.arange(len(inputs["train"])) % 5 == 0
    inputs["train"][missing_N, -1], inputs["train"][missing_N, 0] = 1, 99
    fold_RN = np.zeros((2, len(missing_N)), dtype=np.int64)
    for place, fold in enumerate(data.folds):
        fold_RN[fold.repeat, fold.held_N] = place % 2
    strata_N = data.target.strata(data.targets["train"])
    folds = make_folds(fold_RN, strata_N, inputs["train"], inputs["train"].shape[1] - 1, np.array([0]))
    data = replace(data, inputs={**inputs, "search": inputs["train"]}, folds=folds)
    (report,) = carried_out(store, data, task(MLP))
    restored = models(store, data, report, MLP)
    stored_NC, probs_NC = store.read_predictions(report.files["search"]), np.zeros((len(missing_N), 2))
    for fold in data.folds:
        alone = registry.build_member(MLP)
        alone.fit(data.examples().of_fold(fold), Context(7).of_part(fold.name))
        own = inputs["train"][fold.held_N]
        np.testing.assert_allclose(
            restored[fold.name].predict(own), alone.predict(fold.rescaling.apply(own)), atol=1e-5
        )
        probs_NC[fold.held_N] += restored[fold.name].predict(own) / 2
    np.testing.assert_allclose(stored_NC, probs_NC, atol=1e-6)


@pytest.mark.parametrize("settings", [MLP, KINDS["forest"]], ids=["packed", "in turn"])
def test_a_fold_that_is_on_disk_is_not_trained_again(settings, tmp_path):
    data, whole, broken = dataset(), Store(str(tmp_path / "whole")), Store(str(tmp_path / "broken"))
    (expected,) = carried_out(whole, data, task(settings))
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    attempt = tmp_path / "broken" / "members" / "m0" / "1"
    (attempt / "report.json").unlink()
    shutil.rmtree(attempt / "fold2")
    (found,) = carried_out(broken, data, task(settings, attempt=2))
    folders = {part.name: Path(part.files["state"].path).parts[2] for part in found.parts}
    assert folders == {"fold1": "1", "fold2": "2", "fold3": "1"}
    for one, other in zip(expected.parts, found.parts, strict=True):
        assert one.files["state"].sha256 == other.files["state"].sha256
    assert {split: address.sha256 for split, address in expected.files.items()} == {
        split: address.sha256 for split, address in found.files.items()
    }
    assert not [path for path in (tmp_path / "broken").rglob("checkpoint*") if path.is_file()]


def test_a_fold_that_diverges_fails_its_member_alone(tmp_path):
    tasks = [task({**MLP, "learning_rate": 1e30, "optimizer": "sgd"}, "m0"), task({**MLP, "optimizer": "sgd"}, "m1")]
    failed, report = carried_out(Store(str(tmp_path)), dataset(), *tasks)
    assert isinstance(failed, Failure) and failed.reason == "diverged" and len(report.parts) == 3


def small(folder, **changes):
    data = {"source": "sklearn:iris", "folds": 3}
    return small_run.config(folder, **{"data": data, "select": "quadratic", **changes})


def test_a_run_by_folds_is_killed_and_resumed(tmp_path):
    """Nothing that was finished is trained again, and the results equal those of a run that was not killed."""
    expected = distens.run(small(tmp_path / "whole"))
    folder = killed(small(tmp_path / "killed"), "[4/")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("fold*/state.safetensors")}
    assert before and not (folder / "results.json").exists()
    result = distens.resume(str(folder))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert {"ensemble", "best_single", "student", "larger_single", "seed_ensemble"} <= set(result.rows)
    for row, values in expected.rows.items():
        for name in ("accuracy", "nll", "parameters"):
            assert result.rows[row][name] == values[name]


def test_a_bundle_has_every_fold_s_state(tmp_path):
    result = distens.run(small(tmp_path))
    manifest = json.loads((Path(result.path) / "final" / "ensemble" / "bundle.json").read_text())
    assert all(member["parts"] == ["fold1", "fold2", "fold3"] for member in manifest["members"])
    predictor = distens.load(result.path)
    rows = np.array([[5.1, 3.5, 1.4, 0.2], [6.0, 2.9, 4.5, 1.5]])
    assert predictor.predict_proba(rows).shape == (2, 3)
    members_MNC = predictor.predict_members(rows)
    entries = {entry.task.id: entry for entry in Ledger(Store(result.path)).finished("search")}
    data = load_data(build_plan(small(tmp_path)).config.data, 0)
    for name, probs_NC in zip(predictor.members, members_MNC, strict=True):
        own = models(Store(result.path), data.dataset, entries[name].report, entries[name].task.settings)
        inputs = data.preprocessing.transform(rows)
        np.testing.assert_allclose(probs_NC, np.mean([m.predict(inputs) for m in own.values()], axis=0), atol=1e-6)


def test_actors_train_folds_and_what_is_registered_predicts(tmp_path, ray_here):
    tracking = {"kind": "mlflow_runs", "uri": f"sqlite:///{tmp_path}/mlflow.db"}
    plain = {"distill": None, "baselines": [], "search": {"kind": "random", "members": 4}}
    actors = {"runtime": {"kind": "ray_actors", "cpus_per_member": 1}, "tracking": tracking}
    result, inline = (distens.run(small(tmp_path / name, **plain, **own)) for name, own in (("r", actors), ("i", {})))
    for row, values in result.rows.items():
        assert values["nll"] == pytest.approx(inline.rows[row]["nll"], abs=1e-5)
    client = MlflowClient(tracking["uri"])
    version = client.get_model_version_by_alias("iris", "champion")
    rows = load_data(small(tmp_path).data, 0).example_rows
    registered_NC = load_model(client.get_model_version_download_uri("iris", version.version)).predict(rows).to_numpy()
    np.testing.assert_allclose(registered_NC, distens.load(result.path).predict_proba(rows), atol=1e-6)


def test_a_refit_is_a_row_and_a_bundle_of_its_own(tmp_path):
    """Each selected member, trained once on the rows of all folds, with the weight of its folds."""
    plain = small(tmp_path, distill=None, baselines=[])
    changes = {"data": {"source": "sklearn:iris", "folds": {"folds": 3, "refit": True}}}
    result = distens.run(small(tmp_path, distill=None, baselines=[], **changes))
    assert {*result.rows} == {"ensemble", "best_single", "refit"}
    assert any(line.startswith("refit against ensemble: ") for line in result.verdict)
    store = Store(result.path)
    whole, folds = (store.read_json(f"final/{row}/bundle.json")["members"] for row in ("refit", "ensemble"))
    assert [one["id"] for one in whole] == [f"refit-{one['id']}" for one in folds]
    assert [one["weight"] for one in whole] == [one["weight"] for one in folds]
    assert not any(one.get("parts") for one in whole)
    data = load_data(build_plan(plain).config.data, 0)
    for one in whole:
        entry = next(entry for entry in Ledger(store).finished("refit") if entry.task.id == one["id"])
        alone = registry.build_member(entry.task.settings)
        alone.fit(data.dataset.examples(), Context(entry.task.seed))
        stored_NC = store.read_predictions(entry.report.files["test"])
        np.testing.assert_allclose(stored_NC, alone.predict(data.dataset.inputs["test"]), atol=1e-5)
        assert "search" not in entry.report.files and "nll" not in entry.report.metrics
    predicted_NC = distens.load(f"{result.path}/final/refit").predict_proba(data.example_rows)
    assert predicted_NC.shape == (5, 3)


def test_a_refit_that_fails_is_missing_with_the_reason(tmp_path):
    """Its folds learn; the member fails where it is given all rows."""
    data = {"source": "sklearn:iris", "folds": {"folds": 3, "refit": True}}
    members = {"few": {"kind": "plugins.members.few_rows:FewRows", "most": 80}}
    search = {"kind": "random", "members": 2}
    result = distens.run(small(tmp_path, data=data, members=members, search=search, distill=None, baselines=[]))
    assert "refit" not in result.rows and "refits failed" in result.missing["refit"]


def test_rungs_by_folds_end_as_one_training_does(tmp_path):
    """A member that was promoted is, fold by fold, what it is if it is trained in one go."""
    schedule = {"kind": "halving", "minimum": 1, "maximum": 4, "eta": 2}
    members = {"mlp": {**MLP, "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}}
    changes = {"members": members, "search": {"kind": "random", "members": 8}, "distill": None, "baselines": []}
    result = distens.run(small(tmp_path / "rungs", schedule=schedule, **changes))
    store = Store(result.path)
    deepest = [entry for entry in Ledger(store).finished("search") if entry.task.budget == 4]
    assert deepest
    data = load_data(build_plan(small(tmp_path, **changes)).config.data, 0).dataset
    for entry in deepest:
        once = replace(entry.task, id="once", member="once", budget=None)
        (whole,) = carried_out(Store(str(tmp_path / entry.task.member)), data, once)
        stored_NC = store.read_predictions(entry.report.files["search"])
        other = Store(str(tmp_path / entry.task.member)).read_predictions(whole.files["search"])
        np.testing.assert_allclose(stored_NC, other, atol=1e-5)


def test_folds_where_they_have_no_effect_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.folds: a loop of your own trains members on \*train\* alone"):
        own_loop.load_data(small(tmp_path))
    members = {"toy": {"kind": "plugins.members.parted:Folds", "early": [0.5, 0.3, 0.2], "late": [0.7, 0.2, 0.1]}}
    with pytest.raises(ConfigError, match=r"data\.folds: a member of 'toy' leaves several models by itself"):
        build_plan(
            small(tmp_path, members=members, search={"kind": "random", "members": 2}, baselines=[], distill=None)
        )
    with pytest.raises(ConfigError, match=r"data\.folds: a loop of your own"):
        distens.ensemble([registry.build_member(MLP)], small(tmp_path, distill=None, baselines=[]))
    clients = {"members": {"c": {"kind": "client", "model": {"kind": "mlp"}}}, "federated": {"clients": 2}}
    with pytest.raises(ConfigError, match=r"data\.folds: has no effect in a federation"):
        coordinator.make_plan(
            small(tmp_path, role="federated", distill=None, baselines=[], select="greedy", search="divbo", **clients)
        )
