"""DENSE: distillation on made-up rows that the ensemble is sure of and the student gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt

from distens.distill.protocol import Average, Distillation, Knowledge, Network
from distens.records import Floats
from distens.training.context import Context


@dataclass(frozen=True)
class Dense:
    """DENSE: a student of made-up rows for which it does not yet predict what the ensemble predicts.

    Zhang et al. 2022, "DENSE: Data-Free One-Shot Federated Learning" (NeurIPS), with the settings that Co-Boosting's
    code compares itself to. With A the teachers' weighted mean logits (`average: logits`), S the student's logits and
    KL_T(S, A) = T^2 KL(softmax(A / T) || softmax(S / T)), each epoch a fresh generator and its noise learn for some
    steps to make one batch x of random labels y, minimising
    CE(A(x), y) - mean[1(argmax S(x) differs from argmax A(x)) KL_3(S(x), A(x))]; the x of the smallest loss joins those
    made before, and the student passes once over all, minimising mean KL_T(S(x), A(x)) (SGD, momentum 0.9, weight decay
    1e-4, a cosine over the epochs). We differ: by default the mean is by class, with T = 1; there is no
    batch-normalisation term, for our networks have no such statistics; and images are not cropped or mirrored.

    Attributes:
        epochs: the number of epochs, each of which makes up one batch.
        batch_size: rows of a made-up batch, and of every step.
        generator_steps: steps of the generator in an epoch.
        width: channels that the generator's last convolution takes; the first one takes twice as many.
        generator_rate: learning rate of the generator (Adam).
        learning_rate: learning rate of the student in the first epoch.
        average: the kind of mean that A is; `logits` is the papers'.
        temperature: T. None: 4 with `average: logits`, as in the papers, else 1.
        pool: the largest number of rows that are kept; the oldest leave first.
        start: how the student begins: `fresh`, or with the weighted `mean` of the teachers' weights, as in the authors'
            code.
    """

    epochs: Annotated[int, Ge(1)] = 200
    batch_size: Annotated[int, Ge(2)] = 128
    generator_steps: Annotated[int, Ge(1)] = 30
    width: Annotated[int, Ge(1)] = 64
    generator_rate: Annotated[float, Gt(0)] = 1e-3
    learning_rate: Annotated[float, Gt(0)] = 0.01
    average: Average = "classwise"
    temperature: Annotated[float, Gt(0)] | None = None
    pool: Annotated[int, Ge(2)] = 25_600
    start: Literal["fresh", "mean"] = "fresh"

    data_free: ClassVar[Literal[True]] = True
    needs_proxy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.pool < self.batch_size:
            raise ValueError(f"pool: must hold a batch of {self.batch_size} rows, found {self.pool}")

    def distill(
        self, teachers: Sequence[Network], weights_M: Floats, student: Network, server: Knowledge, context: Context
    ) -> Distillation:
        """Train the student; see `DataFree`.

        Raises:
            Refused: `start` is `mean`, and teachers and student differ in their architecture; or `average` is
                `classwise`, and the server has no counts.
        """
        import torch

        from distens.distill._ensemble import TeacherEnsemble, temperature
        from distens.distill._epochs import StudentTrainer, begin_student, cosine_rates, run_epochs
        from distens.distill._synthesis import Synthesis, SynthesisOptions
        from distens.distill._teachers import FrozenTeachers
        from distens.distill._weighing import EnsembleWeights

        begin_student(self.start, student, teachers, weights_M)
        plan = SynthesisOptions(
            self.batch_size,
            self.generator_steps,
            self.width,
            self.generator_rate,
            temperature(self.temperature, self.average),
            self.pool,
            hard=False,
            masked=True,
            perturbation=0.0,
        )
        frozen = FrozenTeachers([teacher.torch_module() for teacher in teachers], context.device)
        pupil = StudentTrainer(student, context, cosine_rates(self.learning_rate, self.epochs))
        ensemble = TeacherEnsemble(self.average, server.counts_MC, context.device)
        weighing = EnsembleWeights(
            torch.tensor(np.asarray(weights_M), dtype=torch.float32).to(context.device), ensemble
        )
        job = Synthesis(plan, frozen, pupil, weighing, server, context)
        curves, seconds = run_epochs(job, self.epochs, context, {"kind": "dense", **asdict(self)})
        return Distillation(pupil.metrics(self.epochs, curves, seconds), None, job.pool.example_rows(), curves)
