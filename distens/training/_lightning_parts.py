"""Parts of a training by Lightning: the module around a plain network, the order of rows, where checkpoints go."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import CheckpointIO, TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import Sampler

from distens.errors import Refused
from distens.records import State
from distens.training.checkpoint import CheckpointTimer, decode_tree, encode_tree
from distens.training.loop import order
from distens.training.network import parameters
from distens.training.outputs import check_outputs

Loss = Callable[[Tensor, Tensor], Tensor]

CHECKPOINT = "checkpoint"
"""The path of distens' own checkpoint for Lightning; all other paths are those of the module's callbacks."""

FINAL = "distens.final"
"""The key of a checkpoint's final weights, if callbacks or the module changed them at the end of a training."""


class Plain(LightningModule):
    """A LightningModule around a plain network."""

    def __init__(self, network: nn.Module, loss: Loss, learning_rate: float, classes: int | None = None) -> None:
        super().__init__()
        self._classes = classes
        self.network, self._loss, self._learning_rate = network, loss, learning_rate

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        return self._loss(check_outputs(self.network, self.network(inputs), len(inputs), self._classes), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if not parameters(self.network):
            raise Refused(f"{type(self.network).__name__}: has no weights to learn")
        return torch.optim.AdamW(self.parameters(), lr=self._learning_rate)


class Order(Sampler[Tensor]):
    """A sampler that gives the row numbers of each batch of one process; Lightning sets the epoch."""

    def __init__(self, rows: int, batch_size: int, seed: int, rank: int, processes: int) -> None:
        self._rows, self._size, self._seed = rows, batch_size, seed
        self._rank, self._processes = rank, processes
        self._epoch = 0
        full, rest = divmod(rows, batch_size)
        least = 2 * processes if full else processes
        self._count = full + (rest >= least)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Tensor]:
        batches = order(self._rows, self._seed, self._epoch).split(self._size)
        for batch in batches[: self._count]:
            even = len(batch) - len(batch) % self._processes
            yield batch[self._rank : even : self._processes]


class Progress(Protocol):
    """The progress of a training, as its checkpoints keep it; see `distens.training.lightning`."""

    pace: CheckpointTimer
    budget: int | None
    epoch: int
    steps: int
    mean: float | None
    began: int
    ended: bool
    stopped: bool


class StateIO(CheckpointIO):
    """A Lightning plug-in that keeps Lightning's checkpoint as the state in the member's checkpoint.

    At other paths, it writes Lightning's own files for callbacks of the module, and never loads one: they are pickles.
    """

    def __init__(self, watch: Progress, state: State | None, identity: Mapping[str, Any]) -> None:
        self._watch, self._state, self._identity = watch, state, identity
        self._files = TorchCheckpointIO()
        self._last: dict[str, Any] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if path != CHECKPOINT:
            self._files.save_checkpoint(checkpoint, path, storage_options)
            return
        # The module is rebuilt from the settings: its hyperparameters need not be kept, and may be any object.
        kept = {key: value for key, value in checkpoint.items() if not key.startswith(("hyper_", "hparams_"))}
        if self._watch.ended:
            self._last = copy.deepcopy(kept)
        else:
            self._save(kept)

    def finish(self, module: LightningModule) -> None:
        """Save the checkpoint at the end of a budget, with the final weights if the end of training changed them."""
        if self._last is None:
            return
        final, saved = module.state_dict(), self._last["state_dict"]
        same = final.keys() == saved.keys() and all(
            torch.equal(value.cpu(), saved[name].cpu()) for name, value in final.items()
        )
        if not same:
            self._last[FINAL] = final
        self._save(self._last)

    def _save(self, kept: Mapping[str, Any]) -> None:
        watch, pace = self._watch, self._watch.pace
        counts = {"epoch": watch.epoch, "steps": watch.steps, "ended": watch.ended, "stopped": watch.stopped}
        numbers = {**counts, "seconds": pace.seconds(), "loss": watch.mean, "began": watch.began}
        pace.save(encode_tree(kept, {**numbers, "budget": watch.budget, "of": self._identity}))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        if path != CHECKPOINT:
            raise Refused(f"{path}: distens loads no checkpoint of Lightning's, which is a pickle")
        assert self._state is not None
        return decode_tree(self._state)

    def remove_checkpoint(self, path: Any) -> None:
        self._files.remove_checkpoint(path)
