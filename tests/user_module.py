"""Networks such as a user would bring, for the tests of the `module` kind."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn


class Plain(nn.Module):
    """A network with dropout and batch normalisation, whose state has a scalar buffer."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(prod(input_shape), width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, classes),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


class Wide(nn.Module):
    """One hidden layer."""

    def __init__(self, in_features: int, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(in_features, width), nn.Linear(width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.hidden(inputs.flatten(1)).relu())


class Scheduled(LightningModule):
    """A module with dropout, momentum and a learning rate that falls after every epoch."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, learning_rate: float = 0.1, width: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.network = Plain(input_shape, classes, width)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self(inputs), targets)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)]


class Watched(Scheduled):
    """A module that validates, may stop early, saves its best epoch, and logs."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        self.log("val_loss", nn.functional.cross_entropy(self(inputs), targets))

    def configure_callbacks(self) -> Any:
        return [EarlyStopping("val_loss", patience=2), ModelCheckpoint(monitor="val_loss")]


class Wrong(nn.Module):
    """A network whose outputs are not logits_NC."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = nn.Linear(prod(input_shape), 7)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.flatten(1))


class NoNetwork:
    """Not a network."""
