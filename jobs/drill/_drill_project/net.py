"""A user's network that counts its training steps, and has a fault on request.

Both use the folder that DRILL_FOLDER names. `steps/<process>` grows by a byte a step. The first network that finds
`<what>-any` renames it to its own `<what>-<mark>`, and then has that fault, in this and in each further attempt.
"""

import os
import time
from pathlib import Path

import torch
from torch import nn

MOST_GIB = 6.0


def allocate(found: Path, logits: torch.Tensor) -> torch.Tensor:
    """Allocate memory until the process is killed; only once."""
    found.unlink()
    held = []
    for _ in range(round(MOST_GIB * 16)):
        held.append(torch.ones(2**24))  # 64 MiB
        time.sleep(0.05)
    raise RuntimeError(f"{MOST_GIB} GiB were allocated without an error")


def sleep(found: Path, logits: torch.Tensor) -> torch.Tensor:
    """Never return."""
    while True:
        time.sleep(60)


def diverge(found: Path, logits: torch.Tensor) -> torch.Tensor:
    """Return NaN."""
    return logits * float("nan")


def crash(found: Path, logits: torch.Tensor) -> torch.Tensor:
    """Raise an error."""
    return logits / (1 // 0)


ILLS = {"memory": allocate, "hang": sleep, "diverge": diverge, "crash": crash}


class Net(nn.Module):
    """A network with one hidden layer; `mark` only names the member."""

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, hidden: int = 32, dropout: float = 0.0, mark: float = 0.0
    ) -> None:
        super().__init__()
        features = 1
        for size in input_shape:
            features *= size
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )
        self.mark = mark

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits_NC."""
        logits = self.layers(inputs.flatten(1))
        return self._stepped(logits) if self.training and "DRILL_FOLDER" in os.environ else logits

    def _stepped(self, logits: torch.Tensor) -> torch.Tensor:
        folder = Path(os.environ["DRILL_FOLDER"])
        with open(folder / "steps" / str(os.getpid()), "ab") as steps:
            steps.write(b".")
        for name in os.listdir(folder):
            what, _, whose = name.partition("-")
            found = folder / f"{what}-{self.mark}"
            if whose == "any":
                try:
                    os.rename(folder / name, found)
                except FileNotFoundError:  # another network was first
                    continue
            elif whose != str(self.mark):
                continue
            logits = ILLS[what](found, logits)
        return logits
