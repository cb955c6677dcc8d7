"""A plain training loop for one network: data on the device, no loader, every epoch a function of (seed, epoch).

An epoch's order of rows and its dropout follow from the seed and the epoch's number alone. So a checkpoint only needs
the network, the optimizer and that number, and a resumed training equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from distens.data.dataset import Examples
from distens.errors import Diverged
from distens.records import State
from distens.seeding import derive
from distens.training.checkpoint import CheckpointTimer, decode_tree, encode_tree
from distens.training.context import Context
from distens.training.network import flush_denormals, local_chance, parameters, seed_global
from distens.training.outputs import check_outputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distens.training.dropout import DropoutCalls

OptimizerName = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class Recipe:
    """A recipe: how and how often weights are updated.

    Attributes:
        optimizer: `sgd` with momentum; `adam`, whose weight decay is an L2 penalty; `adamw`, whose weight decay is
            decoupled (Loshchilov and Hutter 2019, algorithm 2).
        learning_rate: the learning rate of the first step.
        weight_decay: see `optimizer`.
        momentum: the momentum of `sgd`; unused by the others.
        schedule: `constant`, or `cosine`: the learning rate falls with every step, to zero at the end (Loshchilov and
            Hutter 2017, "SGDR", equation 5, without restarts).
        epochs: passes over the rows.
        batch_size: rows per step; the last step of an epoch takes the remaining rows.
    """

    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    momentum: float
    schedule: Schedule
    epochs: int
    batch_size: int


def fit_network(
    network: nn.Module,
    examples: Examples,
    context: Context,
    recipe: Recipe,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, float]:
    """Train a network in place, on `context.device`, from its last checkpoint if there is one.

    Args:
        loss: (outputs_NK, targets) -> the mean loss, a scalar.

    Returns:
        `epochs`, `steps`, `train_loss` (the last epoch's mean), `parameters`, `seconds` (with interrupted attempts).
        They cover the training from its first epoch. With a budget, `new_epochs` is the number of epochs since the
        previous budget.

    Raises:
        Diverged: an epoch's loss is not finite.
        Refused: the network returns no logits (see `distens.training.outputs`).
    """
    from distens.training.dropout import DropoutCalls, Masks, replace_dropouts

    inputs, targets = (tensor.to(context.device) for tensor in to_tensors(examples))
    dropouts = replace_dropouts(network)
    network.to(context.device).train()
    optimizer = make_optimizer(network, recipe)
    forward = _Forward(network, examples.classes)
    rows = learned_rows(network, len(inputs), recipe.batch_size)
    reached = load_progress(recipe, context)
    if reached.weights is not None:
        network.load_state_dict(reached.weights)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": reached.moments, "param_groups": groups})
    pace = CheckpointTimer(context.checkpoint, reached.seconds)
    mean, began, until = reached.loss, reached.began, context.until(recipe.epochs)
    with local_chance(context.device), flush_denormals():
        for epoch in range(reached.epoch, until):
            seed_global(derive(context.seed, "epoch", epoch), context.device)  # for what a network draws beside dropout
            masks = Masks([context.seed], epoch, context.device)
            for dropout in dropouts:
                dropout.masks = masks
            forward.calls = DropoutCalls(masks)
            chosen = order(len(inputs), context.seed, epoch)[:rows]
            mean = _epoch(forward, optimizer, loss, inputs, targets, recipe, epoch, chosen)
            if not math.isfinite(mean):
                raise diverged(recipe, mean, epoch + 1)
            if pace.due() if epoch + 1 < until else context.budget:
                moments = optimizer.state_dict()["state"]
                reached = TrainingState(epoch + 1, pace.seconds(), network.state_dict(), moments, mean, began)
                pace.save(kept_checkpoint(reached, recipe, context))
    return training_metrics(network, rows, recipe, context, mean, pace.seconds(), began)


@dataclass(frozen=True)
class TrainingState:
    """The progress of a training, as a checkpoint keeps it.

    Attributes:
        epoch: the number of epochs trained.
        seconds: the training time so far.
        weights: the network's weights by name; None: nothing was trained yet.
        moments: the state of torch's optimizer for each weight, by the weight's number.
        loss: the last epoch's mean loss.
        began: the epoch from which the present budget is counted.
    """

    epoch: int = 0
    seconds: float = 0.0
    weights: Mapping[str, Tensor] | None = None
    moments: Mapping[int, Mapping[str, Any]] | None = None
    loss: float = math.nan
    began: int = 0


def load_progress(recipe: Recipe, context: Context) -> TrainingState:
    """Return the progress in the member's checkpoint.

    It is that of an untrained member if there is no checkpoint, or one of another recipe or seed, or one beyond the
    epoch at which training is to end.
    """
    state = context.checkpoint.load()
    if state is None or state.meta.get("of") != _identity(recipe, context):
        return TrainingState()
    meta, tree = state.meta, decode_tree(state)
    if meta["epoch"] > context.until(recipe.epochs):
        return TrainingState()
    began = budget_start(meta, context)
    return TrainingState(meta["epoch"], meta["seconds"], tree["network"], tree["optimizer"], meta["loss"], began)


def budget_start(meta: Mapping[str, Any], context: Context) -> int:
    """Return the epoch from which the present budget is counted, given the `meta` of the checkpoint to resume from."""
    return meta["began"] if meta["budget"] == context.budget else meta["epoch"]


def kept_checkpoint(reached: TrainingState, recipe: Recipe, context: Context) -> State:
    """Return the checkpoint's state, from which `load_progress` restores the same progress."""
    numbers = {"epoch": reached.epoch, "seconds": reached.seconds, "loss": reached.loss, "began": reached.began}
    meta = {**numbers, "budget": context.budget, "of": _identity(recipe, context)}
    return encode_tree({"network": reached.weights, "optimizer": reached.moments}, meta)


def _identity(recipe: Recipe, context: Context) -> dict[str, Any]:
    return {**asdict(recipe), "seed": context.seed}


def training_metrics(
    network: nn.Module, rows: int, recipe: Recipe, context: Context, train_loss: float, seconds: float, began: int
) -> dict[str, float]:
    """Return the metrics that `fit_network` returns."""
    epochs = context.until(recipe.epochs)
    return {
        "epochs": epochs,
        "steps": epochs * math.ceil(rows / recipe.batch_size),
        "train_loss": train_loss,
        "parameters": parameters(network),
        "seconds": seconds,
        **({} if context.budget is None else {"new_epochs": epochs - began}),
    }


def diverged(recipe: Recipe, loss: float, epoch: int) -> Diverged:
    """Return the error for a mean loss that is not finite; `epoch` counts from 1."""
    return Diverged(
        f"the loss was {loss} in epoch {epoch} of {recipe.epochs}, with optimizer {recipe.optimizer}, "
        f"learning rate {recipe.learning_rate:g}"
    )


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer, in torch's fused form: one call for all weights."""
    from torch import optim

    shared: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "sgd":
        return optim.SGD(network.parameters(), momentum=recipe.momentum, **shared)
    return (optim.Adam if recipe.optimizer == "adam" else optim.AdamW)(network.parameters(), **shared)


def to_tensors(examples: Examples) -> tuple[Tensor, Tensor]:
    """Return copies of inputs (float32) and targets: labels_N (int64), or predictions_NK or numbers_N1 (float32)."""
    import torch

    soft = examples.targets.ndim == 2
    inputs = torch.tensor(np.asarray(examples.inputs, dtype=np.float32))
    return inputs, torch.tensor(np.asarray(examples.targets, dtype=np.float32 if soft else np.int64))


def order(rows: int, seed: int, epoch: int) -> Tensor:
    """Return a permutation of the rows' numbers that depends on (seed, epoch) alone."""
    import torch

    return torch.randperm(rows, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))


