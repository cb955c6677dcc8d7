"""What MLflow holds of a run that goes on: one run, its members, its newest numbers, and a version for each result."""

import json
from dataclasses import replace
from pathlib import Path

import small_federation
import small_run
from tracked import held, history, run_info, runs_of

import distens
from distens.tracking._logbook import Logbook
from distens.tracking._mlflow import Mlflow


def tracked(uri):
    return {"kind": "mlflow_runs", "uri": uri}


def files(client, run, folder=None):
    return {file.path for file in client.list_artifacts(run.info.run_id, folder)}


def versions(client, model):
    found = client.search_model_versions(f"name = '{model}'")
    return sorted(found, key=lambda version: int(version.version))


def test_one_run_goes_on_and_each_of_its_results_is_a_version(tmp_path, mlflow_store):
    uri, client = mlflow_store
    run = distens.run(small_run.config(tmp_path / "runs", baselines=[], distill=None, tracking=tracked(uri)))
    (before,), children = runs_of(client, "iris")
    result = distens.resume(run.path, overrides=["search.members=12", "select={kind: top, size: 2}"])
    (parent,), members = runs_of(client, "iris")
    assert parent.info.run_id == before.info.run_id and parent.info.status == "FINISHED"
    assert len(members) == 12
    assert all(members[name].info.run_id == child.info.run_id for name, child in children.items())
    assert parent.data.params["search.members"] == "9" and parent.data.tags["distens.changed.search.members"] == "12"
    assert parent.data.tags["distens.changed.select.kind"] == "top"
    assert parent.data.tags["distens.edition"] == "2" and "distens.edition" not in before.data.tags
    assert parent.data.metrics["ensemble.nll"] == result.rows["ensemble"]["nll"] != before.data.metrics["ensemble.nll"]
    assert len(history(client, parent, "ensemble.nll")) == 2
    weights = {m.data.tags["distens.task"]: m.data.metrics.get("weight", 0.0) for m in members.values()}
    assert {name: weight for name, weight in weights.items() if weight} == dict(result.weights)
    assert {"report.html", "report.2.html", "results.json", "results.2.json", "config.yaml"} <= files(client, parent)
    assert "figures/2/weights.png" in files(client, parent, "figures/2")
    assert "figures/weights.png" in files(client, parent, "figures")
    one, two = versions(client, "iris")
    assert one.run_id == two.run_id == parent.info.run_id and one.tags["distens.bundle"] != two.tags["distens.bundle"]
    assert (one.tags.get("distens.edition"), two.tags["distens.edition"]) == (None, "2")
    assert set(json.loads(two.tags["distens.members"])) == set(result.weights)


def test_a_plain_resume_of_a_run_that_went_on_adds_nothing(tmp_path, mlflow_store):
    uri, client = mlflow_store
    given = {"baselines": [], "distill": None, "name": "toy", "tracking": tracked(uri)}
    run = distens.run(small_run.config(tmp_path / "runs", **given))
    distens.resume(run.path, overrides=["select=top"])
    tracker = distens.coordinator.make_plan(small_run.config(tmp_path, **given)).tracker
    before = held(tracker, uri)
    distens.resume(run.path)
    assert held(tracker, uri) == before
    assert len(versions(client, "toy")) == 2


def test_a_value_that_is_as_at_first_again_is_told(tmp_path, mlflow_store):
    uri, client = mlflow_store
    info = run_info(tmp_path)
    for edition, members in enumerate((3, 5, 3), 1):
        config = {**info.config, "search": {"kind": "random", "members": members}}
        config = config if edition < 3 else {key: value for key, value in config.items() if key != "baselines"}
        Logbook(Mlflow(uri, "toy"), replace(info, config=config, edition=edition)).start()
        (parent,), _ = runs_of(client)
        assert parent.data.params["search.members"] == "3"
        assert parent.data.tags.get("distens.changed.search.members") == (None, "5", "3")[edition - 1]
    assert parent.data.tags["distens.changed.baselines"] == "(not set)"
    assert parent.data.tags["distens.edition"] == "3"


def test_a_run_that_goes_on_is_open_until_it_has_ended_again(tmp_path, mlflow_store):
    uri, client = mlflow_store
    info = run_info(tmp_path)

    def status():
        ((parent,), _) = runs_of(client)
        return parent.info.status

    for edition, ends in ((1, "finished"), (2, "stopped"), (2, "stopped"), (2, "finished")):
        book = Logbook(Mlflow(uri, "toy"), replace(info, edition=edition))
        book.start()
        assert status() == "RUNNING"
        book.end(ends)
        assert status() == {"finished": "FINISHED", "stopped": "KILLED"}[ends]
    Logbook(Mlflow(uri, "toy"), replace(info, edition=2)).start()
    assert status() == "FINISHED"


def test_clients_of_more_rounds_have_their_newest_numbers(tmp_path, mlflow_store):
    uri, client = mlflow_store
    run = distens.run(small_federation.config(tmp_path / "runs", tracking=tracked(uri)))
    _, before = runs_of(client, "fed")
    distens.resume(run.path, overrides=["federated.rounds=6"])
    (parent,), after = runs_of(client, "fed")
    assert {name for name in after if name.startswith("c")} == {name for name in before if name.startswith("c")}
    taken = {
        name: one.data.metrics["rounds_merged"] for name, one in after.items() if "rounds_merged" in one.data.metrics
    }
    logs = json.loads(Path(run.path, "results.2.json").read_text())["rounds"]
    assert taken == {name: sum(name in log["shares"] for log in logs) for name in taken} and taken
    for name in taken:
        points = history(client, after[name], "weight")
        assert [step for step, _ in points] == [log["round"] + 1 for log in logs if name in log["shares"]]
    assert [step for step, _ in history(client, parent, "global_nll")] == [1, 2, 3, 4, 5, 6]
