"""The protocol of a user's own metrics, and what a run does with one: measure, minimise, show.

Everything that decides minimises. So a metric that is maximised is kept twice: by its name, as users see it, and by
its loss's key, `-name`, with the other sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import numpy as np

from distens.addresses import describe_failure
from distens.errors import ConfigError, Refused, shorten_value
from distens.metrics._pools import OwnPools
from distens.records import Floats
from distens.targets.protocol import Pools, Target, Targets

TAKEN = ("seconds", "parameters", "epochs", "new_epochs", "rows", "train_seconds", "predict_ms_per_1000", "temperature")
"""Names that numbers of a report or columns of the table have already."""


class Metric(Protocol):
    """A frozen dataclass whose fields are its options.

    Actors measure every member with it, and selection the means of members:

        >>> from distens import registry
        >>> metric = registry.make_plugin("metrics", {"kind": "math:dist", "mode": "min"}, "metric")
        >>> metric.title, metric.mode, metric.value([3.0, 5.0], [0.0, 1.0])
        ('dist', 'min', 5.0)
    """

    @property
    def title(self) -> str:
        """Return the name that users see."""
        ...

    @property
    def mode(self) -> Literal["min", "max"] | None:
        """Return `min` or `max`; None only where an option is left out that says it."""
        ...

    def value(self, predictions_NK: Floats, targets_N: Targets) -> Any:
        """Return one number for predictions, which may be read-only, and targets as the run's target encodes them."""
        ...


PLUGINS = (Metric,)
"""What a user's own plug-in of this family must be: one of these."""

ADOPTER = "function"
"""The plug-in that is made of a user's function which is no plug-in itself."""


class Adopts(Metric, Protocol):
    """A metric that wraps something which is no plug-in, found by its address.

    The registry makes one of `metric: scores:f1_score`::

        if cls.adopts(addresses.find_object("scores:f1_score", "metric")):
            metric = cls(path="scores:f1_score")
    """

    @classmethod
    def adopts(cls, found: Any) -> bool:
        """Return True if such an object can be wrapped."""
        ...

    @property
    def path(self) -> str:
        """Return the address: an option."""
        ...


def loss_key(metric: Metric) -> str:
    """Return the key of what is minimised: the metric's name, or `-name` for a metric that is maximised."""
    return metric.title if metric.mode == "min" else f"-{metric.title}"


def shown_name(key: str) -> str:
    """Return the name that users see of a metric that is minimised, by its key."""
    return key.removeprefix("-")


def shown_value(key: str, loss: float) -> float:
    """Return the value that users see of a loss with that key."""
    return -loss if key.startswith("-") else loss


def shown_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a report that users see: all except the losses of metrics that are maximised."""
    return {name: value for name, value in metrics.items() if not name.startswith("-")}


def check_name(metric: Metric, target: type[Target]) -> None:
    """Check that a metric's name means nothing else in a run.

    Raises:
        ConfigError: it does.
    """
    if metric.title in (*target.minimised, *target.headings, *TAKEN):
        raise ConfigError(f"metric: the name {metric.title!r} means something else in a run's results: rename it")


def measure(metric: Metric, predictions_NK: Floats, targets_N: Targets) -> dict[str, float]:
    """Return name -> the metric's value, and the key of its loss -> its loss; a value need not be finite.

    Raises:
        Refused: the metric raised an error, or returned no number; the message names the line.
    """
    try:
        found = metric.value(predictions_NK, targets_N)
    except Exception as error:  # a user's function may raise anything
        raise Refused(f"metric {metric.title}: {describe_failure(error)}") from error
    try:
        if isinstance(found, bool | str | bytes):
            raise TypeError
        value = float(found)
    except (TypeError, ValueError) as error:
        raise Refused(f"metric {metric.title}: must return one number, found {shorten_value(found)}") from error
    return {metric.title: value} if metric.mode == "min" else {metric.title: value, loss_key(metric): -value}


def measure_finite(metric: Metric, predictions_NK: Floats, targets_N: Targets) -> dict[str, float]:
    """Return name -> the metric's value; nothing where it raises an error or is not finite.

    So the table of a run that is done lacks a number, where the run would fail otherwise.
    """
    try:
        value = measure(metric, predictions_NK, targets_N)[metric.title]
    except Refused:
        return {}
    return {metric.title: value} if np.isfinite(value) else {}


def try_metric(metric: Metric, target: Target, targets_N: Targets) -> None:
    """Measure predictions that are half right, so that a faulty metric is found before anything is trained.

    Raises:
        ConfigError: it raised an error, or its value is no finite number.
    """
    nothing_NK = np.zeros((len(targets_N), len(target.column_names)), dtype=np.float32)
    right_NK = -target.residuals(nothing_NK, targets_N)
    predictions_NK = (right_NK + np.roll(right_NK, 1 + len(right_NK) // 3, axis=0)) / 2
    predictions_NK.flags.writeable = False  # as members' predictions are
    try:
        value = measure(metric, predictions_NK, targets_N)[metric.title]
    except Refused as error:
        raise ConfigError(f"{error} (tried on {len(targets_N)} rows of the search split)") from error
    if not np.isfinite(value):
        raise ConfigError(f"metric {metric.title}: is {value} for {len(targets_N)} rows that are predicted half right")


def with_metric(target: Target, metric: Metric | None) -> Target:
    """Return the target, whose `metrics` and `pools` know a metric of the user's own besides, if there is one."""
    return target if metric is None else cast("Target", _Measured(target, metric))


class _Measured:
    """A target and one more metric; everything else is the target's."""

    def __init__(self, target: Target, metric: Metric) -> None:
        self._target, self._metric = target, metric

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def metrics(
        self, predictions_NK: Floats, targets_N: Targets, importance_N: Floats | None = None
    ) -> Mapping[str, float]:
        found = self._target.metrics(predictions_NK, targets_N, importance_N)
        return {**found, **measure(self._metric, predictions_NK, targets_N)}

    def pools(self, predictions_MNK: Floats | Sequence[Floats], targets_N: Targets, metric: str) -> Pools:
        if metric != loss_key(self._metric):
            return self._target.pools(predictions_MNK, targets_N, metric)

        def loss(predictions_NK: Floats, targets_N: Targets) -> float:
            return measure(self._metric, predictions_NK, targets_N)[metric]

        def usual() -> Floats:
            return self._target.pools(predictions_MNK, targets_N, self._target.minimised[0]).on().with_each()

        return OwnPools(predictions_MNK, targets_N, loss, self._target.mean, usual)

    def sum_loss(self, predictions_NK: Floats, targets_N: Targets, metric: str) -> float:
        usual = self._target.minimised[0]  # a metric of the user's own may have no value on few rows, and no sum
        return self._target.sum_loss(predictions_NK, targets_N, usual if metric == loss_key(self._metric) else metric)
