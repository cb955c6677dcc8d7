"""The curves of a run in MLflow: what was lost while it was away is sent by a resume, once."""

import pytest
import small_run
from _services import free_port
from tracked import history, runs_of

import distens
from distens.storage.store import Store

FEDERATED = {
    "role": "federated",
    "data": {"source": "sklearn:iris", "splits": {"train": 0.6, "search": 0.1, "combine": 0.1, "test": 0.2}},
    "federated": {"clients": 3, "partition": "iid", "rounds": 4},
    "members": {"c": {"kind": "client", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 1, "batch_size": 16}},
    "search": {},
}
ENSEMBLE = {"search": {"kind": "random", "members": 6}}
CURVES = {
    "ensemble": ("best_single", "ensemble", "finished", "failed"),
    "federated": ("clients", "refused", "failed", "loss", "global_nll"),
}


def config(folder, uri, role):
    plain = {"distill": None, "baselines": []}
    tracking = {"kind": "mlflow_runs", "uri": uri, "wait_seconds": 1.0, "register": False}
    return small_run.config(folder, **plain, **(FEDERATED if role == "federated" else ENSEMBLE), tracking=tracking)


def curves(client, role):
    ((parent,), _) = runs_of(client, "iris")
    return {name: history(client, parent, name) for name in CURVES[role]}


def stop_after(count):
    """Return a function that watches a run and stops it when so many members, or rounds, are done."""

    def watch(update):
        if update.phase in ("search", "rounds") and update.text and update.finished >= count:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("role", CURVES)
@pytest.mark.parametrize("away", ["in all of it", "after a part"])
def test_points_that_a_server_missed_are_sent_by_a_resume(away, role, tmp_path, mlflow_store):
    uri, client = mlflow_store
    nowhere = f"http://127.0.0.1:{free_port()}"
    if away == "in all of it":
        path = distens.run(config(tmp_path / "runs", nowhere, role)).path
    else:  # until then all was sent; then it is resumed without the server
        with pytest.raises(KeyboardInterrupt):
            distens.run(config(tmp_path / "runs", uri, role), stop_after(3))
        assert [step for step, _ in curves(client, role)["failed"]] == [1, 2, 3]
        (path,) = map(str, (tmp_path / "runs").iterdir())
        distens.resume(path, overrides=[f"tracking.uri={nowhere}"])
    distens.resume(path, overrides=[f"tracking.uri={uri}"])
    sent = curves(client, role)
    steps = range(1, 7 if role == "ensemble" else 5)
    assert all([step for step, _ in points] == [*steps] for points in sent.values()), sent
    results = Store(path).read_json("results.json")
    if role == "ensemble":
        assert [value for _, value in sent["finished"]] == [*steps]
        assert sent["best_single"][-1][1] == min(results["members"].values())
    else:
        assert [value for _, value in sent["loss"]] == [entry["loss"] for entry in results["rounds"]]
    distens.resume(path, overrides=[f"tracking.uri={uri}"])
    assert curves(client, role) == sent
