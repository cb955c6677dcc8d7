"""MLflow's quick start: train, register, load the champion, and let `mlflow.models.evaluate` judge it.

cd jobs/examples/mlflow_quickstart && python quickstart.py
"""

import mlflow
from sklearn.datasets import load_iris

import distens

if __name__ == "__main__":
    result = distens.run(distens.load_config("run.yaml"), overwrite=True)
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    model = mlflow.pyfunc.load_model("models:/mlflow_quickstart@champion")
    bunch = load_iris(as_frame=True)
    rows = bunch.data.assign(kind=bunch.target_names[bunch.target])
    labels = lambda frame: model.predict(frame, params={"output": "label"})  # noqa: E731
    found = mlflow.models.evaluate(labels, data=rows, targets="kind", model_type="classifier")
    print({name: round(value, 4) for name, value in found.metrics.items() if name in ("accuracy_score", "f1_score")})
    members = mlflow.search_runs(experiment_names=["mlflow_quickstart"], filter_string="tags.`distens.kind` = 'member'")
    print(len(members), "members are runs of their own")
