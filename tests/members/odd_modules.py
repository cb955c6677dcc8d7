"""Networks of users that are odd in one way each, for the tests of the `module` kind."""

from __future__ import annotations

import warnings
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

# Outputs --------------------------------------------------------------------------------------------------------------


class Base(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(prod(input_shape), 8)
        self.last = nn.Linear(8, classes)

    def logits(self, inputs: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(inputs.flatten(1))))

    def forward(self, inputs: Tensor) -> Any:
        return self.logits(inputs)


class Softmax(Base):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.softmax(self.logits(inputs), 1)


class HalfSoftmax(Base):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.softmax(self.logits(inputs), 1).half()


class LogSoftmax(Base):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.log_softmax(self.logits(inputs), 1)


class Sigmoid(Base):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(inputs))


class Dict(Base):
    def forward(self, inputs: Tensor) -> Any:
        return {"logits": self.logits(inputs), "hidden": inputs}


class Tuple(Base):
    def forward(self, inputs: Tensor) -> Any:
        return inputs, self.logits(inputs)


class Output(NamedTuple):
    scores: Tensor
    hidden: Tensor


class Named(Base):
    def forward(self, inputs: Tensor) -> Any:
        return Output(self.logits(inputs), inputs)


class ModelOutput(dict):
    """As in other libraries: a mapping whose entries are attributes too."""

    @property
    def logits(self) -> Tensor:
        return self["logits"]


class Model(Base):
    def forward(self, inputs: Tensor) -> Any:
        return ModelOutput(logits=self.logits(inputs), loss=None)


class Holder:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Object(Base):
    def forward(self, inputs: Tensor) -> Any:
        return Holder(self.logits(inputs))


class TwoOfOneShape(Base):
    def forward(self, inputs: Tensor) -> Any:
        return self.logits(inputs), self.logits(inputs)


class WideLogits(Base):
    """What is called logits has another shape than they."""

    def forward(self, inputs: Tensor) -> Any:
        return {"logits": inputs, "other": self.logits(inputs)}


class Array(Base):
    def forward(self, inputs: Tensor) -> Any:
        return self.logits(inputs).detach().numpy()


class Nothing(Base):
    def forward(self, inputs: Tensor) -> Any:
        self.logits(inputs)


class Complex(Base):
    def forward(self, inputs: Tensor) -> Any:
        return torch.complex(self.logits(inputs), self.logits(inputs))


class Failing(Base):
    def forward(self, inputs: Tensor) -> Any:
        raise KeyError("heads")


class NoForward(nn.Module):
    pass


# State ----------------------------------------------------------------------------------------------------------------


class ExtraState(Base):
    def get_extra_state(self) -> Any:
        return {"seen": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


class TensorExtraState(Base):
    scale = 1.0

    def get_extra_state(self) -> Any:
        return torch.tensor(self.scale)

    def set_extra_state(self, state: Any) -> None:
        self.scale = float(state)


class Sparse(Base):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.register_buffer("graph", torch.eye(3).to_sparse())


class Quantised(Base):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.register_buffer("table", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))


class Float8(Base):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.register_buffer("table", torch.ones(3).to(torch.float8_e4m3fn))


class Forgetful(Base):
    """Forward needs a random buffer that is not stored."""

    noise: Tensor

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.register_buffer("noise", torch.randn(classes), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs) + self.noise


class Attribute(Base):
    """Forward needs a random number that is no part of the state."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.order = torch.randperm(8)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(inputs.flatten(1)))[:, self.order])


class Learning(Base):
    """Training changes an attribute that is no part of the state."""

    scale = 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.scale += 0.5
        return self.logits(inputs) * self.scale


class Lazy(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        layers = [nn.Flatten(), nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(classes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


class Parametrised(Base):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.first, self.last = weight_norm(self.first), spectral_norm(self.last)


class Shared(nn.Module):
    """An autoencoder's weights: the second layer's are the first one's; two layers are one."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        width = prod(input_shape)
        self.one, self.two, self.last = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, classes)
        self.two.weight = self.one.weight
        self.again = self.last

    def forward(self, inputs: Tensor) -> Tensor:
        return self.again(torch.relu(self.two(torch.relu(self.one(inputs.flatten(1))))))


