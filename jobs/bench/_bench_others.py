"""The contenders of the training benchmark that need no Ray, each at its fastest documented settings.

A contender takes a job and a clock, starts and stops the clock, and returns the members' accuracies. Missing packages
raise ImportError.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from _bench_clock import Clock
from _bench_tasks import BATCH_SIZE, WEIGHT_DECAY, Job, accuracies, tensors, torch_optimizer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


class Slices(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of rows in memory, in a new order each epoch, as from a DataLoader but without its cost.

    The rows are brought into order once per epoch: less work than once per batch for small rows, the same for images.
    """

    def __init__(self, inputs: Tensor, labels_N: Tensor) -> None:
        self._inputs, self._labels_N = inputs, labels_N

    def __len__(self) -> int:
        return math.ceil(len(self._inputs) / BATCH_SIZE)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order_N = torch.randperm(len(self._inputs), device=self._inputs.device)
        batches, labels = self._inputs[order_N].split(BATCH_SIZE), self._labels_N[order_N].split(BATCH_SIZE)
        yield from zip(batches, labels, strict=True)


def train_plainly(job: Job, rate: float, seed: int, layout: torch.memory_format = torch.preserve_format) -> nn.Module:
    """Train one network with a plain PyTorch loop."""
    torch.manual_seed(seed)
    inputs, labels_N, _ = tensors(job.problem, job.device)
    inputs = inputs.to(memory_format=layout)
    network: Any = job.problem.network().to(job.device)  # torch's type hints lack a network's layout
    network = network.to(memory_format=layout)
    optimizer = job.make_optimizer(network, rate)
    for _ in range(job.epochs):
        for batch, batch_labels_N in Slices(inputs, labels_N):
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(network(batch), batch_labels_N).backward()
            optimizer.step()
    return network


def plain(job: Job, clock: Clock) -> list[float]:
    """Train one network after the other with a plain PyTorch loop."""
    clock.start()
    networks = [train_plainly(job, rate, seed) for rate, seed in zip(job.rates_M, job.seeds_M, strict=True)]
    clock.stop()
    return accuracies(job.problem, networks, job.device)


def plain_channels_last(job: Job, clock: Clock) -> list[float]:
    """Train one network after the other with a plain loop, in the fastest memory layout for convolutions."""
    if job.problem.inputs.ndim != 4:
        raise NotImplementedError("images only")
    members = list(zip(job.rates_M, job.seeds_M, strict=True))
    clock.start()
    networks = [train_plainly(job, rate, seed, torch.channels_last) for rate, seed in members]
    clock.stop()
    return accuracies(job.problem, networks, job.device)


def torchensemble(job: Job, clock: Clock, usual: bool = False) -> list[float]:
    """Train TorchEnsemble's ensemble of independent networks. It takes one learning rate for all of them.

    Args:
        usual: use the DataLoader of its documentation, row by row, instead of the fastest one.
    """
    voting_classifier = importlib.import_module("torchensemble").VotingClassifier
    inputs, labels_N, _ = tensors(job.problem, job.device)
    rate = math.exp(sum(map(math.log, job.rates_M)) / job.members)
    name, options = torch_optimizer(job.optimizer, rate)

    class Network(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*job.problem.network().children())

    with contextlib.redirect_stdout(io.StringIO()):  # TorchEnsemble prints the first batch of every epoch
        torch.manual_seed(job.seeds_M[0])
        clock.start()
        ensemble = voting_classifier(estimator=Network, n_estimators=job.members, cuda=job.device == "cuda")
        ensemble.set_optimizer(name, **options)
        fastest = DataLoader(Slices(inputs, labels_N), batch_size=None)  # `fit` takes only a DataLoader
        ensemble.fit(
            _loader(inputs, labels_N) if usual else fastest, epochs=job.epochs, log_interval=10**9, save_model=False
        )
        clock.stop()
    return accuracies(job.problem, list(ensemble.estimators_), job.device)


def torchensemble_usual(job: Job, clock: Clock) -> list[float]:
    """Train TorchEnsemble's ensemble as its documentation does."""
    return torchensemble(job, clock, usual=True)


def _loader(inputs: Tensor, labels_N: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(inputs, labels_N), batch_size=BATCH_SIZE, shuffle=True)


def lightning_usual(job: Job, clock: Clock) -> list[float]:
    """Train one network after the other with Lightning's Trainer and a DataLoader, without logs and checkpoints."""
    return lightning(job, clock, usual=True)


def lightning(job: Job, clock: Clock, usual: bool = False) -> list[float]:
    """Train one network after the other with Lightning's Trainer, barebones and with the fastest loader.

    Args:
        usual: with an ordinary Trainer and DataLoader instead; logs, checkpoints and progress are off.
    """
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self, network: nn.Module, rate: float) -> None:
            super().__init__()
            self.network, self.rate = network, rate

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            inputs, labels_N = batch
            return functional.cross_entropy(self.network(inputs), labels_N)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return job.make_optimizer(self.network, self.rate)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    inputs, labels_N, _ = tensors(job.problem, job.device)
    networks: list[nn.Module] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clock.start()
        for rate, seed in zip(job.rates_M, job.seeds_M, strict=True):
            torch.manual_seed(seed)
            module = Module(job.problem.network(), rate)
            accelerator = "gpu" if job.device == "cuda" else "cpu"
            off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
            options: dict[str, Any] = dict.fromkeys(off, False) if usual else {"barebones": True}
            trainer = Trainer(max_epochs=job.epochs, accelerator=accelerator, devices=1, **options)
            trainer.fit(module, _loader(inputs, labels_N) if usual else Slices(inputs, labels_N))
            networks.append(module.network)
        clock.stop()
    return accuracies(job.problem, [network.to(job.device) for network in networks], job.device)


def sklearn(job: Job, clock: Clock) -> list[float]:
    """Train one MLPClassifier of scikit-learn after the other, with Adam and an L2 penalty, as it has no AdamW."""
    from sklearn.neural_network import MLPClassifier

    problem = job.problem
    if "hidden" not in problem.model or job.device != "cpu":
        raise NotImplementedError("dense networks on a CPU only")
    fitted = []
    size: Any = BATCH_SIZE  # its type hints allow only `auto`
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning that it stops at max_iter
        clock.start()
        for rate, seed in zip(job.rates_M, job.seeds_M, strict=True):
            network = MLPClassifier(
                hidden_layer_sizes=tuple(problem.model["hidden"]),
                solver="sgd" if job.optimizer == "sgd" else "adam",
                learning_rate_init=rate,
                nesterovs_momentum=False,
                alpha=WEIGHT_DECAY,
                batch_size=size,
                max_iter=job.epochs,
                n_iter_no_change=job.epochs + 1,
                random_state=seed,
            )
            fitted.append(network.fit(problem.inputs, problem.labels_N))
        clock.stop()
    return [float(network.score(problem.held_inputs, problem.held_labels_N)) for network in fitted]
