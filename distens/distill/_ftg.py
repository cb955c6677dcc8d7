"""FedFTG's training (see `distens.distill.fedftg`): a generator against the student, teachers weighted by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distens.distill import _generator
from distens.distill._epochs import MAX_GRADIENT_NORM, StudentTrainer, cpu_generator
from distens.distill._teachers import FrozenTeachers
from distens.distill.protocol import Knowledge
from distens.records import Floats, Integers
from distens.seeding import derive
from distens.training.context import Context


@dataclass(frozen=True)
class FineTuningOptions:
    """The options of `Fedftg` that fine-tuning needs; `generator_rate` is that of its first round."""

    iterations: int
    generator_steps: int
    student_steps: int
    batch_size: int
    width: int
    generator_rate: float
    decay: float
    classify: float
    spread: float


class FineTuning:
    """The fine-tuning of a student: a `EpochLoop` (see `distens.distill._epochs`) whose epoch is one round.

    Args:
        shares_MC: the weight of each teacher for rows of each class.
        counts_C: rows are made of each class in proportion to these counts.
    """

    def __init__(
        self,
        plan: FineTuningOptions,
        teachers: Sequence[nn.Module],
        pupil: StudentTrainer,
        shares_MC: Floats,
        counts_C: Integers,
        server: Knowledge,
        context: Context,
    ) -> None:
        self._plan, self._pupil, self._counts_C, self._context = plan, pupil, counts_C, context
        self._all = FrozenTeachers(teachers, context.device)
        self._each = [FrozenTeachers([teacher], context.device) for teacher in teachers]
        self._shares_MC = torch.tensor(shares_MC, dtype=torch.float32).to(context.device)
        self._range = _generator.InputBounds(server.low, server.high, server.input_shape, context.device)
        seed = derive(context.seed, "generator")
        self._made = _generator.make_generator(server.input_shape, plan.width, seed, context.device, server.classes)
        self._optimizer = torch.optim.Adam(self._made.parameters(), lr=plan.generator_rate)

    def epoch(self, number: int) -> Mapping[str, float]:
        """Train for one round; return the mean losses of the generator and the student."""
        plan, rng = self._plan, cpu_generator(self._context.seed, "fine-tuning", number)
        for group in self._optimizer.param_groups:
            group["lr"] = plan.generator_rate * plan.decay**number
        self._pupil.begin(number)
        labels = labels_in_proportion(self._counts_C, plan.iterations * plan.batch_size)
        labels = torch.tensor(labels)[torch.randperm(len(labels), generator=rng)]
        made_losses = []
        for labels_N in labels.to(self._context.device).split(plan.batch_size):
            noise = torch.randn((len(labels_N), _generator.NOISE), generator=rng).to(self._context.device)
            student = FrozenTeachers([self._pupil.network], self._context.device)
            for _ in range(plan.generator_steps):
                made_losses += [self._step_generator(k, student, noise, labels_N) for k in range(len(self._each))]
            self._teach(noise, labels_N)
        return {"generator_loss": torch.stack(made_losses).mean().item(), "student_loss": self._pupil.loss()}

    def _step_generator(self, place: int, student: FrozenTeachers, noise: Tensor, labels_N: Tensor) -> Tensor:
        """Make one step of the generator against one teacher, and return its loss."""
        plan, shares_N = self._plan, self._shares_MC[place, labels_N]
        inputs = self._range.scaled(self._made(noise, labels_N))
        teacher_NC = self._each[place].logits(inputs)[0]
        loss = generator_loss(student.logits(inputs)[0], teacher_NC, labels_N, shares_N, plan.classify)
        loss = loss + plan.spread / len(self._each) * similarity_loss(noise, inputs)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._made.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        return loss.detach()

    def _teach(self, noise: Tensor, labels_N: Tensor) -> None:
        with torch.no_grad():
            inputs = self._range.scaled(self._made(noise, labels_N))
            said_MNC = self._all.logits(inputs).softmax(dim=2)
            target_NC = torch.einsum("mn,mnc->nc", self._shares_MC[:, labels_N], said_MNC)
        for _ in range(self._plan.student_steps):
            self._pupil.learn(inputs, lambda logits_NC: -(target_NC * logits_NC.log_softmax(dim=1)).mean())

    def example_rows(self, most: int = 64) -> Any:
        """Return `most` rows that the generator makes now, for people to look at."""
        rng = cpu_generator(self._context.seed, "some")
        labels_N = torch.tensor(labels_in_proportion(self._counts_C, most)).to(self._context.device)
        noise = torch.randn((most, _generator.NOISE), generator=rng).to(self._context.device)
        with torch.no_grad():
            return self._range.scaled(self._made(noise, labels_N)).cpu().numpy()

    def generator(self) -> dict[str, Any]:
        """Return the generator and its optimizer as arrays by name, for the next round."""
        arrays = {f"made/{name}": tensor for name, tensor in self._made.state_dict().items()}
        for place, moments in self._optimizer.state_dict()["state"].items():
            arrays |= {f"moments/{place}/{name}": tensor for name, tensor in moments.items()}
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in arrays.items()}

    def load_generator(self, generator: Mapping[str, Any]) -> None:
        """Continue with the generator and optimizer that `generator` returned in an earlier round."""
        moments: dict[int, dict[str, Tensor]] = {}
        made: dict[str, Tensor] = {}
        for name, array in generator.items():
            kind, _, rest = name.partition("/")
            if kind == "made":
                made[rest] = torch.tensor(array)
            else:
                moments.setdefault(int(rest.partition("/")[0]), {})[rest.partition("/")[2]] = torch.tensor(array)
        self._load_generator_state(made, moments)

    def _load_generator_state(self, made: Mapping[str, Tensor], moments: Mapping[int, Any]) -> None:
        self._made.load_state_dict(made)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def state(self) -> Any:
        """Return the student, the generator and its optimizer's moments, as a tree for a checkpoint."""
        moments = self._optimizer.state_dict()["state"]
        return {"pupil": self._pupil.state(), "made": self._made.state_dict(), "moments": moments}

    def load(self, tree: Any) -> None:
        """Restore a state that `state` returned."""
        self._pupil.load(tree["pupil"])
        self._load_generator_state(tree["made"], tree["moments"])


