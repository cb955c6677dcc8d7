"""Distillation on noise, with neither data nor a generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from distens.distill.protocol import Average, Distillation, Knowledge, Network
from distens.records import Floats
from distens.training.context import Context

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Noise: a student of the ensemble's predictions of rows drawn uniformly from the range of inputs.

    It is the baseline that shows the worth of a generator. Every number of a row is drawn independently, and every step
    has fresh rows. With A the logits of the weighted teachers together and S the student's logits,
    mean KL_T(S(x), A(x)) = T^2 KL(softmax(A / T) || softmax(S / T)) is minimised (SGD, momentum 0.9, weight decay 1e-4,
    a cosine over the epochs).

    Attributes:
        epochs: the number of epochs, each of `steps` batches.
        steps: steps of an epoch.
        batch_size: rows of a step.
        learning_rate: learning rate of the first epoch.
        average: the kind of mean that A is; `logits` is the papers'.
        temperature: T. None: 4 with `average: logits`, as in the papers, else 1.
    """

    epochs: Annotated[int, Ge(1)] = 50
    steps: Annotated[int, Ge(1)] = 100
    batch_size: Annotated[int, Ge(2)] = 128
    learning_rate: Annotated[float, Gt(0)] = 0.01
    average: Average = "classwise"
    temperature: Annotated[float, Gt(0)] | None = None

    data_free: ClassVar[Literal[True]] = True
    needs_proxy: ClassVar[bool] = False

    def distill(
        self, teachers: Sequence[Network], weights_M: Floats, student: Network, server: Knowledge, context: Context
    ) -> Distillation:
        """Train the student; see `DataFree`.

        Raises:
            Refused: `average` is `classwise`, and the server has no counts.
        """
        import torch

        from distens.distill._ensemble import TeacherEnsemble, temperature
        from distens.distill._epochs import StudentTrainer, cosine_rates, cpu_generator, run_epochs
        from distens.distill._generator import InputBounds
        from distens.distill._teachers import FrozenTeachers
        from distens.distill._teaching import Teaching, towards

        span = InputBounds(server.low, server.high, server.input_shape, context.device)
        shape = (self.batch_size, *server.input_shape)

        def rows(epoch: int) -> Iterator[Tensor]:
            rng = cpu_generator(context.seed, "noise", epoch)
            return (span.scaled(torch.rand(shape, generator=rng).to(context.device)) for _ in range(self.steps))

        frozen = FrozenTeachers([teacher.torch_module() for teacher in teachers], context.device)
        pupil = StudentTrainer(student, context, cosine_rates(self.learning_rate, self.epochs))
        ensemble = TeacherEnsemble(self.average, server.counts_MC, context.device)
        loss = towards(ensemble, weights_M, temperature(self.temperature, self.average), context.device)
        job = Teaching(pupil, frozen, rows, loss)
        curves, seconds = run_epochs(job, self.epochs, context, {"kind": "noise", **asdict(self)})
        some = next(rows(self.epochs - 1))[:64].cpu().numpy()
        return Distillation(pupil.metrics(self.epochs, curves, seconds), None, some, curves)
