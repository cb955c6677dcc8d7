"""Our searches in Ray Tune, ensembles from its results, and sweeps over whole runs.

    tuner = tune.Tuner(
        distens.tune.trainable("configs/digits.yaml"),
        param_space=distens.tune.param_space("configs/digits.yaml"),
        tune_config=tune.TuneConfig(
            search_alg=distens.tune.DivBOSearch.of("configs/digits.yaml"), num_samples=40, max_concurrent_trials=4
        ),
    )
    result = distens.tune.ensemble(tuner.fit(), "configs/digits.yaml")

The words trial and param_space are Tune's, and are used only in this package. No other package imports `ray.tune`.
"""

from __future__ import annotations

from distens.tune.reporting import build, param_space, report, trainable
from distens.tune.results import ensemble
from distens.tune.searcher import DivBOSearch

__all__ = ["DivBOSearch", "build", "ensemble", "param_space", "report", "trainable"]
