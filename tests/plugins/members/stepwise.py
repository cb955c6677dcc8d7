"""A kind that can be trained in parts and learns nothing: better with each epoch, until it diverges."""

from dataclasses import dataclass

import numpy as np

from distens.errors import Diverged
from distens.records import State


@dataclass
class Stepwise:
    rate: float = 0.5
    fails_at: int = 99
    epochs: int = 9

    def __post_init__(self):
        self._classes, self._epoch = 0, 0

    def last_epoch(self):
        return None

    def fit(self, examples, context):
        self._classes, self._epoch = examples.classes, context.until(self.epochs)
        if self._epoch >= self.fails_at:
            raise Diverged(f"the loss was nan in epoch {self.fails_at}")
        return {"parameters": 1, "epochs": self._epoch}

    def predict(self, inputs):
        probs_C = np.exp(self.rate * np.arange(self._classes) / (1 + self._epoch))
        return np.tile(probs_C / probs_C.sum(), (len(inputs), 1)).astype(np.float32)

    def state(self):
        return State({"numbers": np.array([self._classes, self._epoch])})

    def load(self, state):
        self._classes, self._epoch = map(int, state.arrays["numbers"])
