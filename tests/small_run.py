"""A whole run that takes seconds: iris, nine members of three families, in this process and untracked."""

from threadpoolctl import threadpool_info

from distens.config.config import parse_config


def config(folder, **changes):
    values = {
        "name": "iris",
        "storage": str(folder),
        "data": {"source": "sklearn:iris"},
        "members": {
            "mlp": {
                "kind": "classifier",
                "model": {"kind": "mlp", "hidden": {"choices": [[8], [16], [32]]}},
                "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
                "epochs": 8,
            },
            "knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"},
            "forest": {"kind": "estimator", "estimator": "random_forest", "options": {"n_estimators": 20}},
        },
        "search": {"kind": "divbo", "members": 9, "proposals": 200},
        "distill": "student",
        "baselines": ["larger_single", "seed_ensemble"],
        "runtime": "inline",
        "tracking": "off",
    }
    return parse_config({**values, **changes})


def sklearn_only(folder, **changes):
    members = {
        "knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"},
        "forest": {"kind": "estimator", "estimator": "random_forest", "options": {"n_estimators": 5}},
        "lda": {"kind": "estimator", "estimator": "lda"},
    }
    runtime = {"kind": "ray_actors", "cpus_per_member": 0.5}
    tracking = {"kind": "mlflow_runs", "uri": f"sqlite:///{folder}/mlflow.db"}
    defaults = {"members": members, "runtime": runtime, "tracking": tracking, "baselines": [], "distill": None}
    return config(folder / "runs", **{**defaults, **changes})


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
