"""Federated runs: rounds that survive clients, actors and drivers that fail, and rows that stay where they are."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from kills import killed
from small_federation import CLIENT, WITH_ROWS, config

import distens
from distens import coordinator
from distens.config.config import parse_config, parse_yaml, to_yaml
from distens.errors import ConfigError, RunError, StorageError
from distens.partition.protocol import Partition
from distens.roles.federated.journal import RoundLog, RoundsJournal, ServerState
from distens.roles.federated.plan import build_plan
from distens.runtime import inline, ray_actors
from distens.storage.journal import Journal
from distens.storage.store import Store

LIAR = "plugins.members.liar:Liar"


def rounds_of(path):
    entries = Journal(Store(str(path)), "rounds").entries()
    return {entry["round"]: entry for entry in entries if "round" in entry}


def weights_of(path):
    last = max(rounds_of(path).items())[1]["state"][0]
    return Store(str(path)).read_state(last).arrays["weights"]


# Rounds ---------------------------------------------------------------------------------------------------------------


def test_rounds_learn_and_leave_a_model_that_predicts(tmp_path):
    result = distens.run(config(tmp_path, federated={"rounds": 12}, client={"epochs": 3, "learning_rate": 0.1}))
    logs = rounds_of(result.path)
    assert [len(log["asked"]) for log in logs.values()] == [4] * 12
    assert len({tuple(log["asked"]) for log in logs.values()}) > 1
    assert all(abs(sum(log["shares"].values()) - 1) < 1e-9 for log in logs.values())
    judged = [e["metrics"]["error"] for e in Journal(Store(result.path), "rounds").entries() if "judged" in e]
    assert len(judged) == 12 and judged[-1] < 0.25 < judged[0]
    assert result.rows["global"]["accuracy"] > 0.75
    assert result.rows["global"]["train_seconds"] == sum(log["seconds"] for log in logs.values())
    predictor = distens.load(f"{result.path}/final/global")
    from sklearn.datasets import load_digits

    digits = load_digits()
    assert (predictor.predict(digits.images) == digits.target.astype(str)).mean() > 0.75
    results = json.loads(Path(result.path, "results.json").read_text())
    assert results["chosen"] == "global" and len(results["rounds"]) == 12
    assert results["partition"] == Partition.read(Store(result.path)).hash
    assert sorted(Path(result.path, "rounds-weights").iterdir())[-1].name == "0011.safetensors"
    assert len(list(Path(result.path, "rounds-weights").iterdir())) == 2


def test_both_runners_end_with_the_same_weights(tmp_path, ray_here):
    """Packs differ, so weights agree to rounding."""
    one = distens.run(config(tmp_path / "a"))
    two = distens.run(config(tmp_path / "b", runtime="ray_actors"))
    np.testing.assert_allclose(weights_of(one.path), weights_of(two.path), atol=1e-5)
    assert one.rows["global"]["nll"] == pytest.approx(two.rows["global"]["nll"], abs=1e-4)


def test_a_stored_partition_gives_another_run_the_same_clients(tmp_path):
    one = distens.run(config(tmp_path))
    stored = {"clients": None, "partition": {"kind": "stored", "path": one.path}}
    two = distens.run(config(tmp_path, federated=stored, client={"learning_rate": 0.01}))
    hashes = {json.loads(Path(r.path, "results.json").read_text())["partition"] for r in (one, two)}
    assert len(hashes) == 1


REFINED = {
    "distill": {"kind": "fedftg", "iterations": 2, "width": 4, "batch_size": 16},
    "members": {"client": {**CLIENT, "model": "lenet"}},
}


@pytest.mark.parametrize(
    "changes",
    [*({"merge": kind} for kind in ("fedavg", "fedadam", "scaffold", "feddyn", "fedlaw")), REFINED],
    ids=lambda changes: changes.get("merge", "fedftg"),
)
def test_a_driver_killed_between_rounds_resumes_to_the_same_weights(changes, tmp_path):
    """SIGKILL when the second of four rounds is said to be merged, and is perhaps still being written: what is in the
    journal is all that is left, and the weights are the same bits."""
    folder = killed(config(tmp_path / "killed", **changes), "round 2 of 4: 4 of 4 clients")
    done = len(rounds_of(folder))
    assert 1 <= done < 4
    updates = []
    resumed = distens.resume(str(folder), updates.append)
    calm = distens.run(config(tmp_path / "calm", **changes))
    assert sum("clients, loss" in update.text for update in updates) == 4 - done
    assert weights_of(resumed.path).tobytes() == weights_of(calm.path).tobytes()
    assert resumed.rows["global"]["nll"] == calm.rows["global"]["nll"]


def test_weights_that_did_not_survive_are_made_again(tmp_path):
    """The last round's file is cut short, as a loss of power would: the round before is where it goes on."""
    calm = distens.run(config(tmp_path))
    weights_P = weights_of(calm.path)
    last = Path(calm.path, "rounds-weights", "0003.safetensors")
    last.write_bytes(last.read_bytes()[:100])
    Path(calm.path, "results.json").unlink()
    updates = []
    again = distens.resume(calm.path, updates.append)
    assert sum("clients, loss" in update.text for update in updates) == 1
    assert weights_of(again.path).tobytes() == weights_P.tobytes()