def labels_in_proportion(counts_C: Integers, wanted: int) -> Integers:
    """Return `wanted` labels, ascending, in proportion to the counts.

    Shares are rounded down; the labels still missing go to the largest remainders, the first of equal ones.
    """
    shares_C = wanted * np.asarray(counts_C, dtype=np.float64) / np.sum(counts_C)
    found_C = np.floor(shares_C + 1e-9).astype(np.int64)
    order = np.argsort(found_C - shares_C, kind="stable")
    found_C[order[: wanted - found_C.sum()]] += 1
    return np.repeat(np.arange(len(found_C)), found_C)


def generator_loss(
    student_NC: Tensor, teacher_NC: Tensor, labels_N: Tensor, shares_N: Tensor, classify: float
) -> Tensor:
    """Return mean_i[a_i (classify CE(f(x_i), y_i) - mean_c |S(x_i)_c - f(x_i)_c|)], a_i the weight of row i."""
    apart_N = (student_NC - teacher_NC).abs().mean(dim=1)
    fits_N = functional.cross_entropy(teacher_NC, labels_N, reduction="none")
    return (shares_N * (classify * fits_N - apart_N)).mean()


def similarity_loss(noise: Tensor, inputs: Tensor) -> Tensor:
    """Return exp(-mean_ij[mean (z_i - z_j)^2 mean |x_i - x_j|]): 1 where all rows are the same."""
    rows = inputs.flatten(1)
    noises_NN = (noise[:, None] - noise).square().mean(dim=2)
    inputs_NN = (rows[:, None] - rows).abs().mean(dim=2)
    return (-(noises_NN * inputs_NN).mean()).exp()
