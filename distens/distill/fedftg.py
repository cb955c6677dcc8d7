"""FedFTG: fine-tuning of a merged model with a conditional generator and teachers weighted by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from distens.distill.protocol import Distillation, Knowledge, Network
from distens.records import Floats
from distens.seeding import derive
from distens.training.context import Context

if TYPE_CHECKING:
    from distens.distill._epochs import StudentTrainer
    from distens.distill._ftg import FineTuning


@dataclass(frozen=True)
class Fedftg:
    """FedFTG: fine-tuning of the global model on made-up rows for which it disagrees with the clients' models.

    Zhang et al. 2022, "Fine-tuning Global Model via Data-Free Knowledge Distillation for Non-IID Federated Learning"
    (CVPR), by its code. With n_k^y rows of class y at client k, labels are drawn in proportion to sum_k n_k^y, and
    client k has the weight a_k^y = n_k^y / sum_j n_j^y for a row of class y. Without counts all classes are equally
    frequent, and a_k^y is the weight given. A round is, `iterations` times, for one batch of noise z and labels y, with
    x = G(z, y) made by the generator, logits S of the global model and f_k of the clients' models, s the softmax:

    - for each of K clients `generator_steps` steps of the generator (Adam) down
      mean_i[a_k^{y_i} (classify CE(f_k(x_i), y_i) - mean_c |S(x_i)_c - f_k(x_i)_c|)]
      + spread / K exp(-mean_ij[mean (z_i - z_j)^2 mean |x_i - x_j|]);
    - `student_steps` steps of the global model (SGD, weight decay 1e-3) down
      -mean_{i,c}[log s(S(x_i))_c sum_k a_k^{y_i} s(f_k(x_i))_c].

    Both rates are multiplied by `decay` every round. We differ: the weights a are applied row by row, where their code
    multiplies the mean of a batch's cross-entropies by the mean of its weights; and gradients are clipped at length 10.
    The generator continues to learn from round to round.

    In one shot the student begins as `start` says, and is fine-tuned for `rounds` rounds with one generator.

    Attributes:
        rounds: the number of rounds in one shot.
        iterations: batches of a round.
        generator_steps: steps of the generator per iteration and client.
        student_steps: steps of the global model per iteration.
        batch_size: rows of a batch.
        width: channels that the generator's last convolution takes; the first one takes twice as many.
        generator_rate: learning rate of the generator in the first round.
        learning_rate: learning rate of the global model in the first round.
        decay: factor of both learning rates after each round.
        classify: weight of the loss that makes rows belong to their labels.
        spread: weight of the loss that makes rows differ from each other.
        start: how the student begins in one shot: `fresh`, or with the weighted `mean` of the teachers' weights. None:
            the mean if teachers and student are of one architecture.
    """

    rounds: Annotated[int, Ge(1)] = 40
    iterations: Annotated[int, Ge(1)] = 10
    generator_steps: Annotated[int, Ge(1)] = 1
    student_steps: Annotated[int, Ge(1)] = 5
    batch_size: Annotated[int, Ge(2)] = 50
    width: Annotated[int, Ge(1)] = 64
    generator_rate: Annotated[float, Gt(0)] = 0.01
    learning_rate: Annotated[float, Gt(0)] = 0.1
    decay: Annotated[float, Gt(0), Le(1)] = 0.998
    classify: Annotated[float, Ge(0)] = 1.0
    spread: Annotated[float, Ge(0)] = 1.0
    start: Literal["fresh", "mean"] | None = None

    data_free: ClassVar[Literal[True]] = True
    needs_proxy: ClassVar[bool] = False

    def distill(
        self, teachers: Sequence[Network], weights_M: Floats, student: Network, server: Knowledge, context: Context
    ) -> Distillation:
        """Train the student; see `DataFree`.

        Returns:
            Besides the student's metrics, `from_mean`: 1 if the student began as the teachers' mean, else 0.

        Raises:
            Refused: `start` is `mean`, and teachers and student differ in their architecture.
        """
        from distens.distill._epochs import begin_student, run_epochs

        mean = begin_student(self.start, student, teachers, weights_M)
        pupil = self._pupil(student, context)
        job = self._job(pupil, teachers, weights_M, server, context)
        curves, seconds = run_epochs(job, self.rounds, context, {"kind": "fedftg", **asdict(self)})
        metrics = {**pupil.metrics(self.rounds, curves, seconds), "from_mean": float(mean)}
        return Distillation(metrics, None, job.example_rows(), curves)

    def refine(
        self,
        student: Network,
        teachers: Sequence[Network],
        server: Knowledge,
        context: Context,
        round: int,
        memory: Mapping[str, Any],
    ) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        """Fine-tune the merged global model in place; the same seed, round and memory give the same bits.

        Args:
            student: the global model.
            teachers: the clients' models of this round, in the order of `server.counts_MC`; without counts their
                weights are equal.
            round: the number of the round, from 0.
            memory: the memory that the round before returned; empty in the first round.

        Returns:
            `generator_loss`, `student_loss` and `seconds`; and the memory: arrays by name.

        Raises:
            Diverged: a loss stopped being finite.
        """
        from distens.distill._epochs import run_epochs

        start = perf_counter()
        weights_M = np.full(len(teachers), 1 / len(teachers))
        alone = Context(
            derive(context.seed, "refine", round), device=context.device, threads=context.threads, gpus=context.gpus
        )
        pupil = self._pupil(student, alone, round)
        job = self._job(pupil, teachers, weights_M, server, alone, round)
        if memory:
            job.load_generator(memory)
        curves, _ = run_epochs(job, 1, alone, {"kind": "fedftg"})
        told = {**{name: values[-1] for name, values in curves.items()}, "seconds": perf_counter() - start}
        return told, job.generator()

    def _pupil(self, student: Network, context: Context, first: int = 0) -> StudentTrainer:
        from distens.distill._epochs import StudentTrainer

        def rates(epoch: int) -> float:
            return self.learning_rate * self.decay ** (first + epoch)

        return StudentTrainer(student, context, rates, weight_decay=1e-3, momentum=0.0)

    def _job(
        self,
        pupil: StudentTrainer,
        teachers: Sequence[Network],
        weights_M: Floats,
        server: Knowledge,
        context: Context,
        first: int = 0,
    ) -> FineTuning:
        from distens.counts import class_shares
        from distens.distill._ftg import FineTuning, FineTuningOptions

        plan = FineTuningOptions(
            self.iterations,
            self.generator_steps,
            self.student_steps,
            self.batch_size,
            self.width,
            self.generator_rate * self.decay**first,
            self.decay,
            self.classify,
            self.spread,
        )
        if server.counts_MC is not None:
            shares_MC, counts_C = class_shares(server.counts_MC), np.sum(server.counts_MC, axis=0)
        else:
            shares_MC = np.repeat(np.asarray(weights_M)[:, None], server.classes, axis=1)
            counts_C = np.ones(server.classes, dtype=np.int64)
        networks = [teacher.torch_module() for teacher in teachers]
        return FineTuning(plan, networks, pupil, shares_MC, counts_C, server, context)
