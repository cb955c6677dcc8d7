"""A metric of the user's own: a function, by its import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from distens import addresses
from distens.errors import ConfigError
from distens.records import Floats
from distens.targets.protocol import Targets

MODES = {"_score": "max", "_loss": "min", "_error": "min", "_deviance": "min"}
"""The end of a function's name -> its mode, as scikit-learn names its metrics."""


@dataclass(frozen=True)
class Function:
    """A function (predictions_NK, targets_N) -> number, of probs_NC and labels_N, or of predicted numbers and numbers.

        metric: {kind: scores:macro_f1, mode: max}
        metric: {kind: scores:f_beta, mode: max, options: {beta: 2.0}}
        metric: scores:f1_score                                           # the name says that more is better

    Labels are the classes' places in order of their names, so a metric of scikit-learn's takes two lines::

        def f1_score(probs_NC, labels_N):
            return sklearn.metrics.f1_score(labels_N, probs_NC.argmax(axis=1), average="macro")

    Attributes:
        path: `package.module:function`.
        mode: `min` or `max`. None: as the function's attribute `higher_is_better` says, or the end of its name, as in
            scikit-learn: `_score` is maximised, `_loss`, `_error` and `_deviance` are minimised.
        options: keyword arguments of the function.
    """

    path: Annotated[str, addresses.ImportAddress()]
    mode: Literal["min", "max"] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            found = _find(self.path)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if not self.adopts(found):
            raise ValueError(f"path: {self.path} must be a function, found {found!r}")
        given = list(inspect.signature(found).parameters)[:2]  # the predictions and the targets
        if len(given) < 2:
            raise ValueError(f"path: {self.path} must take two arguments: predictions and targets")
        if given[0] == "y_true":
            raise ValueError(
                f"path: {self.path} takes the targets first, as scikit-learn's metrics do, and a metric here is called "
                f"with predictions and targets. Write one of your own: `def {self.title}(probs_NC, labels_N): return "
                f"{self.path.replace(':', '.')}(labels_N, probs_NC.argmax(axis=1))`"
            )
        addresses.check_arguments(found, self.options, given)
        if self.mode is None:
            object.__setattr__(self, "mode", _mode(found, self.title, self.path))

    @classmethod
    def adopts(cls, found: Any) -> bool:
        """Return True for a function."""
        return inspect.isroutine(found)

    @property
    def title(self) -> str:
        """Return the function's name."""
        return self.path.partition(":")[2]

    def value(self, predictions_NK: Floats, targets_N: Targets) -> Any:
        """Return what the function returns."""
        return _find(self.path)(predictions_NK, targets_N, **self.options)


@cache
def _find(path: str) -> Callable[..., Any]:
    return addresses.find_object(path, "path", "function")


def _mode(found: Callable[..., Any], name: str, path: str) -> str:
    higher = vars(found).get("higher_is_better") if inspect.isfunction(found) else None
    if isinstance(higher, bool):
        return "max" if higher else "min"
    for end, mode in MODES.items():
        if name.endswith(end):
            return mode
    raise ValueError(f"mode: missing: is more of {path} better? Write `metric: {{kind: {path}, mode: max}}`, or min")
