"""AutoGluon on one table, in an interpreter of its own: one fit within CPU seconds, one thread, one line of JSON.

    python jobs/bench/_search_autogluon.py FOLDER SECONDS PRESET METRIC

reads FOLDER/train.parquet and FOLDER/test.parquet (the label in `target`), keeps its models in FOLDER/models and prints
test error and negative log-likelihood, and the CPU seconds of the fit. AutoGluon divides its `time_limit` among models
by the clock that it reads, so that clock counts CPU seconds: other load on the machine takes nothing from it.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

from _search_clock import count_cpu_seconds, spent

FLOOR = 1e-12


def main(folder: str, seconds: float, preset: str, metric: str) -> None:
    """Fit, predict and print the result."""
    import numpy as np
    import pandas as pd
    from autogluon.tabular import TabularPredictor  # pyright: ignore[reportMissingImports]

    train, test = (pd.read_parquet(f"{folder}/{name}.parquet") for name in ("train", "test"))
    count_cpu_seconds()
    before = spent()
    judged = {"error": "accuracy", "nll": "log_loss"}[metric]
    predictor = TabularPredictor(label="target", path=f"{folder}/models", eval_metric=judged, verbosity=0)
    predictor.fit(train, presets=preset, time_limit=seconds, num_cpus=1, num_gpus=0)
    cpu_seconds = spent() - before
    probs = predictor.predict_proba(test.drop(columns="target"))
    names = [str(name) for name in probs.columns]
    probs_NC = probs.to_numpy()
    labels_N = np.array([names.index(str(label)) for label in test["target"]])
    picked_N = np.clip(probs_NC[np.arange(len(labels_N)), labels_N], FLOOR, None)
    found = {
        "error": float((probs_NC.argmax(axis=1) != labels_N).mean()),
        "nll": float(-np.log(picked_N).mean()),
        "cpu_seconds": cpu_seconds,
        "members": len(predictor.model_names()),
        "details": f"AutoGluon {version('autogluon.tabular')}, {predictor.model_best}",
    }
    print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4])
