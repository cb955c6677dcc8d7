"""Many networks of one architecture trained as one program: `loop.fit` for members side by side.

A step takes every member's own batch through stacked layers (`distens.training.stacked`) and one optimizer over all
weights; there is no Python loop over members in it. Seed, order of rows, bootstrap, learning rate, weight decay, momentum,
schedule, dropout, label smoothing and the number of epochs are each member's own. One that has finished, or whose loss
is no longer finite, leaves; nothing that a member computes touches another.

    learners ──► by the epoch that their checkpoints hold ──► chunks ──► epochs of steps ──► leave: yield (place, metrics)

Chunks are trained one after the other. On a CPU they are sized to stay in its cache, where a larger stack is slower.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from distens.data.dataset import Examples
from distens.errors import Diverged
from distens.records import Integers
from distens.training import loop
from distens.training.checkpoint import Pace, pack, unpack
from distens.training.dropout import Masks
from distens.training.loop import Recipe
from distens.training.network import local_chance, parameters
from distens.training.stacked import Stack, Unstackable
from distens.training.work import Work

CACHE_BYTES = 12 << 20
"""What a chunk may touch in one step on a CPU. Measured, per member-step of an MLP with 26,000 weights: 16 members
(11 MB) 154 us, 4 members 173, 64 members 184; of one with 6,000: 64 members (13 MB) 45 us, 8 members 55."""

LEAST = 4
"""Members in a chunk at least, however large: with fewer, stacking saves too little."""

GPU_SHARE = 0.8
"""Of the free GPU memory, what a chunk may take."""


@dataclass(frozen=True)
class Learner:
    """One member of a pack.

    Attributes:
        network: freshly initialised; it holds the trained weights once the member has been yielded.
        recipe: may differ from the others' but for `optimizer` and `batch_size`.
        work: seed and checkpoint; the device is the same for all.
        rows_N: which examples it learns from, as many for all; None: each once.
        label_smoothing: see `distens.objectives.cross_entropy`.
    """

    network: nn.Module
    recipe: Recipe
    work: Work
    rows_N: Integers | None = None
    label_smoothing: float = 0.0


def fit(learners: Sequence[Learner], examples: Examples) -> Iterator[tuple[int, dict[str, float] | Diverged]]:
    """Train all, with cross-entropy; yield each one's place and metrics as it finishes, or why it stopped.

    Metrics are those of `distens.training.loop.fit`, with `seconds` a member's share of the time, and `pack`, how many
    were trained at once when it began. What is yielded equals what `loop.fit` gives, to float tolerance.

    Raises:
        Unstackable: the networks cannot be stacked (see `Stack`); nothing was trained.
    """
    begun: dict[int, list[tuple[int, _Start]]] = {}
    for place, learner in enumerate(learners):
        start = _start(learner)
        begun.setdefault(start.epoch, []).append((place, start))
    inputs, targets = loop.to_tensors(examples)
    Stack([learners[0].network, learners[-1].network], inputs[:2])  # refuse before anything is trained
    device = learners[0].work.device
    table = _Table(inputs.to(device), _probabilities(targets, examples.classes).to(device))
    for group in begun.values():
        group.sort(key=lambda item: learners[item[0]].recipe.epochs)
        size = chunk_size(learners[0].network, inputs[:2], learners[0].recipe.batch_size, device)
        for first in range(0, len(group), size):
            some = group[first : first + size]
            chosen = [learners[place] for place, _ in some]
            with local_chance(device):
                chunk = _Chunk(chosen, [start for _, start in some], table, device)
                for place, found in chunk.train():
                    yield some[place][0], found


def chunk_size(network: nn.Module, example: Tensor, batch_size: int, device: str) -> int:
    """Return how many such networks are best trained at once."""
    weights = 5 * 4 * parameters(network)  # with gradients, two moments and the step
    numbers = 2 * 4 * batch_size * _activations(network, example)  # with their gradients
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info()
        return max(1, int(GPU_SHARE * free / (weights + 2 * numbers)))
    return max(LEAST, CACHE_BYTES // (weights + numbers))


def _activations(network: nn.Module, example: Tensor) -> int:
    """Return how many numbers the layers give for one row, the row itself included."""
    found = [example[0].numel()]
    layers = [m for m in network.modules() if next(m.parameters(recurse=False), None) is not None]
    handles = [m.register_forward_hook(lambda _m, _i, out: found.append(out[0].numel())) for m in layers]
    with torch.inference_mode():
        network(example)
    for handle in handles:
        handle.remove()
    return sum(found)


@dataclass(frozen=True)
class _Table:
    inputs: Tensor
    targets_NC: Tensor


def _probabilities(targets: Tensor, classes: int) -> Tensor:
    return targets if targets.ndim == 2 else nn.functional.one_hot(targets, classes).float()


@dataclass(frozen=True)
class _Start:
    """Where a member begins: its checkpoint, or nothing."""

    epoch: int = 0
    seconds: float = 0.0
    weights: Mapping[str, Tensor] | None = None
    moments: Mapping[int, Mapping[str, Tensor]] | None = None


def _start(learner: Learner) -> _Start:
    state = learner.work.checkpoint.load()
    if state is None or state.meta.get("of") != _identity(learner):
        return _Start()
    tree = unpack(state)
    return _Start(state.meta["epoch"], state.meta["seconds"], tree["network"], tree["optimizer"])


def _identity(learner: Learner) -> dict[str, Any]:
    return {**asdict(learner.recipe), "seed": learner.work.seed}


class _Chunk:
    def __init__(self, learners: Sequence[Learner], starts: Sequence[_Start], table: _Table, device: str) -> None:
        for learner, start in zip(learners, starts, strict=True):
            if start.weights is not None:
                learner.network.load_state_dict(start.weights)
        self._learners, self._places = list(learners), list(range(len(learners)))
        self._stack = Stack([learner.network for learner in learners], table.inputs[:2].cpu(), device)
        self._table, self._device, self._pack = table, device, len(learners)
        self._recipe = learners[0].recipe
        self._optimizer = _OPTIMIZERS[self._recipe.optimizer](self._stack, learners)
        if starts[0].moments is not None:
            self._optimizer.load([start.moments or {} for start in starts])
        self._epoch = starts[0].epoch
        self._seconds_M = [start.seconds for start in starts]
        self._rows = len(table.inputs) if learners[0].rows_N is None else len(learners[0].rows_N)
        self._paces = [Pace(learner.work.checkpoint) for learner in learners]

    def train(self) -> Iterator[tuple[int, dict[str, float] | Diverged]]:
        """Yield (place in the chunk, metrics or why it stopped)."""
        while self._learners:
            started = time.perf_counter()
            mean_M = self._train_epoch()
            self._epoch += 1
            share = (time.perf_counter() - started) / len(self._learners)
            self._seconds_M = [seconds + share for seconds in self._seconds_M]
            going_on = []
            for i, (learner, mean) in enumerate(zip(self._learners, mean_M, strict=True)):
                if not math.isfinite(mean):
                    yield self._places[i], loop.diverged(learner.recipe, mean, self._epoch)
                elif self._epoch == learner.recipe.epochs:
                    learner.network.load_state_dict(self._stack.named(i, self._stack.weights_MP))
                    yield self._places[i], self._metrics(i, mean)
                else:
                    going_on.append(i)
            if len(going_on) < len(self._learners):
                self._keep(going_on)
            if self._learners and self._paces[0].due():
                self._save()

    def _metrics(self, place: int, mean: float) -> dict[str, float]:
        recipe = self._learners[place].recipe
        return {
            "epochs": recipe.epochs,
            "steps": recipe.epochs * math.ceil(self._rows / recipe.batch_size),
            "train_loss": mean,
            "parameters": self._stack.weights_MP.shape[1],
            "seconds": self._seconds_M[place],
            "pack": self._pack,
        }

    def _keep(self, places: Sequence[int]) -> None:
        for values in (self._learners, self._places, self._seconds_M, self._paces):
            values[:] = [values[i] for i in places]
        if places:
            self._stack.keep(places)
            self._optimizer.keep(places, self._learners)

    def _train_epoch(self) -> list[float]:
        """Return every member's mean loss."""
        seeds = [learner.work.seed for learner in self._learners]
        masks = Masks(seeds, self._epoch, self._device)
        orders = [torch.cat(list(loop.batches(self._rows, self._rows, seed, self._epoch))) for seed in seeds]
        chosen = [learner.rows_N for learner in self._learners]
        order_MN = torch.stack(
            [order if rows is None else torch.from_numpy(rows)[order] for order, rows in zip(orders, chosen, strict=True)]
        ).to(self._device)
        smoothing = [learner.label_smoothing for learner in self._learners]
        smoothing_M = torch.tensor(smoothing, device=self._device)[:, None, None] if any(smoothing) else None
        total_M = torch.zeros(len(self._learners), device=self._device)
        steps = math.ceil(self._rows / self._recipe.batch_size)
        for step, rows_MB in enumerate(order_MN.split(self._recipe.batch_size, dim=1)):
            self._optimizer.schedule(self._epoch * steps + step, steps)
            total_M += self._step(rows_MB, smoothing_M, masks)
        return (total_M / self._rows).tolist()

    def _step(self, rows_MB: Tensor, smoothing_M: Tensor | None, masks: Masks) -> Tensor:
        """Take one step; return every member's summed loss."""
        members, count = rows_MB.shape
        inputs, targets_NC = self._table.inputs, self._table.targets_NC
        rows = rows_MB.reshape(-1)
        targets_MCB = targets_NC.index_select(0, rows).view(members, count, -1).transpose(1, 2)
        if smoothing_M is not None:
            targets_MCB = (1 - smoothing_M) * targets_MCB + smoothing_M / targets_NC.shape[1]
        logits_MCB = self._stack.forward(inputs.index_select(0, rows).view(members, count, *inputs.shape[1:]), masks)
        log_probs_MCB = torch.log_softmax(logits_MCB, 1)
        gradients_MCB = log_probs_MCB.exp().sub_(targets_MCB).div_(count)
        self._stack.backward(gradients_MCB)
        self._optimizer.step()
        return -log_probs_MCB.mul_(targets_MCB).sum((1, 2))

    def _save(self) -> None:
        for i, learner in enumerate(self._learners):
            tree = {
                "network": self._stack.named(i, self._stack.weights_MP),
                "optimizer": self._optimizer.state(i),
            }
            meta = {"epoch": self._epoch, "seconds": self._seconds_M[i], "of": _identity(learner)}
            self._paces[i].save(pack(tree, meta))


