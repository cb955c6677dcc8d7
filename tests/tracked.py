"""A run to tell trackers of, and what they then hold."""

from dataclasses import replace

from mlflow import MlflowClient

from distens.tracking.mlflow_runs import MlflowRuns
from distens.tracking.protocol import RunInfo

CONFIG = {
    "name": "toy",
    "search": {"kind": "random", "members": 3},
    "baselines": ["a", "b"],
    "storage": "s3://k:pw@b/r",
}


def run_info(tmp_path, **changes):
    run = RunInfo("toy", "toy-1a2b3c4d", CONFIG, str(tmp_path / "runs/toy-1a2b3c4d"), {"python": "3"}, "f" * 64)
    return replace(run, **changes)


def held(tracker, uri):
    """What a tracker holds, in a form that can be compared."""
    if not isinstance(tracker, MlflowRuns):
        return repr(tracker)
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    return {
        run.info.run_id: (
            run.info.run_name,
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            run.data.params,
            run.data.tags,
            {
                key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            },
        )
        for run in client.search_runs([experiment.experiment_id])
    }


def history(client, run, key):
    return sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))


def runs_in(client, experiment):
    return client.search_runs([experiment.experiment_id])


def runs_of(client, experiment="toy"):
    found = runs_in(client, client.get_experiment_by_name(experiment))
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    return parents, {run.info.run_name: run for run in found if "mlflow.parentRunId" in run.data.tags}
