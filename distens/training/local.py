"""Local training of a federation's clients: from the same weights, each on its own rows, many of them as one program.

    start ──► a stack of clients' networks ──► steps, each client's own batches ──► leave: (place, its result)

Clients have different numbers of rows, so they make different numbers of steps. The stack is ordered by the numbers of
steps, and a client leaves it after its last step. A short last batch is filled with rows whose gradient is zero. A
client's result depends, to float tolerance, only on its own rows, seed and correction, not on the other clients.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from distens.data.dataset import Examples
from distens.errors import Diverged
from distens.merge.protocol import Correction
from distens.records import Floats, Integers
from distens.seeding import derive
from distens.training import loop, packed
from distens.training.client_ways import client_way
from distens.training.dropout import Masks
from distens.training.flat import own_places, set_weights, statistics_names
from distens.training.loop import Recipe
from distens.training.network import flush_denormals, local_chance, seed_global
from distens.training.optimizers import OPTIMIZERS
from distens.training.stacked import NetworkStack
from distens.training.ways import Way


@dataclass(frozen=True)
class Shard:
    """A client's input to local training: its rows, its seed and its correction.

    Attributes:
        client: the client's name.
        examples: its rows and labels.
        seed: the seed of its order of rows and its dropout.
        correction: the correction of its gradients.
        own: its batch normalisation, as `distens.training.flat.own_places` takes it from all weights; None: the
            server's.
    """

    client: str
    examples: Examples
    seed: int
    correction: Correction = field(default_factory=Correction)
    own: Floats | None = None


@dataclass(frozen=True)
class LocalTraining:
    """A procedure of local training, the same for all clients.

    Attributes:
        recipe: optimizer, learning rate, weight decay, momentum, batch size and number of epochs.
        steps: the number of steps, instead of epochs; None: `recipe.epochs` decides.
        clip: the largest norm of the gradient of a client's loss, to which longer gradients are shortened; None: no
            limit.
        pull: FedProx's mu: `pull` times (weights - start) is added to each gradient (Li et al. 2020, "Federated
            Optimization in Heterogeneous Networks", equation 2, whose gradient this is).
    """

    recipe: Recipe
    steps: int | None = None
    clip: float | None = None
    pull: float = 0.0

    def count(self, rows: int) -> int:
        """Return the number of steps of a client with this number of rows."""
        return self.recipe.epochs * self.per_epoch(rows) if self.steps is None else self.steps

    def per_epoch(self, rows: int) -> int:
        """Return the number of steps in an epoch of a client with this number of rows."""
        return math.ceil(rows / self.recipe.batch_size)


@dataclass(frozen=True)
class LocalUpdate:
    """The result of a client's training.

    Attributes:
        weights_P: all weights, concatenated, and after them all running statistics, float32.
        steps: the number of steps made.
        rate_sum: the sum of their learning rates.
        loss: the mean loss over the last epoch's rows.
        seconds: the client's share of the time.
    """

    weights_P: Floats
    steps: int
    rate_sum: float
    loss: float
    seconds: float


def train_clients(
    network: nn.Module, start_P: Floats, shards: Sequence[Shard], local: LocalTraining, device: str = "cpu"
) -> Iterator[tuple[int, LocalUpdate | Diverged]]:
    """Train every client from the same weights; yield each client's place, and its result or error.

    Args:
        network: any network of the architecture; its weights are overwritten.
        start_P: the global weights.

    Raises:
        Refused: the network cannot be stacked, or `start_P` does not fit it.
    """
    set_weights(network, start_P)
    example = torch.zeros((2, *shards[0].examples.inputs.shape[1:]))
    way, size = client_way(network, example), local.recipe.batch_size
    most = 1
    if way.chain is not None or not way.mixes:
        most, _ = packed.advise_kinds(way.kinds, network, example, size, device.startswith("cuda"))
    rows = [loop.learned_rows(network, len(shard.examples.inputs), size) for shard in shards]
    needed = 2 if loop.normalises_batches(network) else 1
    enough = [place for place, count in enumerate(rows) if min(count, size) >= needed]
    for place, shard in enumerate(shards):
        if place not in enough:
            yield place, Diverged(f"client {shard.client}: batch normalisation needs two rows in a batch, found one")
    if not enough:
        return
    order = sorted(enough, key=lambda place: -local.count(rows[place]))
    size = math.ceil(len(order) / math.ceil(len(order) / most))
    for first in range(0, len(order), size):
        places = order[first : first + size]
        with local_chance(device):
            chunk = _Chunk(network, start_P, way, [shards[place] for place in places], local, example, device)
            for place, found in chunk.train():
                yield places[place], found


@dataclass(frozen=True)
class _Plan:
    """The batches of one client's epoch.

    Attributes:
        until: the step before which the epoch ends.
        rows_SB: for each step and place in the batch, a row's number in the chunk's table.
        share_SB: each row's share of the batch's mean; zero for rows that fill up a short batch.
    """

    until: int
    rows_SB: Tensor
    share_SB: Tensor


class _Chunk:
    """A chunk of clients that train as one stack, in descending order of their numbers of steps."""

    def __init__(
        self,
        network: nn.Module,
        start_P: Floats,
        way: Way,
        shards: Sequence[Shard],
        local: LocalTraining,
        example: Tensor,
        device: str,
    ) -> None:
        self._shards, self._local, self._device, self._mixes = shards, local, device, way.mixes
        self._statistics = statistics_names(network)
        own = {"rates": [way.rates[0]] * len(shards), "written": way.written | self._statistics}
        self._stack = NetworkStack([network] * len(shards), example, device, way=replace(way, **own))
        self._set_own(start_P, own_places(network))
        self._trims = way.mixes and way.chain is None  # the code of a single client, whose batches may be short
        if self._trims:
            seed_global(derive(shards[0].seed, "client"), device)  # for what the network's own code draws
        size = local.recipe.batch_size
        self._learned = [loop.learned_rows(network, len(shard.examples.inputs), size) for shard in shards]
        self._steps = [local.count(rows) for rows in self._learned]
        self._recipes = [local.recipe] * len(shards)
        self._optimizer = OPTIMIZERS[local.recipe.optimizer](self._stack, self._recipes)
        parts = [loop.to_tensors(shard.examples) for shard in shards]
        self._inputs = torch.cat([inputs for inputs, _ in parts]).to(device)
        self._labels = torch.cat([labels for _, labels in parts]).to(device)
        self._rows = [len(labels) for _, labels in parts]
        self._dropout = any(any(rates.values()) for rates in way.rates)
        widest = size if self._dropout else max(self._rows)  # masks depend on the width
        self._width = min(size, widest)
        self._first = np.concatenate([[0], np.cumsum(self._rows)[:-1]])
        pulls = [local.pull + shard.correction.pull for shard in shards]
        self._pull_M1 = torch.tensor(pulls, device=device)[:, None] if any(pulls) else None
        self._start = self._stack.weights.clone() if self._pull_M1 is not None else None
        shifts = [shard.correction.shift_P for shard in shards]
        self._shift = self._lay_out_shifts(shifts) if any(shift is not None for shift in shifts) else None
        self._plans = [_Plan(0, torch.empty(0), torch.empty(0))] * len(shards)

    def _numbers(self) -> list[Tensor]:
        """Return the numbers that `LocalUpdate.weights_P` holds, as views (M, *shape)."""
        statistics = [found for name, found in self._stack.buffers.items() if name in self._statistics]
        return [*self._stack.blocks(self._stack.weights), *statistics]

    def _set_own(self, start_P: Floats, places: Integers) -> None:
        """Give each client that has a batch normalisation of its own that one, in place of the server's."""
        for place, shard in enumerate(self._shards):
            if shard.own is not None:
                own_P = start_P.copy()
                own_P[places] = shard.own
                numbers = self._numbers()
                parts = torch.from_numpy(own_P).split([block[place].numel() for block in numbers])
                for block, part in zip(numbers, parts, strict=True):
                    block[place] = part.view(block.shape[1:])

    def _lay_out_shifts(self, shifts: Sequence[Floats | None]) -> Tensor:
        """Return the clients' vectors in one tensor, laid out like the stack's weights; zero for None."""
        out = torch.zeros_like(self._stack.weights)
        blocks = self._stack.flat(out)
        for place, shift_P in enumerate(shifts):
            if shift_P is not None:
                sizes = [block.shape[1] for block in blocks]  # running statistics, which follow, have no gradient
                parts = torch.tensor(shift_P[: sum(sizes)], device=out.device).split(sizes)
                for block, part in zip(blocks, parts, strict=True):
                    block[place] = part
        return out

    def train(self) -> Iterator[tuple[int, LocalUpdate | Diverged]]:
        started, seconds = time.perf_counter(), 0.0
        going, reached = len(self._shards), 0
        loss_M, rows_M = np.zeros(going), np.zeros(going)
        while going:
            until = self._steps[going - 1]
            with flush_denormals():  # not while the caller has its turn
                for step in range(reached, until):
                    for place in range(going):
                        if step == self._plans[place].until:
                            self._plans[place] = self._epoch(place, step)
                            loss_M[place] = rows_M[place] = 0
                    losses_M, counts_M = self._step(step, going)
                    loss_M[:going] += losses_M
                    rows_M[:going] += counts_M
            staying = sum(count > until for count in self._steps[:going])
            share = seconds + (time.perf_counter() - started) / going
            for place in range(staying, going):
                mean = float(loss_M[place] / max(1, rows_M[place]))
                yield place, self._collect_result(place, mean, share)
            seconds, started = share, time.perf_counter()
            going, reached = staying, until
            if going:
                self._keep(going)

    def _keep(self, going: int) -> None:
        places = range(going)
        for name in ("_start", "_shift"):
            if getattr(self, name) is not None:
                setattr(self, name, self._stack.select_members(getattr(self, name), places))
        if self._pull_M1 is not None:
            self._pull_M1 = self._pull_M1[:going]
        self._optimizer.keep(places, self._recipes[:going])

    def _epoch(self, place: int, step: int) -> _Plan:
        """Return the batches of a client's epoch that begins at this step; rows that fill a short batch count zero."""
        learned, size = self._learned[place], self._local.recipe.batch_size
        steps, width = self._local.per_epoch(learned), self._width
        order_N = loop.order(self._rows[place], self._shards[place].seed, step // steps)[:learned]
        order_N += int(self._first[place])
        rows_SB = torch.full((steps, width), int(self._first[place]))
        share_SB = torch.zeros((steps, width))
        for batch, some in enumerate(order_N.split(size)):
            rows_SB[batch, : len(some)] = some
            share_SB[batch, : len(some)] = 1 / len(some)
        return _Plan(step + steps, rows_SB.to(self._device), share_SB.to(self._device))

    def _step(self, step: int, going: int) -> tuple[Floats, Floats]:
        """Make one step; return every client's sum of losses before the step, and its number of rows in it."""
        places = [(plan, step - plan.until) for plan in self._plans[:going]]
        rows_MB = torch.stack([plan.rows_SB[batch] for plan, batch in places])
        share_MB = torch.stack([plan.share_SB[batch] for plan, batch in places])
        if self._trims:
            rows_MB, share_MB = (numbers[:, share_MB[0] > 0] for numbers in (rows_MB, share_MB))
        stack, shape = self._stack, rows_MB.shape
        inputs = self._inputs.index_select(0, rows_MB.flatten()).unflatten(0, shape)
        labels_M1B = self._labels.index_select(0, rows_MB.flatten()).view(shape).unsqueeze(1)
        masks = Masks([shard.seed for shard in self._shards[:going]], step, self._device)
        if self._mixes and not bool(share_MB.all()):
            masks.there_MN = share_MB > 0
        log_probs_MCB = torch.log_softmax(stack.forward(inputs, masks), 1)
        gradients_MCB = log_probs_MCB.exp()
        gradients_MCB.scatter_add_(1, labels_M1B, -torch.ones_like(labels_M1B, dtype=gradients_MCB.dtype))
        stack.backward(gradients_MCB.mul_(share_MB[:, None]))
        self._correct()
        self._optimizer.schedule(step, 1)
        self._optimizer.step()
        there_MB = share_MB > 0
        losses_MB = -torch.gather(log_probs_MCB, 1, labels_M1B)[:, 0] * there_MB
        return losses_MB.sum(1).double().cpu().numpy(), there_MB.sum(1).cpu().numpy()

    def _correct(self) -> None:
        """Clip the gradients of the loss, then add the pull to the start and the shift of each client's correction."""
        gradients = self._stack.flat(self._stack.gradients)
        if self._local.clip is not None:
            norms_M1 = torch.stack([part.square().sum(1) for part in gradients]).sum(0).sqrt()[:, None]
            factors_M1 = (self._local.clip / norms_M1.clamp(min=1e-12)).clamp(max=1.0)
            for part in gradients:
                part.mul_(factors_M1)
        if self._pull_M1 is not None and self._start is not None:
            weights, start = self._stack.flat(self._stack.weights), self._stack.flat(self._start)
            for part, now, then in zip(gradients, weights, start, strict=True):
                part.addcmul_(now - then, self._pull_M1)
        if self._shift is not None:
            self._stack.gradients.add_(self._shift)

    def _collect_result(self, place: int, loss: float, seconds: float) -> LocalUpdate | Diverged:
        weights_P = torch.cat([block[place].flatten() for block in self._numbers()])
        if not (math.isfinite(loss) and bool(weights_P.isfinite().all())):
            return Diverged(
                f"client {self._shards[place].client}: the loss was {loss} after {self._steps[place]} local steps, "
                f"with learning rate {self._local.recipe.learning_rate:g}"
            )
        steps = self._steps[place]
        rate_sum = steps * self._local.recipe.learning_rate
        return LocalUpdate(weights_P.cpu().numpy(), steps, rate_sum, loss, seconds)
