"""The problems of the training benchmark: three data sets, a network for each, and the same members for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distens import registry, seeding
from distens.data import files
from distens.data.dataset import Dataset, Examples
from distens.records import Floats, Integers
from distens.targets.classes import Classes

BATCH_SIZE = 64
WEIGHT_DECAY = 1e-4
RATES = (5e-4, 2e-3)
IMAGES = 5000
HELD_OUT_IMAGES = 1500


@dataclass(frozen=True)
class Problem:
    """A data set with rows to learn from and rows held out, and the network that learns them.

    Attributes:
        inputs, held_inputs: float32, rows first.
        labels_N, held_labels_N: int64.
        model: as in a config: `{kind: mlp, …}`.
    """

    name: str
    model: dict[str, Any]
    inputs: Floats
    labels_N: Integers
    held_inputs: Floats
    held_labels_N: Integers

    @property
    def classes(self) -> int:
        """Return C."""
        return int(self.labels_N.max()) + 1

    def network(self) -> nn.Module:
        """Return a freshly initialised network, without the flattening if rows are already flat."""
        built: Any = registry.make_plugin("models", self.model, "model").build(self.inputs.shape[1:], self.classes)
        return built[1:] if isinstance(built[0], nn.Flatten) and self.inputs.ndim == 2 else built

    def examples(self) -> Examples:
        """Return the rows to learn from, as a member gets them."""
        return Examples(self.inputs, self.labels_N, self.classes)

    def dataset(self) -> Dataset:
        """Return the rows as a run has them: the held-out rows are three splits."""
        parts = dict(
            zip(("search", "combine", "test"), np.array_split(np.arange(len(self.held_labels_N)), 3), strict=True)
        )
        inputs = {"train": self.inputs} | {split: self.held_inputs[rows] for split, rows in parts.items()}
        labels = {"train": self.labels_N} | {split: self.held_labels_N[rows] for split, rows in parts.items()}
        return Dataset(inputs, labels, Classes(tuple(map(str, range(self.classes)))), self.name)


@dataclass(frozen=True)
class Job:
    """The work of every contender: M members that differ in seed and learning rate."""

    problem: Problem
    members: int
    epochs: int
    optimizer: str
    device: str

    @property
    def rates_M(self) -> list[float]:
        """Return a learning rate per member, log-uniform; the first ones are the same for every M."""
        low, high = np.log(RATES)
        return np.exp(seeding.generator(0, "rates").uniform(low, high, self.members)).tolist()

    @property
    def seeds_M(self) -> list[int]:
        """Return a seed per member."""
        return [seeding.derive(0, "member", m) for m in range(self.members)]

    def settings(self, rate: float) -> dict[str, Any]:
        """Return a member's settings."""
        return {
            "family": "bench",
            "kind": "classifier",
            "model": self.problem.model,
            "optimizer": self.optimizer,
            "learning_rate": rate,
            "weight_decay": WEIGHT_DECAY,
            "epochs": self.epochs,
            "batch_size": BATCH_SIZE,
        }

    def make_optimizer(self, network: nn.Module, rate: float) -> torch.optim.Optimizer:
        """Return torch's optimizer in its fastest form."""
        name, options = torch_optimizer(self.optimizer, rate)
        return getattr(torch.optim, name)(network.parameters(), **options)


def torch_optimizer(optimizer: str, rate: float) -> tuple[str, dict[str, Any]]:
    """Return the name in `torch.optim` and the options."""
    options: dict[str, Any] = {"lr": rate, "weight_decay": WEIGHT_DECAY, "fused": True}
    if optimizer == "sgd":
        options["momentum"] = 0.9
    return {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[optimizer], options


_tensors: dict[tuple[str, str], tuple[Tensor, ...]] = {}


def tensors(problem: Problem, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, labels_N and held-out inputs on the device; they are copied once per process."""
    key = (problem.name, device)
    if key not in _tensors:
        arrays = (problem.inputs, problem.labels_N, problem.held_inputs)
        _tensors[key] = tuple(torch.tensor(array, device=device) for array in arrays)
    inputs, labels_N, held = _tensors[key]
    return inputs, labels_N, held


def accuracy(problem: Problem, network: nn.Module, device: str) -> float:
    """Return a network's accuracy on the held-out rows."""
    network.eval()
    with torch.inference_mode():
        guesses_N = network(tensors(problem, device)[2]).argmax(1).cpu().numpy()
    return float((guesses_N == problem.held_labels_N).mean())


def accuracies(problem: Problem, networks: Sequence[nn.Module], device: str) -> list[float]:
    """Return every network's accuracy on the held-out rows."""
    return [accuracy(problem, network, device) for network in networks]


def _split(inputs: Floats, labels_N: Integers, rows: int) -> tuple[Floats, Integers, Floats, Integers]:
    order = seeding.generator(0, "split").permutation(len(inputs))
    mean, deviation = inputs[order[:rows]].mean(0), inputs[order[:rows]].std(0)
    inputs = ((inputs - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
    labels_N = labels_N.astype(np.int64)
    train, held = order[:rows], order[rows:]
    return inputs[train], labels_N[train], inputs[held], labels_N[held]


def digits() -> Problem:
    """Return scikit-learn's digits: 1,437 rows and 360 held out, an MLP 64-128-128-10."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    return Problem("digits", {"kind": "mlp", "hidden": [128, 128]}, *_split(found.data, found.target, 1437))


def tabular() -> Problem:
    """Return scikit-learn's breast cancer table: 455 rows and 114 held out, an MLP 30-64-64-2."""
    from sklearn.datasets import load_breast_cancer

    found: Any = load_breast_cancer()
    return Problem("tabular", {"kind": "mlp", "hidden": [64, 64]}, *_split(found.data, found.target, 455))


def lenet(folder: str) -> Problem:
    """Return 5,000 training and 1,500 test images of Fashion-MNIST, with LeNet.

    Args:
        folder: the folder of the four idx files.
    """

    def read(part: str, what: str, rows: int) -> Any:
        found = files.find_idx(files.locate(folder), part, what)
        if found is None:
            raise FileNotFoundError(f"{folder}: no idx file of {part} {what}")
        return files.read_idx(found)[:rows]

    parts = []
    for part, rows in (("train", IMAGES), ("t10k", HELD_OUT_IMAGES)):
        pixels = read(part, "images", rows)[:, None].astype(np.float32) / 255
        parts += [(pixels - np.float32(0.286)) / np.float32(0.353), read(part, "labels", rows).astype(np.int64)]
    return Problem("lenet", {"kind": "lenet"}, *parts)
