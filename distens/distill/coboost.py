"""Co-Boosting: made-up data and the ensemble improve each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from distens.distill.protocol import Average, Distillation, Knowledge, Network
from distens.records import Floats
from distens.training.context import Context

if TYPE_CHECKING:
    from torch import Tensor

    from distens.distill._ensemble import TeacherEnsemble
    from distens.distill._teachers import FrozenTeachers
    from distens.distill._weighing import EnsembleWeights

MIN_JUDGE_ROWS = 50
"""A server with fewer labelled rows than this does not judge weights by them."""


@dataclass(frozen=True)
class Coboost:
    """Co-Boosting: a student of made-up rows that are hard for the ensemble, whose weights learn from them too.

    Dai et al. 2024, "Enhancing One-Shot Federated Learning Through Data and Ensemble Co-Boosting" (ICLR), by its code.
    With A_w(x) = sum_k w_k f_k(x) / sum_k w_k the mean of the teachers' logits (`average: logits`; see
    `distens.distill.protocol.Average` for other means), S the student's logits, s the softmax, and
    KL_T(S, A) = T^2 KL(s(A / T) || s(S / T)), an epoch is:

    1. A fresh generator and its noise learn for some steps to make one batch x of random labels y, minimising
       mean[(1 - s(A_w(x))_y) CE(A_w(x), y)] - mean[KL_3(S(x), A_w(x))]; the x of the smallest loss is taken.
    2. w <- clip(w - step decay^epoch sign(gradient of CE(A_w(x), y)), 0, 1), for each batch of all x made before.
    3. The student passes once over all x: with u from [-1, 1], x' = x + eps sign(gradient_x of u . s(A_w(x) / T)), and
       mean[KL_T(S(x'), A_w(x'))] is minimised (SGD, momentum 0.9, weight decay 1e-4, a cosine over the epochs).

    We differ in four points. By default a teacher's weight for a class is in proportion to its rows of that class
    (`average: classwise`, T = 1), since a client that never saw a class drags the logits of that class down for all.
    The last epoch's student is the result, where the code takes the best on the test split. Images are not cropped or
    mirrored. And the weight step is guarded.

    The guard (`weights: guarded`). The step's only signal is the label that the generator was to make, which rewards
    members that are easily fooled. So an epoch's new weights are taken wholly, by half, by a quarter or not at all: as
    far as a judge finds that neither cross-entropy nor errors grow. In the end the result is the uniform weights,
    unless the judge finds FedDisco's weights (from the class counts, where teachers gave them) better by more than a
    standard error of the difference, without a further error; the learned weights must be better than the weights
    chosen so far by the same measure.

    With 50 rows or more in `Knowledge.labelled`, learning begins with the better of uniform and FedDisco's weights by
    these rows; every other of the rows judges the steps, and the rest give the last verdict. Guaranteed: on the rest,
    neither more errors nor a higher cross-entropy than uniform weights have. Not guaranteed: the same on other rows;
    where rows are few, chance is a part of every verdict.

    With fewer rows, the judge is the rows made in the first tenth of the epochs, before any weight moved, which favour
    the weights that they were made for; and weights must be worth half of the members (exp of their entropy).
    Guaranteed: only this floor. Such a judge can be fooled, as the step can. Under `average: logits` the step is worth
    that risk: it finds out what class counts would tell. Under `classwise` the counts are in use already, and the
    weights stay as they are given. (scikit-learn's digits, 8 clients, priors by Dirichlet(0.1) and (0.3), 8 partitions
    each, changes of the ensemble's accuracy in points: logits +7.2, worst -3.8, and +1.8, worst 0; classwise -1.7,
    worst -11, and -0.4, worst -1.7. With 179 labels and Dirichlet(0.1): logits +8.9, worst 0; classwise -0.2, worst
    -0.8.)

    Attributes:
        epochs: the number of epochs, each of which makes up one batch.
        batch_size: rows of a made-up batch, and of every step.
        generator_steps: steps of the generator in an epoch.
        width: channels that the generator's last convolution takes; the first one takes twice as many.
        generator_rate: learning rate of the generator (Adam).
        learning_rate: learning rate of the student in the first epoch.
        average: the kind of mean that A_w is; `logits` is the papers'.
        temperature: T. None: 4 with `average: logits`, as in the papers, else 1.
        pool: the largest number of rows that are kept; the oldest leave first.
        hard_samples: make a row that the ensemble is sure of count for little (the factor 1 - s(A_w(x))_y of step 1).
        diverse_samples: move rows in step 3.
        perturbation: eps, as a share of the range of inputs. 4/255: the paper's 8/255 in [-1, 1]. None: 4/255.
        weights: `guarded`; `unguarded`, as in the paper; `off` leaves the weights as they are given.
        step: length of a step of the weights, where they move (not under `guarded` and `classwise` without enough
            labels). None: 0.1 / M, the paper's.
        decay: factor of the step after each epoch. None: 0.99.
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
    hard_samples: bool = True
    diverse_samples: bool = True
    perturbation: Annotated[float, Gt(0), Le(1)] | None = None
    weights: Literal["guarded", "unguarded", "off"] = "guarded"
    step: Annotated[float, Gt(0), Le(1)] | None = None
    decay: Annotated[float, Gt(0), Le(1)] | None = None

    data_free: ClassVar[Literal[True]] = True
    needs_proxy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.perturbation is not None and not self.diverse_samples:
            raise ValueError(f"perturbation: {self.perturbation:g} has no effect with diverse_samples: false")
        for name in ("step", "decay"):
            if getattr(self, name) is not None and self.weights == "off":
                raise ValueError(f"{name}: {getattr(self, name):g} has no effect with weights: off")
        if self.pool < self.batch_size:
            raise ValueError(f"pool: must hold a batch of {self.batch_size} rows, found {self.pool}")

    def distill(
        self, teachers: Sequence[Network], weights_M: Floats, student: Network, server: Knowledge, context: Context
    ) -> Distillation:
        """Train the student; see `DataFree`.

        Returns:
            Besides the student's metrics, with guarded weights that learn: `judged_<name>` (cross-entropy by the judge)
            for `uniform`, `feddisco`, `learned`; `judge_rows`, the number of rows of the last verdict;
            `judge_labelled` (1 if they are the server's own, 0 if it has fewer than 50, which are not used);
            `weights_learned` (1 if the learned weights are the result).

        Raises:
            Refused: `average` is `classwise`, and the server has no counts.
        """
        import torch

        from distens.distill._ensemble import TeacherEnsemble, temperature
        from distens.distill._epochs import StudentTrainer, cosine_rates, run_epochs
        from distens.distill._synthesis import Synthesis, SynthesisOptions
        from distens.distill._teachers import FrozenTeachers

        frozen = FrozenTeachers([teacher.torch_module() for teacher in teachers], context.device)
        begin_M = torch.tensor(np.asarray(weights_M), dtype=torch.float32).to(context.device)
        plan = SynthesisOptions(
            self.batch_size,
            self.generator_steps,
            self.width,
            self.generator_rate,
            temperature(self.temperature, self.average),
            self.pool,
            hard=self.hard_samples,
            masked=False,
            perturbation=(self.perturbation or 4 / 255) if self.diverse_samples else 0.0,
        )
        pupil = StudentTrainer(student, context, cosine_rates(self.learning_rate, self.epochs))
        ensemble = TeacherEnsemble(self.average, server.counts_MC, context.device)
        job = Synthesis(
            plan, frozen, pupil, self._weighing(frozen, ensemble, begin_M, server, context), server, context
        )
        curves, seconds = run_epochs(job, self.epochs, context, {"kind": "coboost", **asdict(self)})
        found_M, told = job.weighing.result()
        metrics = {**pupil.metrics(self.epochs, curves, seconds), **told}
        shares_M = None if found_M is None else _shares(found_M.double().cpu().numpy())
        return Distillation(metrics, shares_M, job.pool.example_rows(), curves)

    def _weighing(
        self, frozen: FrozenTeachers, ensemble: TeacherEnsemble, begin_M: Tensor, server: Knowledge, context: Context
    ) -> EnsembleWeights:
        import torch

        from distens.counts import disco
        from distens.distill._weighing import EnsembleWeights, GuardedWeights, LabelledRows, SignedWeights

        if self.weights == "off":
            return EnsembleWeights(begin_M, ensemble)
        step = 0.1 / len(begin_M) if self.step is None else self.step
        signed = SignedWeights(
            begin_M, ensemble, step, 0.99 if self.decay is None else self.decay, self.batch_size, context.seed
        )
        if self.weights == "unguarded":
            return signed
        known = {"uniform": torch.full_like(begin_M, 1 / len(begin_M))}
        if server.counts_MC is not None:
            known["feddisco"] = torch.as_tensor(disco(server.counts_MC)).to(begin_M)
        judge = None
        if server.labelled is not None and len(server.labelled.inputs) >= MIN_JUDGE_ROWS:
            judge = LabelledRows.of(server.labelled, frozen, ensemble, context.device)
        elif self.average == "classwise":
            return EnsembleWeights(begin_M, ensemble)
        return GuardedWeights(signed, known, self.epochs, judge)


def _shares(weights_M: Floats) -> Floats:
    total = weights_M.sum()
    return weights_M / total if total > 0 else np.full(len(weights_M), 1 / len(weights_M))
