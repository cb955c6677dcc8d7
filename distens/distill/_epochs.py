"""Training on a server, epoch by epoch: a killed one resumes from its last checkpoint and ends with the same bits.

Everything that an epoch draws follows from (seed, purpose, epoch), so a checkpoint holds only what was learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from distens.distill.protocol import Network
from distens.errors import Diverged, Refused
from distens.records import Floats
from distens.seeding import derive
from distens.training.checkpoint import CheckpointTimer, decode_tree, encode_tree
from distens.training.context import Context
from distens.training.dropout import Masks, replace_dropouts
from distens.training.network import flush_denormals, local_chance, parameters, seed_global
from distens.training.outputs import check_outputs

MAX_GRADIENT_NORM = 10.0
"""Longer gradients are scaled down to this length, as in the code of DENSE and Co-Boosting."""

Curves = dict[str, list[float]]


class EpochLoop(Protocol):
    """A training that `run_epochs` carries out, epoch by epoch.

    Example:
        `run_epochs` resumes it from a checkpoint, trains it, and saves it when a checkpoint is due::

            job.load(unpack(state))
            for number in range(first, epochs):
                for name, value in job.epoch(number).items():
                    curves[name] = [*curves.get(name, []), value]
                pace.save(pack(job.state(), meta))
    """

    def epoch(self, number: int) -> Mapping[str, float]:
        """Train for one epoch, counted from 0; return a number for each curve by name, all of them finite."""
        ...

    def state(self) -> Any:
        """Return everything learned so far, as a tree that `distens.training.checkpoint.encode_tree` takes."""
        ...

    def load(self, tree: Any) -> None:
        """Restore a state that `state` returned."""
        ...


def run_epochs(job: EpochLoop, epochs: int, context: Context, of: Mapping[str, Any]) -> tuple[Curves, float]:
    """Carry out a training, from its last checkpoint if there is one; torch's global generators stay as they were.

    Args:
        of: identifies the training besides the seed: JSON values, with its `kind` for messages. A checkpoint of another
            training is not used.

    Returns:
        The curves, and the seconds that the training took, those of interrupted attempts included.

    Raises:
        Diverged: a number that an epoch returned is not finite.
    """
    identity = {**of, "seed": context.seed}
    state, first, curves, before = context.checkpoint.load(), 0, Curves(), 0.0
    if state is not None and state.meta.get("of") == identity:
        first, before, curves = state.meta["epoch"], state.meta["seconds"], dict(state.meta["curves"])
    pace = CheckpointTimer(context.checkpoint, before)
    with local_chance(context.device), flush_denormals():
        if state is not None and first:
            job.load(decode_tree(state))
        for number in range(first, epochs):
            seed_global(derive(context.seed, "server epoch", number), context.device)  # for draws inside the network
            for name, value in job.epoch(number).items():
                if not math.isfinite(value):
                    raise Diverged(f"{of['kind']}: {name} became {value} in epoch {number + 1} of {epochs}")
                curves[name] = [*curves.get(name, []), value]
            if pace.due() and number + 1 < epochs:
                meta = {"of": identity, "epoch": number + 1, "seconds": pace.seconds(), "curves": curves}
                pace.save(encode_tree(job.state(), meta))
    return curves, pace.seconds()


class StudentTrainer:
    """A student's network that is trained in place: each call of `learn` is one step of its optimizer.

    Args:
        rates: epoch, from 0 -> its learning rate.
    """

    def __init__(
        self,
        student: Network,
        context: Context,
        rates: Callable[[int], float],
        optimizer: Literal["sgd", "adam"] = "sgd",
        weight_decay: float = 1e-4,
        momentum: float = 0.9,
    ) -> None:
        self.network = student.torch_module()
        self._dropouts = replace_dropouts(self.network)
        self.network.to(context.device).train().requires_grad_()
        self._rates, self._context = rates, context
        weights = list(self.network.parameters())
        if optimizer == "sgd":
            self._optimizer: torch.optim.Optimizer = torch.optim.SGD(
                weights, lr=rates(0), momentum=momentum, weight_decay=weight_decay
            )
        else:
            self._optimizer = torch.optim.Adam(weights, lr=rates(0))
        self.steps, self._losses, self._rows = 0, torch.zeros((), device=context.device), 0

    def begin(self, epoch: int) -> None:
        """Begin an epoch, counted from 0."""
        self.network.train()
        masks = Masks([self._context.seed], epoch, self._context.device)
        for dropout in self._dropouts:
            dropout.masks = masks
        for group in self._optimizer.param_groups:
            group["lr"] = self._rates(epoch)
        self._losses, self._rows = torch.zeros_like(self._losses), 0

    def learn(self, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
        """Make one step of the optimizer.

        Args:
            loss: logits_NC of the inputs -> the mean loss.
        """
        self._optimizer.zero_grad()
        value = loss(check_outputs(self.network, self.network(inputs), len(inputs)))
        value.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        self.steps += 1
        self._losses += value.detach() * len(inputs)
        self._rows += len(inputs)

    def loss(self) -> float:
        """Return the epoch's mean loss so far."""
        return self._losses.item() / max(1, self._rows)

    def state(self) -> Any:
        """Return the network, the optimizer's moments and the steps made, as a tree for a checkpoint."""
        moments = self._optimizer.state_dict()["state"]
        return {"network": self.network.state_dict(), "moments": moments, "steps": self.steps}

    def load(self, tree: Any) -> None:
        """Restore a state that `state` returned."""
        self.network.load_state_dict(tree["network"])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": tree["moments"], "param_groups": groups})
        self.steps = tree["steps"]

    def metrics(self, epochs: int, curves: Curves, seconds: float) -> dict[str, float]:
        """Return the metrics that every training reports of its network."""
        return {
            "epochs": float(epochs),
            "steps": float(self.steps),
            "train_loss": curves["student_loss"][-1],
            "parameters": float(parameters(self.network)),
            "seconds": seconds,
        }


