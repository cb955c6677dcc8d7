"""The protocol of targets, which alone define the meaning of a run's targets and of a prediction's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray
from typing_extensions import Self

from distens.records import Floats, Integers

Targets = NDArray[Any]
"""targets_N: a column of a table as a target encodes it, one value for each row."""


@dataclass(frozen=True)
class Phrase:
    """The verdict's wording for one measure: `won on accuracy (98.04 % against 97.49 %: +0.56 ± 0.39 points)`.

    Attributes:
        loss: key of `Target.losses`, whose paired differences are judged.
        column: key of `Target.table`, whose value is quoted.
        name: the measure's name.
        higher: True if a higher value is better; the value is then 1 minus the mean loss.
        factor, digits, unit: the format of a value; digits are `significant` ones, or those after the point.
        difference_unit: the unit of differences.
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
        """Return a value of the column as text."""
        return f"{self.factor * value:{self._form}}{self.unit}"

    def difference(self, value: float, error: float) -> str:
        """Return a difference with its standard error as text."""
        return f"{self.factor * value:+{self._form}} ± {self.factor * error:{self._form}}{self.difference_unit}"

    @property
    def _form(self) -> str:
        return f".{self.digits}{'g' if self.significant else 'f'}"


class Pool(Protocol):
    """An ensemble that grows, and its loss: the plain mean of the members added so far, each as often as it was added.

    A greedy selector adds the best member again and again:

        >>> import numpy as np
        >>> from distens.targets.classes import Classes
        >>> good_NC, bad_NC = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.1, 0.9], [0.8, 0.2]])
        >>> pool = Classes(("no", "yes")).pools([bad_NC, good_NC], np.array([0, 1]), "error").on()
        >>> losses_M = pool.with_each()
        >>> losses_M.tolist()
        [1.0, 0.0]
        >>> pool.add(int(losses_M.argmin()))
    """

    def with_each(self) -> Floats:
        """Return losses_M: for each member, the loss of the mean of the members added so far and this one."""
        ...

    def add(self, member: int) -> None:
        """Add a member to the ensemble, by its place among the members."""
        ...


class Pools(Protocol):
    """The predictions of some members, from which pools are made that count rows differently.

    A selector that draws samples of rows makes an empty pool for each:

        >>> import numpy as np
        >>> from distens.targets.classes import Classes
        >>> probs_MNC = np.array([[[0.9, 0.1], [0.9, 0.1]], [[0.2, 0.8], [0.2, 0.8]]])
        >>> pools = Classes(("no", "yes")).pools(probs_MNC, np.array([0, 1]), "error")
        >>> pools.on().with_each().tolist(), pools.on(np.array([2, 0])).with_each().tolist()
        ([0.5, 0.5], [0.0, 1.0])
    """

    def on(self, importance_N: Integers | None = None) -> Pool:
        """Return an empty pool.

        Args:
            importance_N: the number of times that each row counts; None: once.
        """
        ...


class Target(Protocol):
    """A kind of target: a frozen dataclass whose fields are JSON values. A run's data have one, and so has its bundle.

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
        higher_is_better: the table's metrics for which a higher value is better.
        definitions: metric of the table -> its definition, where the heading is not enough; the page has them.
        phrases: the verdict's wording for each measure, the most important first.
    """

    minimised: ClassVar[tuple[str, ...]]
    headings: ClassVar[Mapping[str, str]]
    higher_is_better: ClassVar[tuple[str, ...]]
    definitions: ClassVar[Mapping[str, str]]
    phrases: ClassVar[tuple[Phrase, ...]]

    @classmethod
    def encode(cls, column: Any, where: str, names: NDArray[Any] | None = None) -> tuple[Self, Targets]:
        """Return the target of a column, and targets_N.

        Args:
            column: a pandas Series, or an array of one axis.
            where: for messages.
            names: the names of predictions' columns, if the source itself has them.

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
        """Return a description of the target in words, for a run's first line."""
        ...

    def strata(self, targets_N: Targets) -> Integers:
        """Return strata_N, from 0: rows of one stratum are spread over all splits alike."""
        ...

    def metrics(
        self, predictions_NK: Floats, targets_N: Targets, importance_N: Floats | None = None
    ) -> dict[str, float]:
        """Return the metrics that search may minimise, by name: see `minimised`."""
        ...

    def table(self, predictions_NK: Floats, targets_N: Targets) -> dict[str, float]:
        """Return the table's metrics of predictions, by name: see `headings`."""
        ...

    def losses(self, predictions_NK: Floats, targets_N: Targets) -> dict[str, Floats]:
        """Return measure -> losses_N, one for each row, for comparison in pairs; lower is better."""
        ...

    def sum_loss(self, predictions_NK: Floats, targets_N: Targets, metric: str) -> float:
        """Return a loss that adds up over sets of rows, and is smallest where the metric is."""
        ...

    def change(self, predictions_MNK: Sequence[Floats], targets_N: Targets, weights_M: Floats, weight: float) -> Floats:
        """Return changes_M: the change of the usual metric as each member is mixed into a mixture, over its weight.

        The metric may also be another one that is smallest where the usual one is. A change below zero is a gain.

        Args:
            weights_M: the members' weights in the mixture.
            weight: the weight of the member that is mixed in.
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
        """Return the unit in which quadratic losses are near one, whatever the targets' own unit is."""
        ...

    def mean(self, predictions_MNK: Floats | Sequence[Floats], weights_M: Floats) -> Floats:
        """Return predictions_NK (float64), the weighted mean over members. Weights are non-negative and sum to one."""
        ...

    def decisions(self, predictions_NK: Floats) -> NDArray[Any]:
        """Return the prediction of each row as one value for a user: a class's name, a number."""
        ...

    def check(self, predictions_NK: Floats, rows: int) -> None:
        """Check that predictions are possible ones for a number of rows.

        Raises:
            ValueError: they are not; the message says why.
        """
        ...


PLUGINS = (Target,)
"""The protocols of this family; a user's own plug-in must fulfil one of them."""


class SplitsUncertainty(Target, Protocol):
    """A target that divides the uncertainty of members' mean into theirs and their disagreement.

    A predictor is asked about rows::

        parts = target.uncertainty(predictions_MNK, weights_M)
        doubtful_N = parts["mutual_information"] > 0.1
    """

    def uncertainty(self, predictions_MNK: Floats, weights_M: Floats) -> dict[str, Floats]:
        """Return name -> one number a row, of members whose non-negative weights sum to one."""
        ...