class Bfloat16(Base):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.bfloat16()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs.bfloat16())


class Half(Base):
    """Half floats, and no conversion of the inputs."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.half()


class ComplexWeights(Base):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.waves = nn.Parameter(torch.randn(classes, dtype=torch.complex64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs) * self.waves.abs()


class Stochastic(Base):
    """Dropout in prediction too."""

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.dropout(self.logits(inputs), 0.5, training=True)


class NoisyElsewhere(Base):
    """Chance that torch does not know of."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs) + np.random.default_rng().random()


# LightningModules -----------------------------------------------------------------------------------------------------


class Light(LightningModule):
    def __init__(self, input_shape: tuple[int, ...], classes: int, rate: float = 0.1) -> None:
        super().__init__()
        self.network, self.rate = Base(input_shape, classes), rate

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(self(inputs), targets)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class LossInDict(Light):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "more": 3}


class EverySecond(Light):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return self.loss(batch) if batch_idx % 2 == 0 else None


class Never(Light):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return None


class NoOptimizer(Light):
    def configure_optimizers(self) -> Any:
        return None


class TwoOptimizers(Light):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.network.first, self.network.last)]


class Manual(Light):
    """Manual optimization that returns no loss."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        optimizers: Any = self.optimizers()
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()


class ManualTwo(Manual):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.network.first, self.network.last)]


class ManualWithLoss(Manual):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)
        return self.loss(batch)


class ManualNever(Manual):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return self.loss(batch)


class NeverWithStatistics(Never):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.normalise = nn.BatchNorm1d(prod(input_shape))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.normalise(batch[0])


class Means(LightningModule):
    """The nearest class mean: it learns in closed form, with buffers and without an optimizer."""

    means: Tensor

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros((classes, *input_shape)))

    def forward(self, inputs: Tensor) -> Tensor:
        return -torch.cdist(inputs, self.means)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        for label in targets.unique():
            self.means[label] = inputs[targets == label].mean(0)

    def configure_optimizers(self) -> Any:
        return None


class Validated(Light):
    """Validation, and a learning rate that follows its loss."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, rate: float = 0.1) -> None:
        super().__init__(input_shape, classes, rate)
        self.rows_seen: list[int] = []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.rows_seen.append(len(batch[0]))
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class Stopping(Validated):
    def configure_callbacks(self) -> Any:
        return [EarlyStopping("val_loss", patience=1, min_delta=10.0)]


class Falling(Validated):
    """No epoch is good enough, so the learning rate falls after each."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10, threshold_mode="abs")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class Evaluating(Light):
    """A part that is not in training mode."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.network.first.eval()


class Warns(Light):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        warnings.warn("mine, in training_step", stacklevel=1)
        return self.loss(batch)


class ValidatedPlainly(Validated):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class SeesTypes(Light):
    """Keeps the types of its activations in training."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.types: set[torch.dtype] = set()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.types.add(self(batch[0]).dtype)
        return self.loss(batch)


class NanGradient(Light):
    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return super().loss(batch) + (0 * self.network.last.weight).sum().sqrt()


class Unmonitored(Light):
    """A schedule that waits for what nobody logs."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class StopsUnmonitored(Light):
    def configure_callbacks(self) -> Any:
        return [EarlyStopping("val_loss")]


class Averaged(Light):
    def configure_callbacks(self) -> Any:
        return [StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2)]


class AveragedStatistics(Averaged):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.normalise = nn.BatchNorm1d(prod(input_shape))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(self.normalise(inputs))