def test_a_round_done_again_is_counted_once(tmp_path):
    """The third round's weights are gone, so it is done again, with another client: in all that is read later, too."""
    store = Store(str(tmp_path))
    kept = RoundsJournal(store)
    for number, client in enumerate(["a", "b", "a"]):
        log = RoundLog(number, [client], {client: 1.0}, loss=0.5)
        kept.keep(log, ServerState(number + 1, np.full(3, number), {"m": np.ones(2)}, [float(number)]))
    kept.judge(1, {"nll": 0.5})
    assert kept.taken == {"a": [0, 2], "b": [1]}
    (tmp_path / "rounds-weights" / "0002.safetensors").unlink()
    again = RoundsJournal(store)
    reached = again.restored()
    assert reached.rounds == 2 and reached.weights_P.tolist() == [1, 1, 1] and reached.norms == [1.0]
    assert again.taken == {"a": [0], "b": [1]} and again.logs[1].metrics == {"nll": 0.5}
    again.keep(RoundLog(2, ["b"], {"b": 1.0}, loss=0.5), ServerState(3, np.full(3, 2)))
    assert again.taken == {"a": [0], "b": [1, 2]}
    again.settle()
    last = RoundsJournal(store)
    assert last.restored().rounds == 3 and last.taken == again.taken and last.logs == again.logs


def test_rounds_that_cannot_be_written_end_the_run(tmp_path):
    """They are written while the next one trains; the run knows no later than before that one is merged."""
    told = []

    def watch(update):
        told.append(update.text)
        if update.path:  # the run's folder is there
            Path(update.path, "rounds-weights").write_text("not a folder")

    with pytest.raises(StorageError, match=r"cannot write rounds-weights/0000\.safetensors"):
        distens.run(config(tmp_path, federated={"rounds": 3}), watch)
    assert sum("clients, loss" in text for text in told) == 1


def test_refining_after_a_round_changes_the_merged_weights_alone(tmp_path):
    """The first round's clients begin with the same weights, so what they send is the same; what is kept is not."""
    plain = distens.run(config(tmp_path / "plain", members=REFINED["members"], federated={"rounds": 2}))
    refined = distens.run(config(tmp_path / "refined", **REFINED, federated={"rounds": 2}))
    assert rounds_of(plain.path)[0]["loss"] == rounds_of(refined.path)[0]["loss"]
    assert rounds_of(plain.path)[1]["loss"] != rounds_of(refined.path)[1]["loss"]
    assert np.abs(weights_of(plain.path) - weights_of(refined.path)).max() > 1e-5


def test_what_a_distiller_remembers_goes_on_from_round_to_round(tmp_path):
    """4 clients, 2 iterations, a generator's step for each: 8 steps a round."""
    result = distens.run(config(tmp_path, **REFINED, federated={"rounds": 3, "clients": 4, "per_round": None}))
    for number, log in list(rounds_of(result.path).items())[1:]:
        kept = Store(str(result.path)).read_state(log["state"][0]).arrays
        assert kept["distiller/moments/0/step"] == 8 * (number + 1)
        assert log["refined"]["generator_loss"] != 0


# One shot -------------------------------------------------------------------------------------------------------------

ONE_SHOT = {"rounds": 1, "per_round": None, "clients": 4}
MADE_UP = {"epochs": 3, "batch_size": 32, "generator_steps": 2, "width": 4}


def one_shot(folder, **changes):
    client = {**CLIENT, "model": "lenet", "epochs": 12, "momentum": 0.9, "learning_rate": 0.05}
    given = {"members": {"client": client}, "federated": ONE_SHOT, "distill": {"kind": "coboost", **MADE_UP}}
    return config(folder, **{**given, **changes})


