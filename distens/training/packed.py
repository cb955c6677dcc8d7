"""Training of many networks of one architecture as one program: `loop.fit_network` for members side by side.

A step takes every member's own batch through stacked layers (`distens.training.stacked`) and one optimizer over all
weights, without a Python loop over members. Seed, order of rows, bootstrap, learning rate, weight decay, momentum,
schedule, dropout, label smoothing and the number of epochs are each member's own. A member that has finished, or whose
loss is no longer finite, leaves the pack; no member's computation affects another's.

    learners ──► by the epoch that their checkpoints hold ──► chunks ──► epochs of steps ──► leave: (place, metrics)

Chunks are trained one after the other. On a CPU a chunk is sized to fit into the cache; a larger stack would be slower.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distens.data.dataset import Examples
from distens.errors import Diverged
from distens.records import Integers
from distens.training import loop
from distens.training.checkpoint import CheckpointTimer
from distens.training.context import Context
from distens.training.cost import activations, multiplications
from distens.training.dropout import Masks
from distens.training.loop import Recipe, TrainingState
from distens.training.network import flush_denormals, local_chance, parameters
from distens.training.optimizers import OPTIMIZERS
from distens.training.rescaling import RescalingStack
from distens.training.stacked import NetworkStack, Unstackable, find_way, stack_kinds

CACHE_BYTES = 14 << 20
"""The memory that a chunk may use in one step on a CPU. Measured, per member-step of an MLP with 26,000 weights: 16
members (11 MB) 154 us, 4 members 173, 64 members 184; of one with 6,000: 64 members (13 MB) 45 us, 8 members 55."""

MIN_MEMBERS_PER_CHUNK = 4
"""The smallest number of members in a chunk, however large they are: with fewer, stacking saves too little."""

GATHER_BYTES = 8 << 20
"""The size of the rows that are gathered at a time, for all members of a chunk."""

MAX_MEMBERS_ON_GPU = 256

GPU_SHARE = 0.8
"""The share of the free GPU memory that a chunk may take."""


@dataclass(frozen=True)
class Learner:
    """A member of a pack, to be trained.

    Attributes:
        network: freshly initialised; it holds the trained weights once the member has been yielded.
        recipe: the member's own, except that all members have the same `optimizer` and `batch_size`.
        context: the member's own, except that all members have the same device.
        rows_N: the numbers of the examples that the member learns from, equally many for all members; None: each once.
            If the context has a fold, the member learns from them on the fold's scale.
        label_smoothing: see `distens.objectives.cross_entropy`.
    """

    network: nn.Module
    recipe: Recipe
    context: Context
    rows_N: Integers | None = None
    label_smoothing: float = 0.0

    @property
    def until(self) -> int:
        """Return the epoch at which the member's training ends."""
        return self.context.until(self.recipe.epochs)


def fit_pack(learners: Sequence[Learner], examples: Examples) -> Iterator[tuple[int, dict[str, float] | Diverged]]:
    """Train all members with cross-entropy; yield each member's place and its metrics, or its error, as it finishes.

    The metrics are those of `distens.training.loop.fit_network`, except that `seconds` is the member's share of the
    time, and with `pack`, the number of members trained at once in the beginning. Members equal those of
    `loop.fit_network`, to float tolerance.

    Raises:
        Unstackable: the networks cannot be stacked (see `NetworkStack`); nothing was trained.
    """
    begun: dict[int, list[tuple[int, TrainingState]]] = {}
    for place, learner in enumerate(learners):
        start = loop.load_progress(learner.recipe, learner.context)
        if start.weights is not None and start.epoch == learner.until:  # trained up to its budget, but not reported
            learner.network.load_state_dict(start.weights)
            learner.network.to(learner.context.device)
            rows = len(examples.inputs if learner.rows_N is None else learner.rows_N)
            rows = loop.learned_rows(learner.network, rows, learner.recipe.batch_size)
            yield place, _metrics(learner, rows, start.loss, start.seconds, start.began, 1)
        else:
            begun.setdefault(start.epoch, []).append((place, start))
    inputs, targets = loop.to_tensors(examples)
    device = learners[0].context.device
    table = _Table(inputs.to(device), targets.to(device))
    for group in begun.values():
        group.sort(key=lambda item: learners[item[0]].until)
        most = chunk_size(learners[0], inputs[:2]) if len(group) > 1 else 1
        size = math.ceil(len(group) / math.ceil(len(group) / most))  # even sizes: a small last chunk would be slow
        for first in range(0, len(group), size):
            some = group[first : first + size]
            chosen = [learners[place] for place, _ in some]
            with local_chance(device):
                chunk = _Chunk(chosen, [start for _, start in some], table, device)
                for place, found in chunk.train():
                    yield some[place][0], found