def cosine_rates(learning_rate: float, epochs: int) -> Callable[[int], float]:
    """Return a function from epoch to learning rate: half a cosine wave that would reach zero after the last epoch."""
    return lambda epoch: learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2


def cpu_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a generator on the CPU for the named purpose; its draws are the same for every device."""
    return torch.Generator().manual_seed(derive(seed, *names))


def batches(rows: int, size: int, rng: torch.Generator) -> Sequence[Tensor]:
    """Return the numbers of all rows, each once and in random order, in batches of `size`.

    A last batch of a single row, which batch normalisation cannot take, is joined to the batch before it.
    """
    order = torch.randperm(rows, generator=rng)
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def begin_student(
    start: Literal["fresh", "mean"] | None, student: Network, teachers: Sequence[Network], weights_M: Floats
) -> bool:
    """Give the student the weighted mean of the teachers' weights, as FedAvg does; return True if that was done.

    Args:
        start: `fresh` leaves the student as it is; `mean` demands the mean; None takes the mean if teachers and student
            are all of one architecture.

    Raises:
        Refused: `start` is `mean`, and teachers and student are not all of one architecture.
    """
    if start == "fresh":
        return False
    states = [teacher.torch_module().state_dict() for teacher in teachers]
    wanted = student.torch_module().state_dict()
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    if any({name: tensor.shape for name, tensor in state.items()} != shapes for state in states):
        if start is None:
            return False
        raise Refused(
            "start: 'mean' needs teachers and student of one architecture, found several; 'fresh' works with any"
        )
    shares = torch.tensor(np.asarray(weights_M) / np.sum(weights_M), dtype=torch.float64)
    with torch.no_grad():
        for name, tensor in wanted.items():
            stacked = torch.stack([state[name].cpu().double() for state in states])
            tensor.copy_(torch.tensordot(shares, stacked, dims=1))
    return True
