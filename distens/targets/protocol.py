"""What a prediction is: the one place that knows what targets mean, and what a prediction's columns say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray
from typing_extensions import Self

from distens.records import Floats, Integers

Targets = NDArray[Any]
"""targets_N: what a target makes of a column of a table, one for each row."""


@dataclass(frozen=True)
class Phrase:
    """How the verdict speaks of one measure: `won on accuracy (98.04 % against 97.49 %: +0.56 ± 0.39 points)`.

    Attributes:
        loss: key of `Target.losses`, whose paired differences are judged.
        column: key of `Target.table`, which is quoted.
        name: what it is called.
        higher: whether more of it is better; then it is the share that the loss leaves.
        factor, digits, unit: how a value is printed; `significant` digits, or digits behind the point.
        difference_unit: of differences.
    """

    loss: str
    column: str
    name: str
    higher: bool = False
    factor: float = 1.0
    digits: int = 4
    significant: bool = False
    unit: str = ""
    difference_unit: str = ""

    def printed(self, value: float) -> str:
        """Return a value of the column as it is quoted."""
        return f"{self.factor * value:{self._form}}{self.unit}"

    def difference(self, value: float, error: float) -> str:
        """Return a difference with its standard error as it is quoted."""
        return f"{self.factor * value:+{self._form}} ± {self.factor * error:{self._form}}{self.difference_unit}"

    @property
    def _form(self) -> str:
        return f".{self.digits}{'g' if self.significant else 'f'}"


class Pool(Protocol):
    """The loss of an ensemble that grows: the plain mean of the members added so far, a member as often as it was.

    losses_M = pool.with_each()
    pool.add(int(losses_M.argmin()))
    """

    def with_each(self) -> Floats:
        """Return losses_M: the loss of the mean of all that was added so far and one more member."""
        ...

    def add(self, member: int) -> None:
        """Add a member."""
        ...


class Pools(Protocol):
    """What pools of the same members share, whatever rows they count."""

    def on(self, importance_N: Integers | None = None) -> Pool:
        """Return an empty pool.

        Args:
            importance_N: how often each row counts; None: once.
        """
        ...


class Target(Protocol):
    """A frozen dataclass whose fields are JSON values: a run's data have one, and so has its bundle.

        >>> import numpy as np
        >>> from distens.targets.classes import Classes
        >>> target, targets_N = Classes.encode(np.array(["no", "yes", "yes"]), "a table")
        >>> target.column_names, targets_N.tolist()
        (('no', 'yes'), [0, 1, 1])
        >>> predictions_NK = np.array([[0.5, 0.5], [0.25, 0.75], [0.75, 0.25]])
        >>> round(target.metrics(predictions_NK, targets_N)["error"], 3)
        0.333

    Attributes:
        minimised: names of the metrics that search and selection may minimise; the first is the usual one.
        headings: metric of the table -> its heading, in order.
        higher_is_better: those of the table's metrics of which more is better.
        phrases: how the verdict speaks of predictions, the most important first.
    """

    minimised: ClassVar[tuple[str, ...]]
    headings: ClassVar[Mapping[str, str]]
    higher_is_better: ClassVar[tuple[str, ...]]
    phrases: ClassVar[tuple[Phrase, ...]]

    @classmethod
    def encode(cls, column: Any, where: str, names: NDArray[Any] | None = None) -> tuple[Self, Targets]:
        """Return the target of a column, and targets_N.

        Args:
            column: a pandas Series, or an array of one axis.
            where: for messages.
            names: what the source itself says of the columns of predictions, if it does.

        Raises:
            DataError: a value is missing, or cannot be a target of this kind.
        """
        ...

    @property
    def column_names(self) -> tuple[str, ...]:
        """Return the names of a prediction's K columns."""
        ...

    @property
    def summary(self) -> str:
        """Return what it is, in words, for a run's first line."""
        ...

    def strata(self, targets_N: Targets) -> Integers:
        """Return strata_N, from 0: rows of one stratum are spread over all splits alike."""
        ...

    def metrics(
        self, predictions_NK: Floats, targets_N: Targets, importance_N: Floats | None = None
    ) -> dict[str, float]:
        """Return what search may minimise, by name: see `minimised`."""
        ...

    def table(self, predictions_NK: Floats, targets_N: Targets) -> dict[str, float]:
        """Return what the table says of predictions: see `headings`."""
        ...

    def losses(self, predictions_NK: Floats, targets_N: Targets) -> dict[str, Floats]:
        """Return measure -> losses_N, one for each row, for comparison in pairs; lower is better."""
        ...

    def summed(self, predictions_NK: Floats, targets_N: Targets, metric: str) -> float:
        """Return a number that adds up over sets of rows and is least where the metric is."""
        ...

    def change(self, predictions_MNK: Sequence[Floats], targets_N: Targets, weights_M: Floats, weight: float) -> Floats:
        """Return changes_M: what mixing each member into a mixture does to the usual metric (or one that is least where
        it is), over the weight it gets; below zero, it helps.

        Args:
            weights_M: the mixture's.
            weight: what the member mixed in gets.
        """
        ...

    def pools(self, predictions_MNK: Floats | Sequence[Floats], targets_N: Targets, metric: str) -> Pools:
        """Return pools of members.

        Raises:
            ValueError: the metric is not one of `minimised`, or there is no member.
        """
        ...

    def residuals(self, predictions_NK: Floats, targets_N: Targets) -> Floats:
        """Return residuals_NK, whose mean sum of squares is a member's quadratic loss: float32, a new array."""
        ...

    def trivial(self, targets_N: Targets) -> float:
        """Return the quadratic loss of a prediction that knows nothing of a row."""
        ...

    def unit(self, targets_N: Targets) -> float:
        """Return in units of what quadratic losses are near one, whatever the targets' own unit is."""
        ...

    def mean(self, predictions_MNK: Floats | Sequence[Floats], weights_M: Floats) -> Floats:
        """Return predictions_NK (float64), the weighted mean over members. Weights are non-negative and sum to one."""
        ...

    def decisions(self, predictions_NK: Floats) -> NDArray[Any]:
        """Return what a user is told of each row, if it is to be one value: a class's name, a number."""
        ...

    def check(self, predictions_NK: Floats, rows: int) -> None:
        """See that these can be predictions of so many rows.

        Raises:
            ValueError: they cannot; the message says why.
        """
        ...


PLUGINS = (Target,)
"""What a user's own plug-in of this family must be: one of these."""
