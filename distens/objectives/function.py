"""A loss of the user's own: a function, or a class of losses such as torch's, by its import path."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from distens import addresses
from distens.errors import ConfigError, Refused

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Function:
    """A function (outputs_NK, targets) -> mean loss, or a class that is made with the options and called like that.

        objective: losses:focal
        objective: {kind: losses:focal, options: {gamma: 2.0}}
        objective: {kind: torch.nn:MultiMarginLoss, options: {margin: 0.5}}

    Attributes:
        path: `package.module:function`, or a subclass of torch.nn.Module without weights.
        options: keyword arguments of the function, or of the class's constructor.
    """

    path: Annotated[str, addresses.ImportAddress()]
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            found = addresses.find_object(self.path, "path")
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if not self.adopts(found):
            raise ValueError(f"path: {self.path} must be a function, or a loss of torch.nn's form, found {found!r}")
        if isinstance(found, type):
            addresses.check_arguments(found, self.options)
            object.__setattr__(self, "_call", found(**self.options))
        else:
            given = list(inspect.signature(found).parameters)[:2]  # the outputs and the targets
            if len(given) < 2:
                raise ValueError(f"path: {self.path} must take two arguments: outputs_NK and targets")
            addresses.check_arguments(found, self.options, given)
            object.__setattr__(self, "_call", partial(found, **self.options))

    @classmethod
    def adopts(cls, found: Any) -> bool:
        """Return True for a function or a class of modules."""
        from torch import nn

        return inspect.isroutine(found) or (isinstance(found, type) and issubclass(found, nn.Module))

    def loss(self, outputs_NK: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, a scalar. `targets` are labels_N (int64), probs_NC, or numbers.

        Raises:
            Refused: the function returned something else.
        """
        import torch

        found = self._call(outputs_NK, targets)  # type: ignore[attr-defined]
        if not isinstance(found, torch.Tensor) or found.numel() != 1:
            shown = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else repr(found)
            raise Refused(f"objective {self.path}: must return the mean loss of the rows, one number, found {shown}")
        return found.reshape(())
