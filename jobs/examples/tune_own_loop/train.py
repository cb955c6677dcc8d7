"""Ray Tune's first tutorial with a training loop of one's own; two of its lines are changed for an ensemble at the end.

python jobs/examples/tune_own_loop/train.py            # 16 trials of 10 epochs, 24 s on two cores
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from nets import ConvNet
from ray import tune
from torch import optim
from torch.utils.data import DataLoader, TensorDataset

import distens.tune

CONFIG = Path(__file__).with_name("config.yaml")


def loader(data, split, shuffle=False):
    """Return the batches of a split."""
    rows = TensorDataset(torch.tensor(data.inputs[split]), torch.tensor(data.targets[split]))
    return DataLoader(rows, batch_size=64, shuffle=shuffle)


def train_func(model, optimizer, train_loader):
    """Train for one epoch."""
    model.train()
    for data, target in train_loader:
        optimizer.zero_grad()
        F.nll_loss(model(data), target).backward()
        optimizer.step()


def test_func(model, test_loader):
    """Return the accuracy."""
    model.eval()
    with torch.no_grad():
        right = [(model(data).argmax(dim=1) == target).float() for data, target in test_loader]
    return float(torch.cat(right).mean())


def train_digits(config):
    """Train one network; its accuracy is reported after every epoch."""
    data = distens.load_data(CONFIG)  # changed: the tutorial loads MNIST
    train_loader, test_loader = loader(data, "train", shuffle=True), loader(data, "search")
    model = ConvNet()
    optimizer = optim.SGD(model.parameters(), lr=config["lr"], momentum=config["momentum"])
    for _ in range(10):
        train_func(model, optimizer, train_loader)
        acc = test_func(model, test_loader)
        distens.tune.report({"mean_accuracy": acc}, network=model, data=data)  # changed: tune.report({…})


search_space = {"lr": tune.loguniform(1e-3, 1e0), "momentum": tune.uniform(0.1, 0.9)}

if __name__ == "__main__":
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    tuner = tune.Tuner(
        train_digits,
        param_space=search_space,
        tune_config=tune.TuneConfig(metric="mean_accuracy", mode="max", num_samples=trials, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(Path("runs/tune").absolute()), verbose=0),
    )
    results = tuner.fit()
    print("best of Tune:", results.get_best_result().config)

    result = distens.tune.ensemble(results, CONFIG, overwrite=True)  # added
    print(
        *(f"{name}: accuracy {row['accuracy']:.4f}, NLL {row['nll']:.4f}" for name, row in result.rows.items()),
        sep="\n",
    )
    print(*result.verdict, sep="\n")
