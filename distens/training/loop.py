"""A plain training loop for one network: data on the device, no loader, every epoch a function of (seed, epoch).

Because an epoch's order of rows and its dropout follow from the seed and the epoch's number alone, a checkpoint needs
nothing but the network, the optimizer and that number, and a resumed training equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from distens.data.dataset import Examples
from distens.errors import Diverged
from distens.seeding import derive
from distens.training.checkpoint import Pace, pack, unpack
from distens.training.network import local_chance, parameters, seed_global
from distens.training.work import Work

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

OptimizerName = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class Recipe:
    """How weights are updated.

    Attributes:
        optimizer: `sgd` with momentum; `adam`, whose weight decay is an L2 penalty; `adamw`, whose weight decay is
            decoupled (Loshchilov and Hutter 2019, algorithm 2).
        learning_rate: of the first step.
        momentum: of `sgd`; the others have none.
        schedule: `cosine` lets the learning rate fall from step to step to zero at the end (Loshchilov and Hutter
            2017, "SGDR", equation 5, without restarts).
        epochs: passes over the rows.
        batch_size: rows per step; the last step of an epoch takes what is left.
    """

    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    momentum: float
    schedule: Schedule
    epochs: int
    batch_size: int


def fit(
    network: nn.Module,
    examples: Examples,
    work: Work,
    recipe: Recipe,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, float]:
    """Train a network in place, on `work.device`, from its last checkpoint if there is one.

    Args:
        loss: (logits_NC, targets) -> the mean loss, a scalar.

    Returns:
        `epochs`, `steps`, `train_loss` (the last epoch's mean), `parameters`, `seconds` (of interrupted attempts too).

    Raises:
        Diverged: an epoch's loss is not finite.
    """
    from distens.training.dropout import Masks, adopt

    inputs, targets = (tensor.to(work.device) for tensor in to_tensors(examples))
    dropouts = adopt(network)
    network.to(work.device).train()
    optimizer = make_optimizer(network, recipe)
    first, seconds = _resume(network, optimizer, recipe, work)
    pace = Pace(work.checkpoint, seconds)
    mean = math.nan
    with local_chance(work.device):
        for epoch in range(first, recipe.epochs):
            seed_global(derive(work.seed, "epoch", epoch), work.device)  # for what a network draws beside dropout
            masks = Masks([work.seed], epoch, work.device)
            for dropout in dropouts:
                dropout.masks = masks
            mean = _epoch(network, optimizer, loss, inputs, targets, recipe, epoch, work.seed)
            if not math.isfinite(mean):
                raise diverged(recipe, mean, epoch + 1)
            if pace.due() and epoch + 1 < recipe.epochs:
                tree = {"network": network.state_dict(), "optimizer": optimizer.state_dict()["state"]}
                meta = {"epoch": epoch + 1, "seconds": pace.seconds(), "of": _identity(recipe, work)}
                pace.save(pack(tree, meta))
    return {
        "epochs": recipe.epochs,
        "steps": recipe.epochs * math.ceil(len(inputs) / recipe.batch_size),
        "train_loss": mean,
        "parameters": parameters(network),
        "seconds": pace.seconds(),
    }


def diverged(recipe: Recipe, loss: float, epoch: int) -> Diverged:
    """Return the error for a mean loss that is not finite, in an epoch counted from 1."""
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
    """Return copies of inputs (float32) and targets: labels_N (int64) or probs_NC (float32)."""
    import torch

    soft = examples.targets.ndim == 2
    inputs = torch.tensor(np.asarray(examples.inputs, dtype=np.float32))
    return inputs, torch.tensor(np.asarray(examples.targets, dtype=np.float32 if soft else np.int64))


def order(rows: int, seed: int, epoch: int) -> Tensor:
    """Return every row's number once, in an order fixed by (seed, epoch)."""
    import torch

    return torch.randperm(rows, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    recipe: Recipe,
    epoch: int,
    seed: int,
) -> float:
    import torch

    total = torch.zeros((), device=inputs.device)
    steps = math.ceil(len(inputs) / recipe.batch_size)
    for step, chosen in enumerate(order(len(inputs), seed, epoch).split(recipe.batch_size)):
        if recipe.schedule == "cosine":
            done = (epoch * steps + step) / (recipe.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * (1 + math.cos(math.pi * done)) / 2
        rows = chosen.to(inputs.device)
        optimizer.zero_grad()
        value = loss(network(inputs[rows]), targets[rows])
        value.backward()
        optimizer.step()
        total += value.detach() * len(rows)
    return total.item() / len(inputs)


def _identity(recipe: Recipe, work: Work) -> dict[str, Any]:
    return {**asdict(recipe), "seed": work.seed}


def _resume(network: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, work: Work) -> tuple[int, float]:
    """Bring network and optimizer to the last checkpoint; return the epochs done and the seconds that they took."""
    state = work.checkpoint.load()
    if state is None or state.meta.get("of") != _identity(recipe, work):
        return 0, 0.0
    tree = unpack(state)
    network.load_state_dict(tree["network"])
    optimizer.load_state_dict({"state": tree["optimizer"], "param_groups": optimizer.state_dict()["param_groups"]})
    return state.meta["epoch"], state.meta["seconds"]
