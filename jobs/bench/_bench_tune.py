"""Ray Tune's two kinds of trials, with reused actors and as little else as possible."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from _bench_clock import Clock
from _bench_others import train_plainly
from _bench_tasks import Job, accuracy
from ray import tune

QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_GLOBAL_CHECKPOINT_S": "3600", "RAY_AIR_NEW_OUTPUT": "0"}


class Timekeeper(tune.Callback):
    """A callback that starts the clock after a first trial, which starts the actor and loads torch, and stops it.

    A cold clock runs from the start; then there is no such first trial.
    """

    def __init__(self, clock: Clock, trials: int) -> None:
        self._clock, self._trials, self._missing = clock, trials, trials + (not clock.cold)
        self.accuracies: list[float] = []
        self.actors: list[int] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Start the clock after the first trial, stop it after the last."""
        self._missing -= 1
        self.accuracies.append(trial.last_result["accuracy"])
        self.actors.append(trial.last_result["pid"])
        if self._missing == self._trials:  # a cold clock never reaches this number
            self.accuracies.clear()
            self._clock.start()
        if self._missing == 0:
            self._clock.stop()


class Trial(tune.Trainable):
    """A trial that trains one network in one step."""

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Keep the job with its data."""
        assert job is not None, "Tune passes what `with_parameters` was given"
        self._config, self._job = config, job

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the config of the next trial."""
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Train the network and return its accuracy."""
        return {**_train(self._config, self._job), "done": True}


def _function(config: dict[str, Any], job: Job) -> None:
    tune.report(_train(config, job))


def _train(config: dict[str, Any], job: Job) -> dict[str, Any]:
    network = train_plainly(job, config["member"]["rate"], config["member"]["seed"])
    return {"accuracy": accuracy(job.problem, network, job.device)}


def tune_class(job: Job, clock: Clock) -> list[float]:
    """Train every network as a trial of a `Trainable` that can be reset."""
    return _tune(Trial, job, clock)


def tune_function(job: Job, clock: Clock) -> list[float]:
    """Train every network as a trial of a function."""
    return _tune(_function, job, clock)


def _tune(trainable: Any, job: Job, clock: Clock) -> list[float]:
    os.environ.update(QUIET)
    members = [{"rate": rate, "seed": seed} for rate, seed in zip(job.rates_M, job.seeds_M, strict=True)]
    timekeeper = Timekeeper(clock, job.members)
    with tempfile.TemporaryDirectory() as folder:
        needs = {"cpu": 1.0, "gpu": float(job.device == "cuda")}
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(trainable, job=job), needs),
            param_space={"member": tune.grid_search(members if clock.cold else [members[0], *members])},
            tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                callbacks=[timekeeper],
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        if clock.cold:
            clock.start()
        results = tuner.fit()
    if results.errors or len(timekeeper.accuracies) != job.members:
        raise RuntimeError(f"Tune: {len(results.errors)} trials failed: {results.errors[:1]}")
    if len(set(timekeeper.actors)) > 1:
        raise RuntimeError(f"Tune: the actor was not reused, but there were {len(set(timekeeper.actors))}")
    return timekeeper.accuracies
