"""A client that sends what it should not, dies, or dawdles, by its name."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from distens.members.client import Client


@dataclass
class Liar(Client):
    """Attributes:
    does: client -> `nan`, `shape`, `thousand`, `flip`, `raise`; `wait`, in the first round; `die FILE`, once, where
        FILE is not there; or `threads FILE`, where it notes how many it has.
    """

    does: Mapping[str, str] = field(default_factory=dict)

    def train(self, start_P, shards, round, device="cpu"):
        for shard in shards:
            what, _, note = self.does.get(shard.client, "").partition(" ")
            if what == "die" and not Path(note).exists():
                Path(note).write_text(f"{os.getpid()}")
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "threads":
                import torch

                Path(note).write_text(f"{torch.get_num_threads()}")
            if what == "wait" and round == 0:
                time.sleep(60)
            if what == "raise":
                raise RuntimeError("this client is broken")
        for place, found in super().train(start_P, shards, round, device):
            what = self.does.get(shards[place].client, "")
            step_P = found.weights_P - start_P
            lies = {
                "nan": lambda f=found: f.weights_P * np.float32(np.nan),
                "shape": lambda f=found: f.weights_P[:-1],
                "thousand": lambda s=step_P: start_P + 1000 * s,
                "flip": lambda s=step_P: start_P - s,
            }
            yield place, replace(found, weights_P=lies[what]()) if what in lies else found