class _Optimizer:
    """One step for all weights; learning rate and weight decay are a column, one number a member."""

    def __init__(self, stack: Stack, learners: Sequence[Learner]) -> None:
        self._stack = stack
        self._set(learners)

    def _set(self, learners: Sequence[Learner]) -> None:
        recipes, device = [learner.recipe for learner in learners], self._stack.weights_MP.device
        self._epochs_M = np.array([recipe.epochs for recipe in recipes])
        self._cosine_M = np.array([recipe.schedule == "cosine" for recipe in recipes])
        self._first_M = np.array([recipe.learning_rate for recipe in recipes])
        self._decays_M = np.array([recipe.weight_decay for recipe in recipes])
        self._momentum_M1 = torch.tensor([[recipe.momentum] for recipe in recipes], device=device)
        self._decay_M1 = torch.tensor(self._decays_M[:, None], dtype=torch.float32, device=device)
        self._constant = not self._cosine_M.any()
        self._set_rates(self._first_M)

    def _set_rates(self, rates_M: np.ndarray[Any, Any]) -> None:
        columns = np.stack([rates_M, 1 - rates_M * self._decays_M])[:, :, None]
        self._rate_M1, self._keep_M1 = torch.tensor(columns, dtype=torch.float32, device=self._decay_M1.device)

    def schedule(self, done: int, steps: int) -> None:
        """Set learning rates for the step after `done`; an epoch has `steps`."""
        self._done = done
        if not self._constant:
            fall_M = (1 + np.cos(np.pi * done / (self._epochs_M * steps))) / 2
            self._set_rates(self._first_M * np.where(self._cosine_M, fall_M, 1.0))

    def step(self) -> None:
        """Update the weights from the gradients."""
        raise NotImplementedError

    def _moments(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def keep(self, places: Sequence[int], learners: Sequence[Learner]) -> None:
        """Let all members go but those in `places`."""
        for name, moment in self._moments().items():
            setattr(self, name, moment[list(places)])
        self._set(learners)

    def state(self, place: int) -> dict[int, dict[str, Any]]:
        """Return one member's part as torch's own optimizers write it: parameter's number -> what is kept of it."""
        by_name = {name: self._stack.named(place, moment) for name, moment in self._moments().items()}
        steps = {"step": torch.tensor(float(self._done + 1))} if len(by_name) > 1 else {}
        parts = zip(*(tensors.values() for tensors in by_name.values()), strict=True)
        return {i: {**steps, **dict(zip(by_name, part, strict=True))} for i, part in enumerate(parts)}

    def load(self, states: Sequence[Mapping[int, Mapping[str, Tensor]]]) -> None:
        """Go on from what `state`, or torch's own optimizers, kept."""
        for name, moment in self._moments().items():
            for i, view in enumerate(self._stack.views(moment)):
                for place, state in enumerate(states):
                    view[place] = state[i][name]


class _Sgd(_Optimizer):
    def __init__(self, stack: Stack, learners: Sequence[Learner]) -> None:
        super().__init__(stack, learners)
        self.momentum_buffer = torch.zeros_like(stack.weights_MP)

    def _moments(self) -> dict[str, Tensor]:
        return {"momentum_buffer": self.momentum_buffer}

    def step(self) -> None:
        weights_MP, gradients_MP = self._stack.weights_MP, self._stack.gradients_MP
        if self._decays_M.any():
            gradients_MP.addcmul_(weights_MP, self._decay_M1)
        self.momentum_buffer.mul_(self._momentum_M1).add_(gradients_MP)
        weights_MP.addcmul_(self.momentum_buffer, self._rate_M1, value=-1)


class _Adam(_Optimizer):
    """torch's fused step writes into a delta at learning rate 1, so that each member's own rate can scale it."""

    decoupled = False

    def __init__(self, stack: Stack, learners: Sequence[Learner]) -> None:
        super().__init__(stack, learners)
        self.exp_avg, self.exp_avg_sq = (torch.zeros_like(stack.weights_MP) for _ in range(2))
        self._delta = torch.zeros_like(stack.weights_MP)

    def _moments(self) -> dict[str, Tensor]:
        return {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}

    def keep(self, places: Sequence[int], learners: Sequence[Learner]) -> None:
        super().keep(places, learners)
        self._delta = torch.zeros_like(self.exp_avg)

    def step(self) -> None:
        weights_MP, gradients_MP = self._stack.weights_MP, self._stack.gradients_MP
        if self._decays_M.any():
            if self.decoupled:
                weights_MP.mul_(self._keep_M1)
            else:
                gradients_MP.addcmul_(weights_MP, self._decay_M1)
        done = torch.tensor(float(self._done), device=weights_MP.device)
        moments = [self.exp_avg], [self.exp_avg_sq], [], [done]
        options = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "lr": 1.0, "weight_decay": 0.0, "eps": 1e-8}
        adam([self._delta.zero_()], [gradients_MP], *moments, fused=True, maximize=False, **options)
        weights_MP.addcmul_(self._delta, self._rate_M1)


class _AdamW(_Adam):
    decoupled = True


_OPTIMIZERS: Mapping[str, type[_Optimizer]] = {"sgd": _Sgd, "adam": _Adam, "adamw": _AdamW}
