"""A run's result in Python: leaderboard, best member, rounds, predictor; and the same from the folder alone."""

import numpy as np
import pytest
import small_federation
import small_run
import torch
import user_module

import distens
from distens.errors import BundleError, DataError, RunError
from distens.lifecycle.ledger import Ledger
from distens.storage.store import Store

MEMBERS = {
    "net": {"kind": "classifier", "model": {"kind": "mlp", "hidden": {"choices": [[8], [16]]}}, "epochs": 5},
    "trees": {"kind": "estimator", "estimator": "extra_trees", "options": {"n_estimators": 5}},
}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("result")
    return distens.run(small_run.config(folder / "runs", members=MEMBERS, baselines=["larger_single"], distill=None))


def test_every_model_has_a_row_and_the_best_is_first(result):
    board = result.leaderboard()
    ledger = Ledger(Store(result.path))
    assert set(board["member"]) == {entry.task.id for entry in ledger.all_finished()}
    assert board["search.nll"].is_monotonic_increasing
    assert set(board["purpose"]) == {"search", "larger_single"}
    searched = board[board["purpose"] == "search"].set_index("member")
    assert dict(searched["weight"][searched["weight"] > 0]) == pytest.approx(dict(result.weights))
    for name, row in searched.iterrows():
        report = ledger.report(str(name))
        assert row["search.nll"] == report.metrics["nll"] and row["seconds"] == report.seconds
        predictions_NK = Store(result.path).read_predictions(report.files["combine"])
        targets_N = result.data().dataset.targets["combine"]
        assert row["combine.accuracy"] == pytest.approx((predictions_NK.argmax(1) == targets_N).mean())
        assert row["settings"]["kind"] in ("classifier", "estimator")
    first = searched.index[0]
    assert result.best["member"] == first or board["purpose"][0] != "search"


def test_the_folder_gives_the_same_result(result):
    again = distens.load_result(result.path)
    assert (again.rows, again.weights, again.verdict, again.missing) == (
        {name: dict(row) for name, row in result.rows.items()},
        dict(result.weights),
        list(result.verdict),
        dict(result.missing),
    )
    assert again.best == result.best
    assert again.leaderboard().equals(result.leaderboard())
    assert again.rounds.empty
    assert repr(again) == repr(result)
    assert repr(result).startswith("<Result ") and len(repr(result)) < 150


def test_members_their_disagreement_and_their_networks(result):
    predictor, dataset = result.predictor, result.data().dataset
    rows = result.data().example_rows
    predictions_MNK = predictor.predict_members(rows)
    assert predictions_MNK.shape == (len(predictor.members), len(rows), len(predictor.classes))
    parts = predictor.uncertainty(rows)
    np.testing.assert_allclose(parts["entropy"], parts["expected_entropy"] + parts["mutual_information"])
    assert (parts["mutual_information"] >= -1e-9).all()
    weights_M = np.array([member.weight for member in predictor.bundle.members])
    mean_NK = np.tensordot(weights_M / weights_M.sum(), predictions_MNK.astype(float), axes=1)
    np.testing.assert_allclose(parts["entropy"], -(mean_NK * np.log(np.maximum(mean_NK, 1e-12))).sum(1), rtol=1e-6)
    inputs = torch.tensor(dataset.inputs["test"][: len(rows)])
    for place, entry in enumerate(predictor.bundle.members):
        if entry.settings["kind"] == "classifier":
            with torch.no_grad():
                probs_NK = predictor.module(entry.id)(inputs).softmax(1).numpy()
            np.testing.assert_allclose(probs_NK, predictions_MNK[place], atol=1e-6)
        else:
            with pytest.raises(BundleError, match=r"is not one network \(kind estimator\)"):
                predictor.module(entry.id)
    with pytest.raises(BundleError, match="no member 'm9999'"):
        predictor.module("m9999")
    assert repr(predictor).startswith("<Predictor of 3 classes, ")


def test_a_users_own_network_is_given_back(tmp_path):
    member = {"kind": "module", "path": "user_module:Plain", "epochs": 1}
    changes = {"members": {"own": member}, "search": {"kind": "random", "members": 1}, "runtime": "inline"}
    result = distens.run(small_run.config(tmp_path, distill=None, baselines=[], **changes))
    network = result.predictor.module("m0000")
    assert type(network) is user_module.Plain and not network.training
    rows = result.data().example_rows
    inputs = torch.tensor(result.data().dataset.inputs["test"][: len(rows)])
    with torch.no_grad():
        probs_NK = network(inputs).softmax(1).numpy()
    np.testing.assert_allclose(probs_NK, result.predictor.predict_members(rows)[0], atol=1e-6)


def test_rows_with_known_targets_are_judged(result):
    rows = result.data().example_rows
    named = result.predictor.predict(rows)
    assert result.predictor.evaluate(rows, named)["accuracy"] == 1.0
    assert result.predictor.evaluate(rows.assign(kind=named), "kind")["accuracy"] == 1.0
    with pytest.raises(DataError, match="targets: the rows have no column 'sort'"):
        result.predictor.evaluate(rows, "sort")
    with pytest.raises(DataError, match="the class 'rose' is unknown"):
        result.predictor.evaluate(rows, ["rose"] * len(rows))
    with pytest.raises(DataError, match="targets: 1 of them for"):
        result.predictor.evaluate(rows, named[:1])


def test_numbers_have_a_variance(tmp_path):
    members = {
        "trees": {
            "kind": "estimator_regressor",
            "estimator": "extra_trees",
            "options": {"n_estimators": {"choices": [3, 4]}},
        }
    }
    changes = {"data": {"source": "sklearn:diabetes"}, "members": members, "distill": None, "baselines": []}
    found = distens.run(small_run.config(tmp_path / "runs", **changes))
    rows = found.data().example_rows
    variance_N = found.predictor.uncertainty(rows)["variance"]
    numbers_MN = found.predictor.predict_members(rows)[:, :, 0].astype(float)
    weights_M = np.array([member.weight for member in found.predictor.bundle.members])
    weights_M /= weights_M.sum()
    by_hand_N = (weights_M[:, None] * (numbers_MN - weights_M @ numbers_MN) ** 2).sum(0)
    np.testing.assert_allclose(variance_N, by_hand_N, rtol=1e-6)
    assert "search.rmse" in found.leaderboard()


def test_rounds_are_a_table(tmp_path):
    config = small_federation.config(tmp_path / "runs", federated={"rounds": 2})
    rounds = distens.run(config).rounds
    assert list(rounds["round"]) == [0, 1]


def test_what_has_not_finished_has_no_result(tmp_path, result):
    with pytest.raises(RunError, match="no run here"):
        distens.load_result(str(tmp_path))
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    (unfinished / "run.json").write_text((Store(result.path).read("run.json")).decode())
    with pytest.raises(RunError, match="was not finished"):
        distens.load_result(str(unfinished))