class Partial(Light):
    """Its first layer is always the same, and is left out of what is stored."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        nn.init.eye_(self.network.first.weight).requires_grad_(False)
        nn.init.zeros_(self.network.first.bias).requires_grad_(False)
        self.strict_loading = False

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        found = super().state_dict(*args, **kwargs)
        return {name: value for name, value in found.items() if "first" not in name}


class ChangedAtEnd(Light):
    """The end of a training changes the weights."""

    def on_train_end(self) -> None:
        with torch.no_grad():
            self.network.last.bias += 1.5


class MadeLate(LightningModule):
    """Layers that are made in configure_model."""

    network: Any

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.shape, self.count, self.network = input_shape, classes, None

    def make(self) -> None:
        if self.network is None:
            self.network = Base(self.shape, self.count)

    def configure_model(self) -> None:
        self.make()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class MadeLateAndStops(MadeLate):
    """Validation, a learning rate that follows its loss, and an early end, too."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}

    def configure_callbacks(self) -> Any:
        return [EarlyStopping("val_loss", patience=1, min_delta=10.0)]


class MadeInSetup(MadeLate):
    def configure_model(self) -> None:
        pass

    def setup(self, stage: str) -> None:
        self.make()


class MadeByTrainer(MadeInSetup):
    """Layers whose size only a trainer knows."""

    def setup(self, stage: str) -> None:
        assert self.trainer.max_epochs
        self.make()


class UsesTrainer(Light):
    """A setup that needs a trainer, and makes no layer."""

    def setup(self, stage: str) -> None:
        self.planned = self.trainer.max_epochs


class OwnRows(Light):
    def train_dataloader(self) -> Any:
        return []


class OwnValidationRows(Light):
    def val_dataloader(self) -> Any:
        return []


class Tested(Light):
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.log("test_loss", self.loss(batch))


class OnlyTested(LightningModule):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return None


class Legacy(Light):
    def training_epoch_end(self, outputs: Any) -> None:
        pass


class Hidden(nn.Module):
    """Layers in a plain list, which torch does not see."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.last, self.others = nn.Linear(8, classes), [nn.Linear(prod(input_shape), 8)]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.others[0](inputs.flatten(1)))


class Weightless(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :3]


class Frozen(Light):
    """All that learns is the last layer."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.network.first.requires_grad_(False)


class AllFrozen(Light):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.scale = nn.Parameter(torch.ones(1))
        self.network.requires_grad_(False)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return super().loss(batch) + 0 * self.scale.sum()


class InfiniteAtFirst(Light):
    """Divides by what it learns of the rows first."""

    spread: Tensor

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.register_buffer("spread", torch.zeros(()))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.spread.fill_(2.0)
        return super().training_step(batch, batch_idx)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs / self.spread)


class Double(Base):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs.double())


class StopsByItself(Light):
    """Ends its training in the middle of the third epoch."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == 2 and batch_idx == 1:
            self.trainer.should_stop = True


class SkipsRest(Light):
    """Leaves out the rest of each epoch after its first batch."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 1 else None


class StopsOnTraining(Light):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def configure_callbacks(self) -> Any:
        return [EarlyStopping("train_loss", patience=2, min_delta=10.0)]


class ManualFloat(Manual):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)
        return {"loss": 0.25}


class OwnOptimizer(Manual):
    """Manual optimization past Lightning, which counts no step then."""

    def configure_optimizers(self) -> Any:
        return None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        self.loss(batch).backward()
        optimizer.step()


class LossOnlyAtFirst(Light):
    """The last epoch has no loss."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return self.loss(batch) if self.current_epoch == 0 else None


class StepsLater(Light):
    """The first epoch has no loss."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return self.loss(batch) if self.current_epoch else None


class ManualGathering(Manual):
    """A step for the gradients of several batches, five epochs' by default."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, gathered: int = 20) -> None:
        super().__init__(input_shape, classes)
        self.gathered, self.seen = gathered, 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(batch))
        self.seen += 1
        if self.seen % self.gathered == 0:
            optimizer.step()
            optimizer.zero_grad()


class LearnsBetweenEpochs(Never):
    """A step of its own after each epoch."""

    def on_train_epoch_end(self) -> None:
        with torch.no_grad():
            self.network.last.bias += 1.0


class LazyLight(Light):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.network = Lazy(classes)
