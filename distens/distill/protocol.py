"""Many members into one network: `Distiller` where their training rows are at hand, `DataFree` where they are not.

Any further ability of a distiller is a protocol too. A distiller defines no public name that is in none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from numpy.typing import NDArray

from distens.data.dataset import Examples
from distens.records import Floats, Integers
from distens.training.context import Context

if TYPE_CHECKING:
    from torch import nn


Average = Literal["logits", "probabilities", "classwise"]
"""The kinds of mean of weighted teachers, as logits A_w(x); f_k are the teachers' logits, s is the softmax.

`logits`: sum_k w_k f_k(x) / sum_k w_k.
`probabilities`: log (sum_k w_k s(f_k(x)) / sum_k w_k).
`classwise`: for class c, log (sum_k w_k n_k^c s(f_k(x))_c / sum_k w_k n_k^c), n_k^c the rows of class c that teacher k
learned from: a teacher has no weight for a class that it has not seen.
"""


class Predicts(Protocol):
    """A teacher: any trained member.

    Example:
        >>> import numpy as np
        >>> class Undecided:
        ...     def predict(self, inputs):
        ...         return np.full((len(inputs), 2), 0.5, dtype=np.float32)
        >>> Undecided().predict(np.zeros((1, 3), dtype=np.float32)).tolist()
        [[0.5, 0.5]]
    """

    def predict(self, inputs: Floats) -> Floats:
        """Return probs_NC of inputs (N, …)."""
        ...


class Learns(Protocol):
    """A student: any untrained member that accepts soft targets.

    Example:
        A distiller trains it on the teachers' mean::

            soft_NC = np.einsum("m,mnc->nc", weights_M, [teacher.predict(inputs) for teacher in teachers])
            targets_NC = apply_temperature(soft_NC, temperature=2.0).astype(np.float32)
            metrics = student.fit(Examples(inputs, targets_NC, classes), context)
    """

    def fit(self, examples: Examples, context: Context) -> Mapping[str, float]:
        """Train, and return metrics by name."""
        ...


class Distiller(Protocol):
    """A rule that trains a student on its teachers' rows: a frozen dataclass whose fields are its options.

    Example:
        An ensemble's student is trained by one, on an actor of its own::

            metrics = distiller.distill(teachers, weights_M, student, examples, context)
            state = student.state()
    """

    @property
    def growth(self) -> int:
        """Return the number of rows that the student sees in an epoch, per row of the *train* split.

        The baseline `student_on_labels` is also trained with as many steps.
        """
        ...

    def distill(
        self, teachers: Sequence[Predicts], weights_M: Floats, student: Learns, examples: Examples, context: Context
    ) -> Mapping[str, float]:
        """Train the student in place to predict what the weighted teachers predict; return its metrics.

        Args:
            weights_M: the teachers' weights, non-negative, sum 1.
            examples: the *train* split, with labels.
        """
        ...


class Network(Learns, Predicts, Protocol):
    """A member that is a network: the kind of teacher and student that a `DataFree` distiller takes.

    Example:
        A distiller trains the network itself, and the member then predicts by it::

            student.begin(server.input_shape, server.classes, context.seed)
            network = student.torch_module()
            for parameter in network.parameters():
                parameter.data.zero_()
            probs_NC = student.predict(inputs)  # every class has the probability 1 / C
    """

    def begin(self, input_shape: tuple[int, ...], classes: int, seed: int) -> None:
        """Build an untrained network in place."""
        ...

    def torch_module(self) -> nn.Module:
        """Return the network itself: inputs (N, …) -> logits_NC; `predict` and `state` see its changes."""
        ...


@dataclass(frozen=True)
class Knowledge:
    """The knowledge of a server that has none of the clients' rows.

    Attributes:
        input_shape: the shape of one row of inputs, as members see it.
        classes: C, the number of classes.
        low, high: the bounds of the numbers of a row; float32, broadcast to `input_shape`.
        labelled: the server's own rows and their labels; None if it has none.
        counts_MC: the number of rows of each class that each teacher had; None if it is not known.
    """

    input_shape: tuple[int, ...]
    classes: int
    low: Floats
    high: Floats
    labelled: Examples | None = None
    counts_MC: Integers | None = None


@dataclass(frozen=True)
class Distillation:
    """The result of a distillation, besides the student, which is trained in place.

    Attributes:
        metrics: metrics of the student, `parameters` and `seconds` among them, and those that the method adds.
        weights_M: the teachers' weights in the method's mean, non-negative, sum 1; None if the method learns none.
        images: some of the made-up rows, as inputs (n, …), float32, for people to look at; None if none were made.
        curves: name -> one number for each epoch.
    """

    metrics: Mapping[str, float]
    weights_M: Floats | None = None
    images: NDArray[Any] | None = None
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


class DataFree(Protocol):
    """A distiller that needs none of the clients' rows: a frozen dataclass whose fields are its options.

    A federation's plan refuses all other distillers, and an ensemble's plan refuses these.

    Example:
        The actor of a federation's student calls it::

            student.begin(server.input_shape, server.classes, context.seed)
            distilled = distiller.distill(teachers, weights_M, student, server, context)
            metrics, learned_M = distilled.metrics, distilled.weights_M

    Attributes:
        data_free: True; tells it from a `Distiller`.
        needs_proxy: True if it needs `Knowledge.labelled` (of which it may use the inputs alone); the plan refuses it
            where the server has none.
    """

    data_free: ClassVar[Literal[True]]
    needs_proxy: ClassVar[bool]

    def distill(
        self, teachers: Sequence[Network], weights_M: Floats, student: Network, server: Knowledge, context: Context
    ) -> Distillation:
        """Train the student in place to predict what the teachers predict together.

        Args:
            weights_M: the teachers' weights to begin with, non-negative, sum 1.
            student: a member that has begun; its architecture may differ from the teachers'.

        Raises:
            Diverged: a loss stopped being finite.
        """
        ...


PLUGINS = (Distiller, DataFree)
"""What a user's own plug-in of this family must be: one of these."""


class Refines(DataFree, Protocol):
    """A `DataFree` distiller that can also work after every round.

    Where there are several rounds, the plan refuses all other distillers.

    Example:
        The actor calls it with the model that the server merged, and the clients' models that it was merged from::

            memory = {}
            for round in range(rounds):
                ...  # clients train, the server merges their models into the student
                metrics, memory = distiller.refine(student, teachers, server, context, round, memory)
    """

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
            teachers: the clients' models of this round, in the order of `server.counts_MC`.
            round: the number of the round, from 0.
            memory: the memory that the round before returned; empty in the first round.

        Returns:
            Metrics, `seconds` among them; and the memory for the next round, arrays by name.

        Raises:
            Diverged: a loss stopped being finite.
        """
        ...


class Averages(DataFree, Protocol):
    """A `DataFree` distiller with an option for the kind of mean of the teachers.

    Example:
        A federation's own ensemble takes the same mean, and `classwise` with other distillers::

            average = distiller.average if registry.has_capability(distiller, Averages) else "classwise"
    """

    @property
    def average(self) -> Average:
        """Return the kind of mean, which is an option."""
        ...
