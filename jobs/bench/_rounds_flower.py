"""Rounds of Flower's simulation on Ray, in an interpreter of its own: one line of JSON.

    python jobs/bench/_rounds_flower.py ASKED.json

It uses Flower's message API as documented, with `run_simulation`, which starts no server processes, unlike `flwr run`;
FedAvg, no evaluation on clients. The app is a module that actors import, so that it is not sent with every message; an
actor keeps its network and each client's rows. Clients that do nothing return what they received, undecoded, and no
process loads torch.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from _rounds_clock import cpu_seconds

ACTORS = 2


@functools.cache
def lenet(classes: int) -> Any:
    """Return the architecture of `distens.models.lenet`."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(6, 16, 5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


@functools.cache
def rows(path: str, mean: float, scale: float) -> Any:
    """Return a client's scaled images and labels."""
    import torch

    with np.load(path) as found:
        images, labels = found["x"], found["y"]
    inputs = (images[:, None].astype(np.float32) - mean) * scale
    return torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels)


def train(message: Any, context: Any) -> Any:
    """Answer one message."""
    from flwr.app import (  # pyright: ignore[reportMissingImports]
        ArrayRecord,
        Message,
        MetricRecord,
        RecordDict,
    )

    asked = json.loads(message.content["config"]["asked"])
    place = context.node_config["partition-id"]
    arrays, loss = message.content["arrays"], 0.0
    if asked["train"] is not None:
        state, loss = learn(asked["train"], place, arrays)
        arrays = ArrayRecord(state)
    metrics = MetricRecord({"num-examples": asked["rows"][place], "loss": loss})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def learn(asked: dict[str, Any], place: int, arrays: Any) -> tuple[Any, float]:
    """Train for one epoch; return the weights, and the mean loss before each step."""
    import torch

    module = lenet(asked["classes"])
    module.load_state_dict(arrays.to_torch_state_dict())
    inputs, labels = rows(f"{asked['folder']}/{place}.npz", asked["mean"], asked["scale"])
    optimizer = torch.optim.SGD(module.parameters(), lr=asked["learning_rate"])
    total = torch.zeros(())
    for some in torch.randperm(len(labels)).split(asked["batch_size"]):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(inputs[some]), labels[some])
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(some)
    return module.state_dict(), float(total) / len(labels)


def first(asked: dict[str, Any]) -> Any:
    """Return the first weights."""
    from flwr.app import ArrayRecord  # pyright: ignore[reportMissingImports]

    if asked["train"] is not None:
        return ArrayRecord(lenet(asked["train"]["classes"]).state_dict())
    rng = np.random.default_rng(0)
    return ArrayRecord([rng.random(shape, dtype=np.float32) for shape in asked["shapes"]])


def main(path: str) -> None:
    """Carry out all rounds and print the time at which each of them ended."""
    import _rounds_flower as app
    from flwr.app import ConfigRecord, MetricRecord  # pyright: ignore[reportMissingImports]
    from flwr.clientapp import ClientApp  # pyright: ignore[reportMissingImports]
    from flwr.serverapp import ServerApp  # pyright: ignore[reportMissingImports]
    from flwr.serverapp.strategy import FedAvg  # pyright: ignore[reportMissingImports]
    from flwr.simulation import run_simulation  # pyright: ignore[reportMissingImports]

    text = Path(path).read_text()
    asked = json.loads(text)
    ended: list[float] = []
    spent: list[float] = []
    clients: list[int] = []
    losses: list[float] = []

    def counted(contents: Sequence[Any], key: str) -> Any:
        metrics = [content["metrics"] for content in contents]
        clients.append(len(metrics))
        losses.append(float(np.average([m["loss"] for m in metrics], weights=[m[key] for m in metrics])))
        return MetricRecord({"loss": losses[-1]})

    def noted(number: int, arrays: Any) -> None:
        if number:
            ended.append(time.time())
        if number == 1:
            spent.append(cpu_seconds())

    client_app, server_app = ClientApp(), ServerApp()
    client_app.train()(app.train)

    @server_app.main()
    def serve(grid: Any, context: Any) -> None:
        strategy = FedAvg(
            fraction_evaluate=0.0,
            min_train_nodes=asked["clients"],
            min_available_nodes=asked["clients"],
            train_metrics_aggr_fn=counted,
        )
        config = ConfigRecord({"asked": json.dumps({"train": asked["train"], "rows": asked["rows"]})})
        strategy.start(grid, first(asked), num_rounds=asked["rounds"], train_config=config, evaluate_fn=noted)

    backend = {
        "init_args": {"num_cpus": ACTORS, "include_dashboard": False, "log_to_driver": False},
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }
    run_simulation(server_app, client_app, num_supernodes=asked["clients"], backend_config=backend)
    versions = {name: version(name) for name in ("flwr", "ray", "numpy", "torch")}
    found = {"ended": ended, "cpu": spent[0], "clients": clients, "losses": losses, "versions": versions}
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
