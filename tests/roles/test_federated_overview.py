"""What a federated run shows: figures, the page's tables, child runs and models in MLflow."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from mlflow.pyfunc import load_model
from small_federation import CLIENT, config
from tracked import held, history, run_info, runs_of

import distens
from distens import registry
from distens.lifecycle.ledger import Ledger
from distens.roles.federated import figures, overview
from distens.roles.federated.journal import RoundLog
from distens.storage.store import Store
from distens.tracking.mlflow_runs import MlflowRuns
from distens.tracking.protocol import Participant

LIAR = "plugins.members.liar:Liar"


def tracked(folder, uri, **changes):
    return config(folder, tracking={"kind": "mlflow_runs", "uri": uri, "experiment": "toy"}, **changes)


# Clients, worked by hand ----------------------------------------------------------------------------------------------

LOGS = {
    0: RoundLog(0, ["a", "b"], {"a": 0.25, "b": 0.75}, loss=2.0),
    1: RoundLog(
        1, ["a", "c"], {"a": 1.0}, failed={"c": "crashed: first\nlast"}, retried=["a: its actor died"], loss=1.5
    ),
    2: RoundLog(2, ["b", "c"], {"c": None}, refused={"b": "numbers that are not finite"}, loss=1.0),
    3: RoundLog(3, ["a", "c"], {"a": 0.5}, failed={"c": "crashed: again"}, loss=0.5),
}


def clients(tmp_path, counts=None):
    return overview.ClientOverview(["a", "b", "c", "d"], LOGS, Ledger(Store(str(tmp_path))), counts or {})


def test_participation_is_counted(tmp_path):
    """a: rounds 1, 2 and 4, with 0.25, 1 and 0.5, mean 7/12; b: 1, refused in 3; c: failed in 2 and 4; d: never."""
    found = clients(tmp_path, {"a": [2, 3], "d": [1, 0]})
    outcomes = {name: tuple(part.outcomes().values()) for name, part in found.parts.items()}
    assert outcomes == {"a": (3, 3, 0, 0), "b": (2, 1, 1, 0), "c": (3, 1, 0, 2), "d": (0, 0, 0, 0)}
    a, b, c, d = found.table({})
    assert a == {
        "client": "a",
        "rows": 5,
        "rounds asked": 3,
        "merged": 3,
        "mean share": pytest.approx(7 / 12),
        "what went wrong": "retried in round 2: its actor died",
    }
    assert b["rows"] is None and b["what went wrong"] == "refused in round 3: numbers that are not finite"
    assert "mean share" not in c and c["what went wrong"] == "failed in rounds 2, 4: last"
    assert d == {"client": "d", "rows": 1, "rounds asked": 0, "merged": 0}
    told = {"id": "c", "rounds": "2, 4", "reason": "failed", "message": "crashed: first\nlast", "final": True}
    assert found.failures[-1] == told
    assert [one["final"] for one in found.failures if one["reason"] == "retried"] == [False]


def test_the_tracker_is_told(tmp_path):
    told = {one.name: one for one in clients(tmp_path, {"a": [2, 3]}).participants()}
    metrics, steps, failures = told["a"].metrics, told["a"].history, told["a"].failures
    participation = {"rounds_asked": 3, "rounds_merged": 3, "rounds_refused": 0, "rounds_failed": 0}
    assert metrics == {**participation, "rows": 5, "rows_0": 2, "rows_1": 3}
    assert steps == {"weight": {1: 0.25, 2: 1.0, 4: 0.5}}
    assert failures == ("retried in round 2: its actor died",)
    assert told["a"].kind == "client"
    metrics, steps, failures = told["c"].metrics, told["c"].history, told["c"].failures
    assert "rows" not in metrics and steps == {"weight": {}}
    assert failures == ("failed in rounds 2, 4: crashed: first\nlast",)


def test_the_grids_of_the_heat_map(tmp_path):
    """A share that is not told is NaN in a cell that was merged; what is not merged has none."""
    shares_KT, outcomes_KT = overview.grids(["a", "b", "c", "d"], clients(tmp_path).parts, 4)
    none, merged, refused, failed = figures.NOT_ASKED, figures.MERGED, figures.REFUSED, figures.FAILED
    assert outcomes_KT.tolist() == [
        [merged, merged, none, merged],
        [merged, none, refused, none],
        [none, failed, merged, failed],
        [none] * 4,
    ]
    np.testing.assert_equal(shares_KT[0], [0.25, 1.0, np.nan, 0.5])
    assert np.isnan(shares_KT[2:]).all() and shares_KT[1, 0] == 0.75


def test_of_very_many_clients_the_largest_and_the_troubled_are_shown(tmp_path):
    """Of 300, where client i has i rows: the last 200, and of the others 7, which was refused, but not 8, which only
    had to be asked twice."""
    names = [f"c{i}" for i in range(300)]
    shares: dict[str, float | None] = {name: 1 / 299 for name in names if name != "c7"}
    logs = {0: RoundLog(0, names, shares, refused={"c7": "too far"}, retried=["c8: its actor died"])}
    found = overview.ClientOverview(
        names, logs, Ledger(Store(str(tmp_path))), {name: [i] for i, name in enumerate(names)}
    )
    assert found.chosen == ["c7", *names[100:]]
    assert list(found.left_out()) == ["clients shown"]
    assert "201 of 300 clients are listed and tracked" in found.left_out()["clients shown"]
    told = [one.name for one in found.participants()]
    assert told == found.chosen == [line["client"] for line in found.table({})]


def test_many_rounds_are_written_short(tmp_path):
    """Every second of 20 rounds is ten spans; the first six are told."""
    logs = {
        n: RoundLog(n, ["a"], failed={"a": "late"} if n % 2 else {}, shares={} if n % 2 else {"a": 1.0})
        for n in range(20)
    }
    (line,) = overview.ClientOverview(["a"], logs, Ledger(Store(str(tmp_path))), {}).table({})
    assert line["what went wrong"] == "failed in rounds 2, 4, 6, 8, 10, 12, … (10 in all): late"


# Figures --------------------------------------------------------------------------------------------------------------


def pixels(path):
    image = imread(path)
    assert 100 < image.shape[0] < 2000 and 100 < image.shape[1] < 2000
    return image[..., :3]


@pytest.mark.parametrize(("count", "rounds"), [(5, 1), (6, 4), (100, 500), (400, 30)])
def test_rounds_and_shares_are_drawn_at_any_size(count, rounds, tmp_path):
    """The colour of what was refused is there if something was, and only then."""
    rng = np.random.default_rng(0)
    outcomes_KT = rng.choice([figures.NOT_ASKED, figures.MERGED], (count, rounds))
    outcomes_KT[0] = figures.MERGED
    shares_KT = np.where(outcomes_KT == figures.MERGED, rng.random((count, rounds)), np.nan)
    names, values = [f"c{i}" for i in range(count)], {"nll": rng.random(rounds)}
    seen = []
    for name in ("calm", "refused"):
        figures.rounds(values, outcomes_KT, tmp_path / f"rounds_{name}.png")
        figures.shares(shares_KT, outcomes_KT, names, tmp_path / f"shares_{name}.png")
        outcomes_KT = outcomes_KT.copy()
        outcomes_KT[0, 0] = figures.REFUSED
        orange = np.array([0xD5, 0x5E, 0x00]) / 255
        files = [tmp_path / f"{kind}_{name}.png" for kind in ("rounds", "shares")]
        seen.append([bool((np.abs(pixels(file) - orange).max(axis=-1) < 0.01).any()) for file in files])
    assert seen == [[False, False], [True, True]]


def test_shares_that_are_not_told_are_drawn(tmp_path):
    outcomes_KT = np.array([[figures.MERGED, figures.FAILED], [figures.NOT_ASKED, figures.MERGED]])
    figures.shares(np.full((2, 2), np.nan), outcomes_KT, ["a", "b"], tmp_path / "shares.png")
    assert pixels(tmp_path / "shares.png").std() > 0.1


@pytest.mark.parametrize(("channels", "shown_as"), [(1, [0.5, 0.5, 0.5]), (3, [0.5, 0.0, 1.0]), (2, [0.25] * 3)])
def test_made_up_images_are_drawn_as_they_are(channels, shown_as, tmp_path):
    """Ten images of 4 x 6 in two lines of eight: each is 120 wide, with gaps of 6: 8 * 126 + 6 by 2 * 86 + 6. From
    -1 to 3, a 1 is half; what lies outside is black or white; two channels, a half and black, become their mean."""
    images = np.zeros((10, channels, 4, 6), dtype=np.float32)
    images[:] = np.array([1.0, -7.0, 9.0])[:channels, None, None]
    figures.pool(images, np.full((channels, 1, 1), -1.0), np.full((channels, 1, 1), 3.0), tmp_path / "pool.png")
    found = imread(tmp_path / "pool.png")[..., :3]
    assert found.shape == (178, 1014, 3)
    np.testing.assert_allclose(found[10, 10], shown_as, atol=0.005)
    np.testing.assert_allclose(found[3, 3], 1.0)
    np.testing.assert_allclose(found[-30, -30], 1.0)  # there is no sixteenth


# Trackers -------------------------------------------------------------------------------------------------------------


def tell(tracker, run):
    tracker.start(run)
    weights = {step: 1 / step for step in range(1, 1200)}
    metrics = {"rows": 3.0, "odd name!": 1.0, "none": float("nan")}
    tracker.participant(Participant("client", "site 1/ä", metrics, {"weight": weights}, ("a", "b")))
    tracker.participant(Participant("client", "c1", {"rows": 4.0}, {"weight": {}}))
    return tracker.finish(None, "finished")


@pytest.mark.parametrize("kind", registry.names("tracking"))
def test_telling_of_clients_again_changes_nothing(kind, tmp_path, mlflow_store):
    uri, _ = mlflow_store
    options = {"uri": uri} if kind == "mlflow_runs" else {}
    tracker = registry.make_plugin("tracking", {"kind": kind, **options}, "tracking")
    assert not any("did not take" in line for line in tell(tracker, run_info(tmp_path)))
    before = held(tracker, uri)
    tell(tracker, run_info(tmp_path))
    assert held(tracker, uri) == before


def test_a_client_in_mlflow(tmp_path, mlflow_store):
    """More steps than one call takes; one left RUNNING by a driver that was killed is completed, not doubled."""
    uri, client = mlflow_store
    tell(MlflowRuns(uri), run_info(tmp_path))
    (parent,), children = runs_of(client)
    assert sorted(children) == ["c1", "site 1/ä"]
    child = children["site 1/ä"]
    assert child.data.metrics == {"rows": 3.0, "odd name_": 1.0, "weight": pytest.approx(1 / 1199)}
    assert history(client, child, "weight") == [(step, 1 / step) for step in range(1, 1200)]
    assert (child.data.tags["distens.failures"], child.data.tags["distens.purpose"]) == ("a\nb", "client")
    assert "distens.failures" not in children["c1"].data.tags
    assert (child.info.status, child.data.tags["mlflow.parentRunId"]) == ("FINISHED", parent.info.run_id)
    client.update_run(child.info.run_id, status="RUNNING")
    tell(MlflowRuns(uri), run_info(tmp_path))
    _, again = runs_of(client)
    assert again["site 1/ä"].info.run_id == child.info.run_id and len(again) == 2
    assert again["site 1/ä"].info.status == "FINISHED"
    assert len(history(client, child, "weight")) == 1199


# Whole runs -----------------------------------------------------------------------------------------------------------


def test_rounds_in_mlflow(tmp_path, mlflow_store, monkeypatch):
    """Six clients, all asked in each of three rounds, one always refused. Sent again, nothing changes."""
    uri, client = mlflow_store
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    lying = {"kind": LIAR, "does": {"c3": "nan"}}
    result = distens.run(tracked(tmp_path / "runs", uri, federated={"per_round": None, "rounds": 3}, client=lying))
    assert any("model fed-global version 1 is champion (the first)" in note for note in result.notes)
    (parent,), children = runs_of(client)
    assert [step for step, _ in history(client, parent, "global_error")] == [1, 2, 3]
    assert history(client, parent, "refused") == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert {name: run.data.tags["distens.purpose"] for name, run in children.items()} == {
        **{f"c{i}": "client" for i in range(6)},
        "global global": "global",
    }
    good, liar = children["c0"], children["c3"]
    results = json.loads(Path(result.path, "results.json").read_text())
    assert history(client, good, "weight") == [(log["round"] + 1, log["shares"]["c0"]) for log in results["rounds"]]
    counted = {k: v for k, v in liar.data.metrics.items() if k.startswith("rounds_")}
    assert counted == {"rounds_asked": 3, "rounds_merged": 0, "rounds_refused": 3, "rounds_failed": 0}
    assert liar.data.tags["distens.failures"] == "refused in rounds 1-3: numbers that are not finite"
    assert "distens.failures" not in good.data.tags and "weight" not in liar.data.metrics
    rows = [children[f"c{i}"].data.metrics for i in range(6)]
    assert sum(one["rows"] for one in rows) == 1079
    assert all(one["rows"] == sum(one[f"rows_{c}"] for c in range(10)) for one in rows)
    assert good.data.metrics["weight"] == pytest.approx(
        good.data.metrics["rows"] / (1079 - liar.data.metrics["rows"])
    )  # FedAvg's share, without the one that was refused
    figures_sent = {file.path for file in client.list_artifacts(parent.info.run_id, "figures")}
    assert figures_sent == {f"figures/{name}.png" for name in ("rounds", "shares", "partition", "reliability")}
    page = Path(result.path, "report.html").read_text()
    assert "Clients (6)" in page and "refused in rounds 1-3: numbers that are not finite" in page

    images = np.random.default_rng(0).uniform(0, 16, (7, 8, 8))
    ours = distens.load(f"{result.path}/final/global").predict_proba(images)
    theirs = load_model("models:/fed-global@champion").predict(images).to_numpy()
    np.testing.assert_allclose(theirs, ours, atol=1e-6)

    before = held(MlflowRuns(uri), uri)
    again = distens.resume(result.path)
    assert any("was registered before" in note for note in again.notes)
    assert held(MlflowRuns(uri), uri) == before
    assert len(client.search_model_versions("name = 'fed-global'")) == 1


def test_without_rows_of_its_own_the_server_registers_and_promotes_nothing(tmp_path, mlflow_store):
    uri, client = mlflow_store
    data = {"source": "sklearn:digits", "splits": {"train": 0.8, "search": 0, "combine": 0, "test": 0.2}}
    result = distens.run(tracked(tmp_path, uri, data=data, federated={"rounds": 2}))
    assert any("fed-global version 1 is not champion (there are no rows to score it on)" in n for n in result.notes)
    assert dict(client.get_registered_model("fed-global").aliases) == {}
    assert "Training, round by round" in Path(result.path, "report.html").read_text()


def test_one_shot_shows_what_was_made_up(tmp_path, mlflow_store):
    """Every client's run has its rows and its weight; each distiller that makes images has a picture of some."""
    uri, client = mlflow_store
    federated = {"clients": 3, "rounds": 1, "per_round": None}
    distill = {"kind": "coboost", "epochs": 3, "batch_size": 16, "generator_steps": 2, "width": 4}
    lenet = {"client": {**CLIENT, "model": "lenet"}}
    changes = {"federated": federated, "distill": distill, "baselines": ["dense"], "members": lenet}
    result = distens.run(tracked(tmp_path, uri, **changes))
    (parent,), children = runs_of(client)
    runs = [children[f"c{i} client"] for i in range(3)]
    assert sum(run.data.metrics["rows"] for run in runs) == 1079
    assert sum(run.data.metrics["weight"] for run in runs) == pytest.approx(1)
    names = {path.name for path in Path(result.path, "figures").iterdir()}
    pools = {"pool_student.png", "pool_dense.png"}
    assert names >= pools | {"distillers.png", "partition.png", "reliability.png"}
    assert "rounds.png" not in names
    for name in pools:
        assert 500 < imread(Path(result.path, "figures", name)).shape[1] < 1100
    registered = {model.name for model in client.search_registered_models()}
    chosen = json.loads(Path(result.path, "results.json").read_text())["chosen"]
    extra = set() if chosen == "ensemble" else {f"fed-{chosen}"}
    assert registered == {"fed", "fed-global", "fed-student"} | extra
    page = Path(result.path, "report.html").read_text()
    assert "Images made up by coboost (student)" in page and "Images made up by dense" in page
    assert parent.info.status == "FINISHED"