def test_one_shot_compares_all_that_the_server_can_make(tmp_path):
    result = distens.run(one_shot(tmp_path, baselines=["dense", "feddf"]))
    known = {"uniform_ensemble", "average_ensemble", "classwise_ensemble"}
    assert set(result.rows) == {"ensemble", *known, "global", "student", "dense", "feddf", "mean_client"}
    assert abs(sum(result.weights.values()) - 1) < 1e-6 and set(result.weights) <= {"c0", "c1", "c2", "c3"}
    assert result.rows["ensemble"]["accuracy"] > result.rows["mean_client"]["accuracy"]
    assert result.rows["feddf"]["accuracy"] > 0.5
    assert result.verdict[0].startswith("On the server's 179 combine rows ")
    results = json.loads(Path(result.path, "results.json").read_text())
    least = min(results["combine"], key=lambda name: results["combine"][name]["nll"])
    assert results["chosen"] == least
    dense = json.loads(next(Path(result.path, "members/dense").glob("*/report.json")).read_text())
    assert dense["metrics"]["epochs"] == 3, "a rival costs what the run's own distiller costs"
    members = {name: len(distens.load(f"{result.path}/final/{name}").members) for name in ("global", "student")}
    assert members == {"global": 1, "student": 1}
    assert set(distens.load(f"{result.path}/final/ensemble").members) == set(result.weights)


def test_clients_of_several_architectures_are_distilled_but_not_merged(tmp_path):
    families = {
        "small": {**CLIENT, "epochs": 12, "momentum": 0.9},
        "images": {**CLIENT, "model": "lenet", "epochs": 12, "momentum": 0.9},
    }
    result = distens.run(one_shot(tmp_path, members=families))
    assert "global" not in result.rows and "student" in result.rows
    kinds = {p.parent.parent.name: len(p.read_bytes()) for p in Path(result.path, "members").glob("c*/*/state*")}
    assert kinds["c0"] == kinds["c2"] != kinds["c1"] == kinds["c3"]


def test_one_shot_without_rows_of_the_servers_own_makes_no_choice(tmp_path):
    data = {"source": "sklearn:digits", "splits": {"train": 0.8, "search": 0, "combine": 0, "test": 0.2}}
    result = distens.run(one_shot(tmp_path, data=data))
    assert "no honest choice among" in result.verdict[0]
    assert json.loads(Path(result.path, "results.json").read_text())["chosen"] is None


@pytest.mark.parametrize("lost", ["global", "student"])
def test_what_was_being_made_when_the_driver_died_is_made_again_the_same(lost, tmp_path):
    """The journal says that it was dispatched, and no more: what a task is given in memory is not in it."""
    calm = distens.run(one_shot(tmp_path))
    folder = Path(calm.path)
    for file in sorted(folder.glob("journal/*.json")):
        told = [entry for entry in json.loads(file.read_text()) if entry.get("report", {}).get("task_id") != lost]
        file.write_text(json.dumps(told))
    shutil.rmtree(folder / "members" / lost)
    (folder / "results.json").unlink()
    again = distens.resume(calm.path)
    assert again.rows[lost]["nll"] == calm.rows[lost]["nll"]
    assert again.weights == calm.weights


def test_one_shot_resumes_where_it_was_killed(tmp_path):
    """SIGKILL once a client has finished: no finished client trains again, and all ends with the same bits."""
    folder = killed(one_shot(tmp_path / "killed", runtime={"kind": "inline", "pack": 1}), "c1 client: ")
    before = {p: p.stat().st_mtime_ns for p in folder.glob("members/c*/*/report.json")}
    assert len(before) >= 2
    resumed = distens.resume(str(folder))
    assert all(p.stat().st_mtime_ns == then for p, then in before.items())
    calm = distens.run(one_shot(tmp_path / "calm", runtime={"kind": "inline", "pack": 1}))
    assert resumed.weights == calm.weights
    for row in ("ensemble", "global", "student"):
        assert resumed.rows[row]["nll"] == calm.rows[row]["nll"]


