"""FedDF: distillation on rows that the server has, with or without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt

from distens.distill.protocol import Average, Distillation, Knowledge, Network
from distens.errors import Refused
from distens.records import Floats
from distens.training.context import Context

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Feddf:
    """FedDF: a student of the ensemble's predictions of the server's own rows.

    Lin et al. 2020, "Ensemble Distillation for Robust Model Fusion in Federated Learning" (NeurIPS), algorithm 1: the
    student begins as the mean of the teachers' weights, and mean KL(softmax(A(x)) || softmax(S(x))) is minimised by
    Adam, A the teachers' weighted mean logits and S the student's logits. Labels are not used. We differ: a fixed
    number of epochs and a cosine over them, no early stop on a validation split, which a server of few rows cannot
    spare; and the student begins fresh where architectures differ.

    Attributes:
        epochs: the number of passes over the rows.
        batch_size: rows of a step.
        learning_rate: learning rate of the first epoch.
        average: the kind of mean that A is; `logits` is the paper's.
        start: how the student begins: `fresh`, or with the weighted `mean` of the teachers' weights. None: the mean if
            teachers and student are of one architecture.
    """

    epochs: Annotated[int, Ge(1)] = 50
    batch_size: Annotated[int, Ge(2)] = 128
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    average: Average = "logits"
    start: Literal["fresh", "mean"] | None = None

    data_free: ClassVar[Literal[True]] = True
    needs_proxy: ClassVar[bool] = True

    def distill(
        self, teachers: Sequence[Network], weights_M: Floats, student: Network, server: Knowledge, context: Context
    ) -> Distillation:
        """Train the student; see `DataFree`.

        Returns:
            Besides the student's metrics, `from_mean`: 1 if the student began as the teachers' mean, else 0.

        Raises:
            Refused: the server has no rows; or `start` is `mean`, and architectures differ; or `average` is
                `classwise`, and the server has no counts.
        """
        import torch

        from distens.distill._ensemble import TeacherEnsemble
        from distens.distill._epochs import (
            StudentTrainer,
            batches,
            begin_student,
            cosine_rates,
            cpu_generator,
            run_epochs,
        )
        from distens.distill._teachers import FrozenTeachers
        from distens.distill._teaching import Teaching, towards

        if server.labelled is None or not len(server.labelled.inputs):
            raise Refused(
                "feddf: needs rows of the server's own, found none; kinds that need none: coboost, dense, noise"
            )
        inputs = torch.tensor(np.asarray(server.labelled.inputs, dtype=np.float32)).to(context.device)
        mean = begin_student(self.start, student, teachers, weights_M)

        def rows(epoch: int) -> Iterator[Tensor]:
            chosen = batches(len(inputs), self.batch_size, cpu_generator(context.seed, "order", epoch))
            return (inputs[places.to(context.device)] for places in chosen)

        frozen = FrozenTeachers([teacher.torch_module() for teacher in teachers], context.device)
        ensemble = TeacherEnsemble(self.average, server.counts_MC, context.device)
        pupil = StudentTrainer(student, context, cosine_rates(self.learning_rate, self.epochs), optimizer="adam")
        job = Teaching(pupil, frozen, rows, towards(ensemble, weights_M, 1.0, context.device))
        curves, seconds = run_epochs(job, self.epochs, context, {"kind": "feddf", **asdict(self)})
        return Distillation(
            {**pupil.metrics(self.epochs, curves, seconds), "from_mean": float(mean)}, None, None, curves
        )