def chunk_size(learner: Learner, example: Tensor) -> int:
    """Return the best number of such members in a chunk.

    On a CPU it follows from the size of the cache; on a GPU from the free memory, the member's share of the GPU, and
    the memory that one step of two networks was measured to take.
    """
    network, batch_size, device = learner.network, learner.recipe.batch_size, learner.context.device
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info()
        room = GPU_SHARE * min(1.0, learner.context.gpus or 1.0) * free
        return max(1, int(room / _gpu_bytes(network, example, batch_size, device)))
    return _cpu_chunk(network, example, batch_size)


def _cpu_chunk(network: nn.Module, example: Tensor, batch_size: int) -> int:
    weights = 5 * 4 * parameters(network)  # with gradients, two moments and the step
    numbers = 2 * 4 * batch_size * activations(network, example)  # with their gradients
    return max(MIN_MEMBERS_PER_CHUNK, CACHE_BYTES // (weights + numbers))


def _gpu_bytes(network: nn.Module, example: Tensor, batch_size: int, device: str) -> int:
    """Return the peak memory of one step, in bytes for each network."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    stack = NetworkStack([network, network], example, device)
    inputs = example[:1].to(device).expand(2, batch_size, *example.shape[1:]).contiguous()
    stack.backward(torch.zeros_like(stack.forward(inputs, Masks([0, 0], 0, device))))
    kept = 4 * 3 * stack.weights.numel()  # two moments and the step
    return max(1, (torch.cuda.max_memory_allocated() - before + kept) // 2)


DENSE_STEP_FLOPS = 6e7
IMAGE_STEP_FLOPS = 3e8
"""The operations of a step up to which stacks are faster on a CPU. Below, a step's time goes into Python and
allocation; above, into arithmetic, for which torch's modules are as fast. Packs of networks of images stay faster above
too, because of their memory layout. Measured as torch's time for one network over the stack's, per member-step: MLP of
1e7 operations 1.7 alone and 3 in a pack, of 1e8 0.9 and 1.0; LeNet of 3e8 1.1 and 1.5, of 4e9 1.0 and 1.1."""

VMAP_STEP_FLOPS = 1.5e7
"""The same for networks that are stacked by vmap. Measured in packs: an MLP of 4e6 operations 3.5, of 1.5e7 1.1, of 6e7
0.8; a network of two convolutions of 1e7 1.5 to 2, of 4e7 0.9, of 4e8 0.8."""

SUMS_STEP_FLOPS = 5e8
"""The same for networks of images with sums of branches: residual networks of 3e7 operations 1.8, of 1e8 1.2, of 5e8
1.0, of 2e9 0.9."""

WRITTEN_OUT = frozenset({"dense", "images"})
"""The kinds of layers (see `NetworkStack`) that are faster stacked on a CPU too; other kinds run the networks' own
code."""

GPU_STEP_FLOPS = 5e10
"""The operations that a step needs to keep a large GPU busy, despite the time to launch kernels."""


def advise(network: nn.Module, example: Tensor, batch_size: int, gpu: bool) -> tuple[int, str]:
    """Return the best number of such networks to train at once (1 if stacking gains nothing), and the reason.

    It follows from the number of weights, the arithmetic of a step, and the way in which such networks can be stacked,
    which the reason names (see `distens.training.ways`). The free memory of a GPU is only measured when training begins
    (see `chunk_size`).
    """
    try:
        kinds, how = stack_kinds(network, example), ""
        if "vmap" in kinds:
            way = find_way([network, network], example)
            kinds, how = way.kinds, f" (stacked {way.how})"
    except Unstackable as error:
        return 1, f"trained one by one, as {error}"
    return advise_kinds(kinds, network, example, batch_size, gpu, how)


def advise_kinds(
    kinds: frozenset[str], network: nn.Module, example: Tensor, batch_size: int, gpu: bool, how: str = ""
) -> tuple[int, str]:
    """Return the best size of a pack and the reason (see `advise`), for a stack whose layers' kinds are known.

    Args:
        how: words on how the stack was found, for the reason.
    """
    if not gpu and "blocks" in kinds:
        return 1, "such layers gain nothing from stacking on a CPU"
    flops = _step_flops(network, example, batch_size)
    numbers = f"{parameters(network):,} weights, {flops / 1e6:,.0f} million operations a step"
    if gpu:
        size = max(1, min(MAX_MEMBERS_ON_GPU, round(GPU_STEP_FLOPS / flops)))
        return size, f"{numbers} leave a GPU idle{how}" if size > 1 else f"{numbers} keep a GPU busy"
    limits = {"vmap": VMAP_STEP_FLOPS, "sums": SUMS_STEP_FLOPS, "images": math.inf, "dense": DENSE_STEP_FLOPS}
    if flops > next(limit for kind, limit in limits.items() if kind in kinds):
        return 1, f"{numbers} keep a CPU busy{how}"
    return _cpu_chunk(network, example, batch_size), f"{numbers}, cheaper together than one by one{how}"


def gains_alone(network: nn.Module, example: Tensor, batch_size: int) -> bool:
    """Return True if even a single network trains faster as a stack of one, whose layers have their steps written out.

    (On a CPU, an MLP with 26,000 weights takes 0.27 ms a step as a stack, and 0.46 ms with torch's modules, autograd
    and optimizer.)
    """
    try:
        found = stack_kinds(network, example)
        if "vmap" in found:
            found = find_way([network], example).kinds
    except Unstackable:
        return False
    most = IMAGE_STEP_FLOPS if "images" in found else DENSE_STEP_FLOPS
    return found <= WRITTEN_OUT and _step_flops(network, example, batch_size) <= most


def _step_flops(network: nn.Module, example: Tensor, batch_size: int) -> int:
    return 6 * batch_size * multiplications(network, example)  # per weight two forward, and twice that backward


@dataclass(frozen=True)
class _Table:
    """The examples of all members, on the device; targets are labels_N or probs_NC."""

    inputs: Tensor
    targets: Tensor


def _cross_entropy(logits_MCB: Tensor, targets: Tensor, smoothing_M: Tensor | None, losses_MB: Tensor) -> Tensor:
    """Write every row's loss into `losses_MB`, and return the gradients of the rows' mean loss by the logits.

    The gradients are (p - q) / B, where q is the target (see `distens.objectives.cross_entropy`).
    """
    log_probs_MCB = torch.log_softmax(logits_MCB, 1)
    gradients_MCB = log_probs_MCB.exp()
    if targets.ndim == 2:  # labels_MB: one number a row, where probabilities would be C
        labels_M1B = targets.unsqueeze(1)
        torch.gather(log_probs_MCB, 1, labels_M1B, out=losses_MB.unsqueeze(1)).neg_()
        share_M1B = losses_MB.new_ones(()) if smoothing_M is None else (1.0 - smoothing_M)[:, None, None]
        gradients_MCB.scatter_add_(1, labels_M1B, -share_M1B.expand(labels_M1B.shape))
    else:
        targets_MCB = targets.transpose(1, 2)
        torch.sum(log_probs_MCB * targets_MCB, 1, out=losses_MB).neg_()
        gradients_MCB -= targets_MCB if smoothing_M is None else targets_MCB * (1.0 - smoothing_M)[:, None, None]
    if smoothing_M is not None:
        each_M1 = (smoothing_M / log_probs_MCB.shape[1])[:, None]
        losses_MB.mul_(1.0 - smoothing_M[:, None]).sub_(each_M1 * log_probs_MCB.sum(1))
        gradients_MCB -= each_M1[:, :, None]
    return gradients_MCB.div_(logits_MCB.shape[2])


@dataclass
class _ActiveMember:
    """A member that is still in the chunk."""

    place: int
    learner: Learner
    seconds: float
    began: int
    pace: CheckpointTimer


class _Chunk:
    def __init__(
        self, learners: Sequence[Learner], starts: Sequence[TrainingState], table: _Table, device: str
    ) -> None:
        for learner, start in zip(learners, starts, strict=True):
            if start.weights is not None:
                learner.network.load_state_dict(start.weights)
        self._going = [
            _ActiveMember(place, learner, start.seconds, start.began, CheckpointTimer(learner.context.checkpoint))
            for place, (learner, start) in enumerate(zip(learners, starts, strict=True))
        ]
        self._table, self._device, self._pack = table, device, len(learners)
        self._batch_size, self._epoch = learners[0].recipe.batch_size, starts[0].epoch
        rows = len(table.inputs) if learners[0].rows_N is None else len(learners[0].rows_N)
        self._rows = loop.learned_rows(learners[0].network, rows, self._batch_size)
        self._stack = NetworkStack([learner.network for learner in learners], table.inputs[:2].cpu(), device)
        recipes = [learner.recipe for learner in learners]
        self._optimizer = OPTIMIZERS[recipes[0].optimizer](self._stack, recipes)
        if starts[0].moments is not None:
            self._optimizer.load([start.moments or {} for start in starts])

    def train(self) -> Iterator[tuple[int, dict[str, float] | Diverged]]:
        """Yield each member's place in the chunk and its metrics, or its error."""
        while self._going:
            started = time.perf_counter()
            with flush_denormals():  # not while the caller has its turn
                mean_M = self._train_epoch()
            self._epoch += 1
            share = (time.perf_counter() - started) / len(self._going)
            stay = []
            for i, (member, mean) in enumerate(zip(self._going, mean_M, strict=True)):
                member.seconds += share
                if not math.isfinite(mean):
                    yield member.place, loop.diverged(member.learner.recipe, mean, self._epoch)
                elif self._epoch == member.learner.until:
                    self._stack.give(i, member.learner.network.to(self._device))
                    if member.learner.context.budget is not None:
                        self._save(i, mean)
                    yield member.place, self._metrics(member, mean)
                else:
                    stay.append(i)
            self._keep(stay)
            if self._going and self._going[0].pace.due():
                began = time.perf_counter()
                for i, place in enumerate(stay):
                    self._save(i, mean_M[place])
                for member in self._going:  # whichever is the first next time, its clock counts the saving of all
                    member.pace.postpone(time.perf_counter() - began)

    def _metrics(self, member: _ActiveMember, mean: float) -> dict[str, float]:
        return _metrics(member.learner, self._rows, mean, member.seconds, member.began, self._pack)

    def _keep(self, places: Sequence[int]) -> None:
        if len(places) == len(self._going):
            return
        self._going = [self._going[place] for place in places]
        if places:
            self._optimizer.keep(places, [member.learner.recipe for member in self._going])

    def _train_epoch(self) -> list[float]:
        """Train all members for one epoch, and return each member's mean loss."""
        learners = [member.learner for member in self._going]
        masks = Masks([learner.context.seed for learner in learners], self._epoch, self._device)
        rescale = RescalingStack.of([learner.context.fold for learner in learners], self._device)
        order_MN = torch.stack([self._order(learner) for learner in learners]).to(self._device)
        smoothing = [learner.label_smoothing for learner in learners]
        smoothing_M = torch.tensor(smoothing, device=self._device) if any(smoothing) else None
        losses_MN = torch.empty(order_MN.shape, device=self._device)
        steps = math.ceil(self._rows / self._batch_size)
        for step, (inputs, targets, losses_MB) in enumerate(self._batches(order_MN, losses_MN, rescale)):
            self._optimizer.schedule(self._epoch * steps + step, steps)
            logits_MCB = self._stack.forward(inputs, masks)
            self._stack.backward(_cross_entropy(logits_MCB, targets, smoothing_M, losses_MB))
            self._optimizer.step()
        return losses_MN.mean(1).tolist()

    def _order(self, learner: Learner) -> Tensor:
        rows = len(self._table.inputs) if learner.rows_N is None else len(learner.rows_N)
        order_N = loop.order(rows, learner.context.seed, self._epoch)[: self._rows]
        return order_N if learner.rows_N is None else torch.from_numpy(learner.rows_N)[order_N]

    def _batches(
        self, order_MN: Tensor, losses_MN: Tensor, rescale: RescalingStack | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (inputs, targets, buffer for losses) for each batch of one epoch; rows are gathered in large pieces.

        A piece has as many batches as fit into `GATHER_BYTES`, and one at least.
        """
        table, size = self._table, self._batch_size
        row_bytes = 4 * len(order_MN) * table.inputs[0].numel()
        piece = max(1, GATHER_BYTES // (row_bytes * size)) * size
        for rows_MK, losses_MK in zip(order_MN.split(piece, 1), losses_MN.split(piece, 1), strict=True):
            parts = [values.index_select(0, rows_MK.flatten()) for values in (table.inputs, table.targets)]
            shaped = [part.unflatten(0, rows_MK.shape) for part in parts]
            if rescale is not None:
                shaped[0] = rescale(shaped[0])
            yield from zip(*(values.split(size, 1) for values in (*shaped, losses_MK)), strict=True)

    def _save(self, place: int, mean: float) -> None:
        member = self._going[place]
        weights, moments = self._stack.state(place), self._optimizer.state(place)
        reached = TrainingState(self._epoch, member.seconds, weights, moments, mean, member.began)
        member.pace.save(loop.kept_checkpoint(reached, member.learner.recipe, member.learner.context))


def _metrics(learner: Learner, rows: int, loss: float, seconds: float, began: int, pack: int) -> dict[str, float]:
    found = loop.training_metrics(learner.network, rows, learner.recipe, learner.context, loss, seconds, began)
    return {**found, "pack": pack}