def test_the_command_line_predicts_with_what_was_chosen(tmp_path):
    from typer.testing import CliRunner

    from distens.cli.main import app

    made = distens.run(config(tmp_path / "runs"))
    shot = distens.run(one_shot(tmp_path / "runs"))
    listed = CliRunner().invoke(app, ["list", "--storage", str(tmp_path / "runs")]).output
    assert listed.count("finished") == 2 and "6 clients" in listed and "4 clients" in listed
    assert f"{made.rows['global']['accuracy']:.4f}" in listed
    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 8, 8)))
    chosen = json.loads(Path(shot.path, "results.json").read_text())["chosen"]
    for run, name in ((made, "global"), (shot, chosen)):
        found = CliRunner().invoke(app, ["predict", run.path, str(tmp_path / "rows.npz")])
        assert found.exit_code == 0, found.output
        assert Path(run.path, "final", name, "bundle.json").exists()
        expected_NC = distens.load(f"{run.path}/final/{name}").predict_proba(np.zeros((2, 8, 8)))
        assert f"{expected_NC[0, 3]}" in found.output
        assert "On the server" in CliRunner().invoke(app, ["report", run.path]).output or run is made


# Clients that fail ----------------------------------------------------------------------------------------------------


def test_an_actor_that_dies_is_made_up_for(tmp_path, ray_here):
    """Whatever client is asked first kills its actor in the first round: every round has all its clients, and the
    weights are those of a calm run."""
    asked = rounds_of(distens.run(config(tmp_path / "calm")).path)[0]["asked"][0]
    client = {"kind": LIAR, "does": {asked: f"die {tmp_path / 'note'}"}}
    died = distens.run(config(tmp_path / "died", client=client, runtime="ray_actors"))
    logs = rounds_of(died.path)
    assert (tmp_path / "note").exists()
    assert any(asked in text for text in logs[0]["retried"])
    assert all(len(log["shares"]) == 4 and not log["failed"] for log in logs.values())
    calm = distens.run(config(tmp_path / "quiet", client={"kind": LIAR}, runtime="ray_actors"))
    np.testing.assert_allclose(weights_of(died.path), weights_of(calm.path), atol=1e-5)


@pytest.mark.parametrize(
    ("lie", "words"),
    [("nan", "not finite"), ("shape", "(1209,) instead of float32 of shape (1210,)"), ("thousand", "times the median")],
)
def test_a_lie_is_refused_by_name_and_the_others_are_merged(lie, words, tmp_path):
    federated = {"per_round": None, "clients": 6}
    lying = config(tmp_path / "lying", federated=federated, client={"kind": LIAR, "does": {"c3": lie}})
    updates = []
    found = distens.run(lying, updates.append)
    logs = rounds_of(found.path)
    assert all(list(log["refused"]) == ["c3"] and words in log["refused"]["c3"] for log in logs.values())
    assert all(sorted(log["shares"]) == ["c0", "c1", "c2", "c4", "c5"] for log in logs.values())
    assert any("4 of 4 rounds were merged without a client that was drawn: c3." in line for line in found.verdict)
    assert any("without c3" in update.text for update in updates)
    others = config(tmp_path / "others", federated=federated, client={"kind": LIAR, "does": {"c3": "raise"}}, seed=0)
    assert found.rows["global"]["accuracy"] == distens.run(others).rows["global"]["accuracy"]


def test_below_the_quorum_the_run_stops_and_names_them(tmp_path):
    client = {"kind": LIAR, "does": dict.fromkeys(("c0", "c1", "c2", "c3"), "nan")}
    with pytest.raises(RunError, match=r"round 0: 2 of 6 clients' updates can be merged.*is 3. 4 were refused: c0: "):
        distens.run(config(tmp_path, federated={"per_round": None}, client=client))


def test_a_rule_that_needs_more_updates_says_so(tmp_path):
    with pytest.raises(RunError, match="merge 'krum': needs at least 7 updates"):
        distens.run(config(tmp_path, merge={"kind": "krum", "faulty": 2}, federated={"per_round": None}))


def test_a_straggler_is_left_out_at_the_deadline(tmp_path, ray_here):
    """Each client alone; in the first round one sleeps for a minute. The round ends at its deadline without it."""
    client = {"kind": LIAR, "does": {"c2": "wait"}}
    federated = {"per_round": None, "rounds": 2, "clients": 3, "deadline_seconds": 12.0, "quorum": 0.3}
    runtime = {"kind": "ray_actors", "pack": 1}
    logs = rounds_of(distens.run(config(tmp_path, client=client, federated=federated, runtime=runtime)).path)
    assert "federated.deadline_seconds" in logs[0]["failed"]["c2"]
    assert logs[0]["shares"] and "c2" not in logs[0]["shares"]
    assert "c2" in logs[1]["shares"]


# Rows stay where they are ---------------------------------------------------------------------------------------------


