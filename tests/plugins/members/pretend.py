"""A kind that can be packed, learns nothing, notes what was asked of it, and misbehaves on request."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from distens.errors import Diverged, Refused, StorageFailed
from distens.records import State


@dataclass
class Pretend:
    varies_in_pack: ClassVar[tuple[str, ...]] = ("rate", "does")

    notes: str
    rate: float = 1.0
    width: int = 1
    does: str = "well"

    def __post_init__(self):
        self._classes = 0

    def fit(self, examples, context):
        self._note(f"alone {context.seed}")
        return self._fit(examples, context, 1)

    @classmethod
    def fit_pack(cls, members, examples, contexts):
        members[0]._note("pack " + " ".join(str(context.seed) for context in contexts))
        for place, (member, context) in enumerate(zip(members, contexts, strict=True)):
            try:
                yield place, member._fit(examples, context, len(members))
            except Diverged as error:
                yield place, error

    def _fit(self, examples, context, together):
        if self.does == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "raise":
            raise RuntimeError("this one is broken")
        if self.does == "refuse":
            raise Refused("not these settings")
        if self.does == "memory" and together > 1:
            raise MemoryError("too many")
        if self.does == "no_room" and not Path(self.notes).with_name("go").exists():
            raise MemoryError("not now")
        if self.does == "diverge":
            raise Diverged("the loss was nan")
        while self.does in ("wait", "full") and not Path(self.notes).with_name("go").exists():
            time.sleep(0.02)
        if self.does == "full once" and not (go := Path(self.notes).with_name("go")).exists():
            go.touch()
            raise StorageFailed("the disk is full")
        if self.does == "full":
            raise StorageFailed("the disk is full")
        self._classes = examples.classes
        self._note(f"trained {context.seed}")
        return {"parameters": self.width, "seconds": 0.5}

    def _note(self, text):
        with open(self.notes, "a") as out:
            out.write(f"{text}\n")

    def predict(self, inputs):
        probs_C = np.exp(self.rate * np.arange(self._classes))
        return np.tile(probs_C / probs_C.sum(), (len(inputs), 1)).astype(np.float32)

    def state(self):
        return State({"classes": np.array([self._classes])})

    def load(self, state):
        self._classes = int(state.arrays["classes"][0])

    def pack_advice(self, input_shape, classes, gpu):
        return 1, "nothing is gained"
