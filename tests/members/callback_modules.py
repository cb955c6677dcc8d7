"""LightningModules with callbacks of their own, and with much to log, for the tests of what becomes of these."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BasePredictionWriter,
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from odd_modules import Light, Validated
from torch import Tensor, nn

SEEN: list[Any] = []


class Wandering(Validated):
    """Its validation loss is what the module says: lowest in the second epoch, highest in the third."""

    losses = (0.5, 0.2, 0.9, 0.4, 0.3, 0.2)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.log("val_loss", self.losses[self.current_epoch])

    def on_train_epoch_end(self) -> None:
        SEEN.append({name: value.clone() for name, value in self.state_dict().items()})


class Highest(Wandering):
    def configure_callbacks(self) -> Any:
        return [EarlyStopping("val_loss", mode="max", patience=10)]


class Monitors(Wandering):
    """The ModelCheckpoint counts, not the EarlyStopping; its value is logged after the validation."""

    def on_validation_epoch_end(self) -> None:
        self.log("score", -self.losses[self.current_epoch])

    def configure_callbacks(self) -> Any:
        return [EarlyStopping("val_loss", mode="max", patience=10), ModelCheckpoint(monitor="score", mode="max")]


class OnTraining(Wandering):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.log("train_score", self.losses[self.current_epoch], on_epoch=True, on_step=False)
        return self.loss(batch)

    def configure_callbacks(self) -> Any:
        return [EarlyStopping("train_score", patience=10)]


class NotANumber(Wandering):
    losses = (math.nan,) * 6


class FirstNotANumber(Wandering):
    losses = (math.nan, 0.4, math.nan, 0.3, 0.9, 0.9)


class Silent(Wandering):
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.log("other", 1.0)


class Swa(Wandering):
    def configure_callbacks(self) -> Any:
        return [StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)]


class Ema(Wandering):
    """Validation measures the averaged weights."""

    def configure_callbacks(self) -> Any:
        return [WeightAveraging()]

    def on_validation_start(self) -> None:
        SEEN.append({name: value.clone() for name, value in self.state_dict().items()})

    def on_validation_epoch_start(self) -> None:
        SEEN.append({name: value.clone() for name, value in self.state_dict().items()})

    def on_train_epoch_end(self) -> None:
        pass


class Saving(Validated):
    def __init__(self, input_shape: tuple[int, ...], classes: int, folder: str | None = None) -> None:
        super().__init__(input_shape, classes)
        self.folder = folder

    def configure_callbacks(self) -> Any:
        return [ModelCheckpoint(self.folder, monitor="val_loss", save_top_k=2, filename="{epoch}")]

    def on_train_end(self) -> None:
        checkpoint: Any = self.trainer.checkpoint_callback
        SEEN.append((checkpoint.best_model_path, torch.load(checkpoint.best_model_path, weights_only=True)))


class SavingEachStep(Light):
    def configure_callbacks(self) -> Any:
        return [ModelCheckpoint(every_n_train_steps=1, save_top_k=-1)]


class Rates(Light):
    def configure_callbacks(self) -> Any:
        return [LearningRateMonitor()]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.rate)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class Accumulating(Light):
    """Four steps in the first epoch, two in the second and third."""

    def configure_callbacks(self) -> Any:
        return [GradientAccumulationScheduler({0: 1, 1: 2})]


class Finetuned(Validated):
    """The first layer learns from the third epoch on."""

    @property
    def backbone(self) -> nn.Module:
        return self.network.first

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    def configure_callbacks(self) -> Any:
        return BackboneFinetuning(unfreeze_backbone_at_epoch=2, lambda_func=lambda epoch: 1.0)


class OwnCallback(Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        SEEN.append("batch")


class Own(Light):
    def configure_callbacks(self) -> Any:
        return [OwnCallback(), Timer(duration="01:00:00:00")]


class FindsRate(Light):
    def configure_callbacks(self) -> Any:
        return [LearningRateFinder()]


class FindsBatch(Light):
    def configure_callbacks(self) -> Any:
        return [BatchSizeFinder()]


class SavesOnException(Light):
    def configure_callbacks(self) -> Any:
        return [OnExceptionCheckpoint("somewhere")]


class Writes(Light):
    def configure_callbacks(self) -> Any:
        return [BasePredictionWriter()]


class LoadsCheckpoint(Light):
    def on_train_start(self) -> None:
        self.trainer.strategy.load_checkpoint("other.ckpt")


class Logs(Validated):
    """Values of each kind, the epoch's number among them; `rare` comes in the second epoch alone."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("last_batch", float(batch_idx))
        self.log("nll", 100.0)
        if self.current_epoch == 1:
            self.log("rare", 7)
        if self.current_epoch == 2:
            self.log("infinite", math.inf)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("epochs", float(self.current_epoch))
        if self.current_epoch == 0:
            self.log("infinite", 1.0)


class LogsMuch(Light):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.log_dict({f"value_{number}": float(number) for number in range(60)})
        return self.loss(batch)


class Draws(Light):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        logger: Any = self.logger
        logger.experiment.add_image("rows", batch[0])
        return self.loss(batch)