def learned_rows(network: nn.Module, rows: int, batch_size: int) -> int:
    """Return the number of rows that an epoch learns from: all, or one less.

    Batch normalisation cannot take a last batch of one row; that row is left out if there are full batches.
    """
    alone = rows > batch_size > 1 and rows % batch_size == 1
    return rows - 1 if alone and normalises_batches(network) else rows


def normalises_batches(network: nn.Module) -> bool:
    """Return True if a network has a layer of batch normalisation."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return any(isinstance(module, _BatchNorm) for module in network.modules())


class _Forward:
    """A network's forward pass in training: its logits, with the dropout that its own code calls drawn from masks.

    Attributes:
        calls: the mode that draws it, of the present epoch; None once a pass in it has called no dropout.
    """

    def __init__(self, network: nn.Module, classes: int) -> None:
        self._network, self._classes = network, classes
        self.calls: DropoutCalls | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        found = self._called(inputs)
        if type(found) is type(inputs):
            return found
        return check_outputs(self._network, found, len(inputs), self._classes)

    def _called(self, inputs: Tensor) -> Any:
        if self.calls is None:
            return self._network(inputs)
        with self.calls as calls:
            found = self._network(inputs)
        self.calls = calls if calls.count else None
        return found


def _epoch(
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    recipe: Recipe,
    epoch: int,
    order_N: Tensor,
) -> float:
    import torch

    total = torch.zeros((), device=inputs.device)
    steps = math.ceil(len(order_N) / recipe.batch_size)
    for step, chosen in enumerate(order_N.split(recipe.batch_size)):
        if recipe.schedule == "cosine":
            done = (epoch * steps + step) / (recipe.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * (1 + math.cos(math.pi * done)) / 2
        rows = chosen.to(inputs.device)
        optimizer.zero_grad()
        value = loss(forward(inputs[rows]), targets[rows])
        value.backward()
        optimizer.step()
        total += value.detach() * len(rows)
    return total.item() / len(order_N)
