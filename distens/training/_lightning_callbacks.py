"""Callbacks and a logger that distens adds to Lightning's Trainer, and what becomes of the module's own callbacks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BasePredictionWriter,
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import Logger
from torch import Tensor

from distens.errors import Diverged, Refused
from distens.training.context import Logged
from distens.training.network import load_tensors

MAX_LOGGED_NAMES = 50
"""The most names of which a module's logged values are kept, in order of appearance."""

NOT_ALLOWED: Mapping[type[Callback], str] = {
    LearningRateFinder: "the learning rate is one of the member's `options`, and the search finds it",
    OnExceptionCheckpoint: "a member that failed resumes from the checkpoint that distens keeps",
    BasePredictionWriter: "it is never called, as distens predicts by forward",
}
"""Callbacks of Lightning that cannot have their effect, and why."""


def _callbacks(trainer: Trainer) -> list[Callback]:
    found: Any = trainer  # its class does not declare them
    return found.callbacks


def admit_callbacks(trainer: Trainer, module: LightningModule, folder: Path) -> None:
    """Refuse callbacks of the module that cannot work, and give every ModelCheckpoint a folder to write to.

    Raises:
        Refused: there is such a callback.
    """
    name = type(module).__name__
    for callback in list(_callbacks(trainer)):
        for kind, why in NOT_ALLOWED.items():
            if isinstance(callback, kind):
                _callbacks(trainer).remove(callback)  # else it would act on this very exception
                raise Refused(f"{name}: configure_callbacks: {kind.__name__} cannot be used: {why}; leave it out")
        if isinstance(callback, ModelCheckpoint):
            if callback.dirpath is not None:
                warnings.warn(
                    f"{name}: configure_callbacks: the ModelCheckpoint writes to {folder}, a folder of the member's "
                    f"own, and not to {callback.dirpath}, which all members would share",
                    stacklevel=2,
                )
            callback.dirpath = str(folder)


class _NoExperiment:
    """In place of a tracking system's own object, on which modules call its methods."""

    def __getattr__(self, name: str) -> Any:
        raise Refused(
            f"self.logger.experiment.{name}: the logger of a run takes numbers alone: use self.log, or "
            "self.logger.log_metrics"
        )


class NumberLogger(Logger):
    """A logger that takes numbers alone, for callbacks that need a logger and modules that call one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.numbers: dict[str, float] = {}
        self._folder = folder

    @property
    def name(self) -> str:
        return "distens"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    @property
    def experiment(self) -> Any:
        return _NoExperiment()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.numbers |= metrics

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass  # they are the member's settings, which every report has


class LoggedValues(Callback):
    """A callback that keeps what the module and its callbacks logged: the value of each name at the end of each epoch.

    Attributes:
        values: name -> epoch, counted from 1 -> value; values that are not finite are left out.
    """

    def __init__(self, logger: NumberLogger) -> None:
        self.values: Logged = {}
        self._logger = logger
        self._seen: dict[str, Any] = {}
        self._left_out: set[str] = set()
        self._ended = False

    @property
    def state_key(self) -> str:
        return "distens.logged"

    def state_dict(self) -> dict[str, Any]:
        return {"values": {name: dict(values) for name, values in self.values.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values = state_dict["values"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = True  # values are complete after the module's own hooks, when the next epoch begins

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer)
        if self._left_out:
            names = ", ".join(sorted(self._left_out)[:5])
            warnings.warn(
                f"{type(pl_module).__name__}: more than {MAX_LOGGED_NAMES} names were logged; the first of them are "
                f"kept, and {len(self._left_out)} are left out: {names}{', …' * (len(self._left_out) > 5)}",
                stacklevel=2,
            )

    def _keep(self, trainer: Trainer) -> None:
        """Keep the values of the epoch that has ended, if one has."""
        if not self._ended:
            return
        self._ended = False
        # Lightning keeps values that were not logged in this epoch: those are the same objects as before.
        measured = {key: one for key, one in trainer.callback_metrics.items() if self._seen.get(key) is not one}
        self._seen = dict(trainer.callback_metrics)
        found = {**self._logger.numbers, **measured}
        self._logger.numbers = {}
        for name, value in found.items():
            base, _, fork = name.rpartition("_")
            if name == "epoch" or (fork in ("step", "epoch") and base in found):  # Lightning's own names
                continue
            if name not in self.values and len(self.values) >= MAX_LOGGED_NAMES:
                self._left_out.add(name)
            elif math.isfinite(number := float(value)):
                self.values.setdefault(name, {})[trainer.current_epoch] = float(f"{number:.7g}")


class BestWeights(Callback):
    """A callback that keeps the weights of the epoch whose monitored value was best, as its validation had them.

    The value is the one that the module's ModelCheckpoint monitors, or else its EarlyStopping, or else `val_loss`,
    where lower is better. Of equal epochs, the first counts. The first of distens' callbacks must be this one: a
    callback that validates averaged weights puts the others back in the same hook, after it.

    Attributes:
        weights: the best epoch's weights and buffers.
        epoch: that epoch, counted from 1; 0: none yet.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Any] = {}
        self.epoch = 0
        self._measured, self._value = False, math.nan
        self._monitor, self._sign = "val_loss", 1.0
        self._validated: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        return "distens.best"

    def state_dict(self) -> dict[str, Any]:
        value = None if math.isnan(self._value) else self._value
        return {"weights": self.weights, "epoch": self.epoch, "value": value, "measured": self._measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.weights, self.epoch, self._measured = (state_dict[name] for name in ("weights", "epoch", "measured"))
        self._value = math.nan if state_dict["value"] is None else state_dict["value"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any(isinstance(one, StochasticWeightAveraging) for one in _callbacks(trainer)):
            raise Refused(
                f"{type(pl_module).__name__}: keep: best would throw away the weights that StochasticWeightAveraging "
                "averages at the end, which no epoch validates; write keep: last, or leave that callback out"
            )
        for kind in (ModelCheckpoint, EarlyStopping):
            for one in _callbacks(trainer):
                if isinstance(one, kind) and one.monitor is not None:
                    self._monitor, self._sign = one.monitor, 1.0 if one.mode == "min" else -1.0
                    return

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = {
            name: value.detach().clone() if isinstance(value, Tensor) else value
            for name, value in pl_module.state_dict().items()
        }

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._compare(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._compare(trainer, pl_module)

    def _compare(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the weights of the epoch that has ended if it is better than all before."""
        validated, self._validated = self._validated, None
        if validated is None:
            return
        found = trainer.callback_metrics
        if self._monitor not in found:
            raise Refused(
                f"{type(module).__name__}: keep: best goes by {self._monitor!r}, which nothing logs; logged: "
                f"{', '.join(found) or 'nothing'}. Log it in validation_step, or let an EarlyStopping or a "
                "ModelCheckpoint of configure_callbacks monitor another"
            )
        value, self._measured = self._sign * float(found[self._monitor]), True
        if not math.isnan(value) and not value >= self._value:
            self.weights, self.epoch, self._value = validated, trainer.current_epoch, value

    def restore(self, module: LightningModule) -> None:
        """Set the best epoch's weights; before the first validation, the weights stay as they are.

        Raises:
            Diverged: the monitored value was not a number in any epoch.
        """
        if self.epoch:
            load_tensors(module, self.weights)
        elif self._measured:
            raise Diverged(f"keep: best: {self._monitor!r} was not a number in any epoch")
