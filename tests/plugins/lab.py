"""One plug-in of each family, as a user's own package would have them: `kind: plugins.lab:Corners`, …"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import nn

from distens import probabilities
from distens.data.dataset import Examples
from distens.distill.protocol import Distillation
from distens.merge.protocol import Merged
from distens.partition.protocol import ColumnReader
from distens.records import State
from distens.roles.ensemble import Ensemble
from distens.runtime.inline import Inline
from distens.schedule.protocol import Decision, Start
from distens.targets.classes import Classes
from distens.tracking.memory import Memory


@dataclass(frozen=True)
class Corners:
    """The corners of the space, in turn."""

    first: int = 0

    def propose(self, history, space, count, rng):
        corners = list(space.corners())
        done = self.first + len(history.finished) + len(history.failed) + len(history.pending)
        return [corners[(done + i) % len(corners)] for i in range(count)]


@dataclass(frozen=True)
class Asks(Corners):
    """Looks at predictions; its options are called as some of `Bayes`, and are others."""

    initial: str = "none"
    explore: tuple[int, ...] = ()

    def propose(self, history, space, count, rng):
        for entry in history.finished:
            history.predictions(entry.task.id)
        return super().propose(history, space, count, rng)


@dataclass(frozen=True)
class Few:
    """As many members as it says itself."""

    count: Annotated[int, Ge(1)] = 4

    def planned(self, lengths):
        return self

    def total(self, members):
        return self.count

    def decide(self, history):
        return Decision(start=Start())

    def standing(self, history):
        return history.finished


@dataclass(frozen=True)
class Pair:
    """The two best members; the best one's weight is an option."""

    weight: float = 0.75

    def select(self, probs_MNC, labels_N, metric="nll", target=None, importance_N=None):
        order = np.argsort(
            [probabilities.class_metrics(probs_NC, labels_N)[metric] for probs_NC in probs_MNC], kind="stable"
        )
        weights_M = np.zeros(len(order))
        weights_M[order[0]] = self.weight
        weights_M[order[1:2]] = 1 - self.weight
        return weights_M / weights_M.sum()


@dataclass(frozen=True)
class Grades(Classes):
    """Classes by another name."""


@dataclass(frozen=True)
class Median:
    def fit(self, probs_MNC, labels_N, weights_M, target=None, inputs_N=None):
        return State({})

    def combine(self, probs_MNC, state, target=None, inputs_N=None):
        probs_NC = np.median(np.asarray(probs_MNC, dtype=float), axis=0)
        return probs_NC / probs_NC.sum(axis=1, keepdims=True)


@dataclass
class Prior:
    """Says how frequent classes are, whatever the row."""

    smoothing: Annotated[float, Gt(0)] = 1.0

    def fit(self, examples, context):
        counts_C = np.bincount(examples.targets, minlength=examples.classes) + self.smoothing
        self._probs_C = (counts_C / counts_C.sum()).astype(np.float32)
        return {"parameters": examples.classes, "seconds": 0.001}

    def predict(self, inputs):
        return np.tile(self._probs_C, (len(inputs), 1))

    def state(self):
        return State({"probs": self._probs_C})

    def load(self, state):
        self._probs_C = state.arrays["probs"]


@dataclass(frozen=True)
class Wide:
    """One hidden layer."""

    width: Annotated[int, Ge(1)] = 8

    def build(self, input_shape, classes):
        inputs = int(np.prod(input_shape))
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, self.width), nn.ReLU(), nn.Linear(self.width, classes))

    def widened(self, factor):
        return Wide(max(1, round(factor * self.width)))


@dataclass(frozen=True)
class Squared:
    """The Brier score."""

    times: float = 1.0

    def loss(self, logits_NC, targets):
        if targets.ndim == 1:
            targets = nn.functional.one_hot(targets, logits_NC.shape[1])
        return self.times * (torch.softmax(logits_NC, 1) - targets).square().sum(dim=1).mean()


@dataclass(frozen=True)
class Teach:
    """A student learns the teachers' weighted mean, softened by nothing."""

    growth: ClassVar[int] = 1

    def distill(self, teachers, weights_M, student, examples, context):
        soft_NC = sum(w * t.predict(examples.inputs) for w, t in zip(weights_M, teachers, strict=True))
        return student.fit(Examples(examples.inputs, soft_NC.astype(np.float32), examples.classes), context)


@dataclass(frozen=True)
class Echo:
    """A student that is the first teacher."""

    data_free: ClassVar[Literal[True]] = True
    needs_proxy: ClassVar[bool] = False

    def distill(self, teachers, weights_M, student, server, context):
        first = teachers[0].torch_module()
        student.torch_module().load_state_dict(first.state_dict())
        return Distillation({"parameters": sum(p.numel() for p in first.parameters()), "seconds": 0.001})


@dataclass(frozen=True)
class Step:
    """A share of the way to the mean."""

    share: float = 0.5

    def merge(self, round):
        mean_P = np.mean([update.weights_P for update in round.updates], axis=0)
        return Merged((round.start_P + self.share * (mean_P - round.start_P)).astype(np.float32))


@dataclass(frozen=True)
class Dealt:
    """Rows are dealt out, one to each client in turn."""

    def divide(self, labels_N, classes, clients, rng, column: ColumnReader):
        return {f"c{k}": np.arange(k, len(labels_N), clients) for k in range(clients)}


@dataclass
class Here(Inline):
    """Notes which tasks it was given."""

    note: str = ""

    def run(self, packs):
        def noted():
            for pack in packs:
                with open(self.note, "a") as file:
                    file.write("".join(f"{task.id}\n" for task in pack))
                yield pack

        yield from super().run(noted())


@dataclass
class Diary(Memory):
    """Writes down what a run is, and how it ended."""

    file: str = ""

    def start(self, run):
        super().start(run)
        Path(self.file).write_text(json.dumps(run.config))

    def finish(self, final, status):
        return [f"{status}: written to {self.file}"]


@dataclass(frozen=True)
class Couple(Ensemble):
    """An ensemble under another name."""

    def size(self, identity):
        return "a couple"


@dataclass(frozen=True)
class Steadfast(Couple):
    """One that follows no change."""

    follow = None


@dataclass(frozen=True)
class Missed:
    """The share of rows whose probability of the true class is below a level."""

    level: float = 0.5

    title: ClassVar[str] = "missed"
    mode: ClassVar[Literal["min", "max"]] = "min"

    def value(self, predictions_NK, targets_N):
        return float((predictions_NK[np.arange(len(targets_N)), targets_N] < self.level).mean())