def write_sources(folder, clients=3, rows=60):
    """Tables of eight random numbers a row: no four of them occur twice anywhere. The server's has other rows."""
    rng = np.random.default_rng(5)
    direction = rng.normal(size=8)
    made = {}
    for name in ["server", *(f"site{i}" for i in range(clients))]:
        x = rng.normal(size=(rows if name != "server" else 200, 8)).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=x, y=(x @ direction > 0).astype(int))
        made[name] = x
    return made


SERVER = {"train": 0.3, "search": 0.2, "combine": 0.2, "test": 0.3}


class Recorded:
    """What a runner's own methods take and give, pickled as it is."""

    def __init__(self):
        self.crossed = []

    def __call__(self, value):
        self.crossed.append(pickle.dumps(value))
        return value


@pytest.mark.parametrize("rounds", [2, 1])
def test_no_row_of_a_clients_data_leaves_its_actor(rounds, tmp_path, monkeypatch, ray_here):
    """All that goes to the actors and all that comes back is looked through, and every file that the run leaves, for
    any four numbers in a row of any client's rows, raw or scaled; the driver never opens their files."""
    made = write_sources(tmp_path)
    record = Recorded()
    run, start, hold = ray_actors.RayActors.run, ray_actors.RayActors.start, ray_actors.RayActors.hold

    def watched(self, packs):
        for outcomes in run(self, (record(pack) for pack in packs)):
            yield record(outcomes)

    monkeypatch.setattr(ray_actors.RayActors, "run", watched)
    monkeypatch.setattr(ray_actors.RayActors, "start", lambda self, shared, also: start(self, record(shared), also))
    monkeypatch.setattr(ray_actors.RayActors, "hold", lambda self, value: hold(self, record(value)))
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    sources = {f"site{i}": str(tmp_path / f"site{i}.npz") for i in range(3)}
    federated = {"clients": None, "partition": None, "sources": sources, "rounds": rounds, "per_round": None}
    data = {
        "source": str(tmp_path / "server.npz"),
        "splits": {"train": 0.3, "search": 0.2, "combine": 0.2, "test": 0.3},
    }
    client = {"epochs": 10, "learning_rate": 0.2}
    whole = config(tmp_path / "runs", client=client, federated=federated, data=data, runtime="ray_actors")
    result = distens.run(whole)
    assert result.rows["global"]["accuracy"] > 0.6
    assert len(record.crossed) > 4
    assert not [name for name in opened if "site" in name and name.endswith(".npz")]
    scaling = json.loads(Path(result.path, "preprocessing.json").read_text())["scaling"]
    means, scales = np.array(scaling["means_F"]), np.array(scaling["scales_F"])
    left = [path.read_bytes() for path in Path(result.path).rglob("*") if path.is_file()]
    everything = b"".join([*record.crossed, *left])

    def found(rows):
        scaled = ((rows.astype(np.float64) - means) * scales).astype(np.float32)
        forms = (rows, rows.astype(np.float64), scaled)
        return any(
            np.ascontiguousarray(form[i, :4]).tobytes() in everything for form in forms for i in range(len(rows))
        )

    assert found(made["server"]), "the search itself works"
    for name in sources:
        assert not found(made[name])
        assert not any(f"{value:.6f}"[:8].encode() in everything for value in made[name][:3, 0] if abs(value) > 0.1)


def test_a_client_with_other_data_is_named(tmp_path):
    write_sources(tmp_path)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "site1.npz", x=rng.normal(size=(20, 5)).astype(np.float32), y=rng.integers(2, size=20))
    np.savez(tmp_path / "site2.npz", x=rng.normal(size=(20, 8)).astype(np.float32), y=rng.integers(2, 4, size=20))
    sources = {f"site{i}": str(tmp_path / f"site{i}.npz") for i in range(3)} | {"gone": str(tmp_path / "gone.npz")}
    federated = {"clients": None, "partition": None, "sources": sources, "rounds": 2, "per_round": None}
    federated["quorum"] = 0.2
    data = {
        "source": str(tmp_path / "server.npz"),
        "splits": {"train": 0.3, "search": 0.2, "combine": 0.2, "test": 0.3},
    }
    logs = rounds_of(distens.run(config(tmp_path / "runs", federated=federated, data=data)).path)
    failed = logs[0]["failed"]
    assert sorted(failed) == ["gone", "site1", "site2"]
    assert "expected an array of numbers of shape (rows, 8)" in failed["site1"]
    assert "the class '2' is not among the server's classes: 0, 1" in failed["site2"]
    assert "gone.npz" in failed["gone"]


