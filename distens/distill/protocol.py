"""Many members into one network: `Distiller` where their rows are at hand, `DataFree` where they are not.

What a distiller may have besides is a protocol too, and it defines no public name that none of these has.
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
"""What weighted teachers say together, as logits A_w(x); f_k are theirs, s the softmax.

`logits`: sum_k w_k f_k(x) / sum_k w_k.
`probabilities`: log (sum_k w_k s(f_k(x)) / sum_k w_k).
`classwise`: for class c, log (sum_k w_k n_k^c s(f_k(x))_c / sum_k w_k n_k^c), n_k^c the rows of class c that teacher k
learned from: of each class, those speak who have seen it.
"""


class Predicts(Protocol):
    """A teacher: any trained member."""

    def predict(self, inputs: Floats) -> Floats:
        """Return probs_NC."""
        ...


class Learns(Protocol):
    """A student: any untrained member that accepts soft targets."""

    def fit(self, examples: Examples, context: Context) -> Mapping[str, float]:
        """Train, and return metrics."""
        ...


class Distiller(Protocol):
    """A frozen dataclass whose fields are its options.

    An ensemble's student is trained by one, on an actor of its own:

        metrics = distiller.distill(teachers, weights_M, student, examples, context)
        state = student.state()
    """

    @property
    def growth(self) -> int:
        """Return how many rows the student sees in an epoch, per row of the *train* split; rivals get as many steps."""
        ...

    def distill(
        self, teachers: Sequence[Predicts], weights_M: Floats, student: Learns, examples: Examples, context: Context
    ) -> Mapping[str, float]:
        """Train the student, in place, to do what the weighted teachers do; return its metrics.

        Args:
            examples: the *train* split, with labels.
        """
        ...


class Network(Learns, Predicts, Protocol):
    """A member that is a network: what teachers and students of a server are that has none of the clients' rows."""

    def begin(self, input_shape: tuple[int, ...], classes: int, seed: int) -> None:
        """Become an untrained network."""
        ...

    def torch_module(self) -> nn.Module:
        """Return the network itself: inputs (N, …) -> logits_NC; `predict` and `state` see what is done to it."""
        ...


@dataclass(frozen=True)
class Server:
    """What a server knows that has none of the clients' rows.

    Attributes:
        input_shape: of one row of inputs, as members see it.
        classes: C.
        low, high: what the numbers of a row lie between; float32, broadcast to `input_shape`.
        labelled: the server's own rows and their labels; None if it has none.
        counts_MC: how many rows of each class each teacher had; None if they did not say.
    """

    input_shape: tuple[int, ...]
    classes: int
    low: Floats
    high: Floats
    labelled: Examples | None = None
    counts_MC: Integers | None = None


@dataclass(frozen=True)
class Distilled:
    """What came of it, besides the student, which is trained in place.

    Attributes:
        metrics: of the student, `parameters` and `seconds` among them, and what the method adds.
        weights_M: the teachers' weights, non-negative, sum 1, where the method learns them, of what it averages.
        images: some of what was made up, as rows of inputs (n, …), float32; to be looked at. None if nothing was.
        curves: name -> one number an epoch.
    """

    metrics: Mapping[str, float]
    weights_M: Floats | None = None
    images: NDArray[Any] | None = None
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


class DataFree(Protocol):
    """A distiller that asks for none of the clients' rows: a frozen dataclass whose fields are its options.

    A federation has no other, and an ensemble none of these; their plans ask, and so does the actor:

        if registry.able(distiller, DataFree):
            student.begin(server.input_shape, server.classes, context.seed)
            distilled = distiller.distill(teachers, weights_M, student, server, context)

    Attributes:
        data_free: True; tells it from a `Distiller`.
        needs_proxy: whether it cannot do without `Server.labelled` (of which it may use the inputs alone); the plan
            refuses it where the server has none.
    """

    data_free: ClassVar[Literal[True]]
    needs_proxy: ClassVar[bool]

    def distill(
        self, teachers: Sequence[Network], weights_M: Floats, student: Network, server: Server, context: Context
    ) -> Distilled:
        """Train the student, in place, to do what the teachers do together.

        Args:
            weights_M: of the teachers, to begin with; non-negative, sum 1.
            student: begun already; it may be another architecture than the teachers.

        Raises:
            Diverged: a loss stopped being finite.
        """
        ...


PLUGINS = (Distiller, DataFree)
"""What a user's own plug-in of this family must be: one of these."""


class Refines(DataFree, Protocol):
    """A `DataFree` distiller that can also work after every round.

    The plan refuses all others where there are several rounds. The actor calls it, with what the server merged and what
    it merged that from:

        metrics, memory = distiller.refine(student, teachers, server, work, round, memory)
    """

    def refine(
        self,
        student: Network,
        teachers: Sequence[Network],
        server: Server,
        context: Context,
        round: int,
        memory: Mapping[str, Any],
    ) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        """Fine-tune the merged global model, in place; the same seed, round and memory, the same bits.

        Args:
            student: the global model.
            teachers: the clients' models of this round, in the order of `server.counts_MC`.
            round: from 0.
            memory: what the round before returned; empty in the first.

        Returns:
            Metrics, `seconds` among them; and the memory, arrays by name.

        Raises:
            Diverged: a loss stopped being finite.
        """
        ...


class Averages(DataFree, Protocol):
    """A `DataFree` distiller with an option that says how teachers speak together.

    A federation's own ensemble is then averaged in the same way; without, `classwise`:

        average = distiller.average if registry.able(distiller, Averages) else "classwise"
    """

    @property
    def average(self) -> Average:
        """Return the kind of mean: an option."""
        ...