def test_a_server_without_rows_of_its_own_says_so(tmp_path):
    data = {"source": "sklearn:digits", "splits": {"train": 0.8, "search": 0, "combine": 0, "test": 0.2}}
    result = distens.run(config(tmp_path, data=data))
    assert "the server has no rows to calibrate it on" in result.verdict[0]
    assert result.rows["global"]["temperature"] == 1.0


# The config -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "ensemble"}, "federated: has no effect with role `ensemble`"),
        ({"search": {"kind": "random"}}, "search: has no effect with role `federated`"),
        ({"select": "top"}, "select: has no effect"),
        ({"federated": None}, "needs the section `federated`"),
        ({"members": {"a": {"kind": "classifier"}}}, "members.a.kind: a federation's members are of kind 'client'"),
        ({"members": {"a": {**CLIENT, "epochs": {"low": 1, "high": 3}}}}, "members.a: a federation searches nothing"),
        ({"members": {"a": {**CLIENT, "start": 3}}}, "members.a.start: the run's seed decides"),
        ({"members": {"a": CLIENT, "b": CLIENT}}, "federated.rounds: weights of several families (a, b)"),
        ({"merge": "fedavgg"}, "unknown merge kind 'fedavgg'"),
        ({"merge": "scaffold", "members": {"a": {**CLIENT, "momentum": 0.9}}}, "plain gradient steps"),
        ({"distill": "student"}, "needs the clients' rows"),
        ({"distill": "dense"}, "works in one shot, and there are 4 rounds. After every round: fedftg"),
        ({"baselines": ["larger_single"]}, "unknown baseline 'larger_single' of a federation"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(changes, words, tmp_path):
    values = json.loads(json.dumps(config(tmp_path).model_dump(mode="json")))
    for name in ("search", "schedule", "select", "combine"):
        values.pop(name)
    with pytest.raises(ConfigError) as caught:
        coordinator.make_plan(parse_config({**values, **changes}))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"per_round": 9}, "federated.per_round: 9 clients a round, but there are 6"),
        ({"rounds": 1}, "federated.per_round: has no effect in one shot"),
        ({"sources": {"a": "x.csv"}}, "federated.partition: has no effect beside `sources`"),
        ({"partition": "dirichlet"}, "federated.partition.kind: unknown partition kind 'dirichlet'"),
        ({"quorum": 0}, "federated.quorum"),
    ],
)
def test_a_section_that_cannot_be_is_refused(section, words, tmp_path):
    with pytest.raises(ConfigError) as caught:
        build_plan(config(tmp_path, federated=section))
    assert words in str(caught.value)


def test_what_is_resolved_reads_back_the_same(tmp_path):
    """The baseline has what the run's distiller was given, and says so: nothing is left for another time to fill in."""
    baselines = ["dense", {"name": "slow", "kind": "dense", "epochs": 7}, "feddf"]
    plan = build_plan(one_shot(tmp_path, baselines=baselines))
    dense, slow, feddf = plan.config.baselines
    assert dense == {**plan.baselines["dense"], "name": "dense"}
    assert dense["epochs"] == 3 and slow["epochs"] == 7 and feddf["learning_rate"] > 0
    again = build_plan(parse_yaml(to_yaml(plan.config), "config.yaml"))
    assert again.config == plan.config and again.config.hash() == plan.config.hash()
    assert again.baselines == plan.baselines and again.distiller == plan.distiller


@pytest.mark.parametrize(("search", "combine", "refused"), [(0, 0, True), (0, 0.1, False), (0.1, 0, False)])
def test_a_metric_is_of_some_rows_of_the_servers_own(search, combine, refused, tmp_path):
    data = {**WITH_ROWS, "splits": {"train": 0.8 - search - combine, "search": search, "combine": combine, "test": 0.2}}
    if refused:
        with pytest.raises(ConfigError, match="metric: has no effect without rows of the server's own"):
            build_plan(config(tmp_path, metric="error", data=data))
    else:
        build_plan(config(tmp_path, metric="error", data=data))


def test_a_rule_that_needs_the_servers_rows(tmp_path):
    data = {"source": "sklearn:digits", "splits": {"train": 0.7, "search": 0, "combine": 0.1, "test": 0.2}}
    with pytest.raises(
        ConfigError, match=r"merge: 'fedlaw' needs rows of the server's own, but data.splits.search is 0"
    ):
        build_plan(config(tmp_path, merge="fedlaw", data=data))
    assert inline.Inline().hold(3).reference == 3
