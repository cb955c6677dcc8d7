"""The outputs of a user's network: logits, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distens.errors import Refused, shorten_value
from distens.records import Floats

if TYPE_CHECKING:
    from torch import nn

MAX_ENTRIES = 5
"""The largest number of entries of an output that a message lists."""

PROBABILITIES_METRIC = "outputs_are_probabilities"
"""The metric of a member whose network seems to end in a softmax; other members have none."""

PROBABILITIES_ADVICE = (
    "forward returns probabilities (no number is negative, and every row sums to one), but logits are wanted: a "
    "softmax is applied to its outputs, in predictions and in the loss of a plain nn.Module, so it is applied twice. "
    "Return the values before the softmax"
)

SUM_TOLERANCE = 1e-3
"""The most by which a row of probabilities may miss the sum of one; half floats miss it by this much."""


def check_outputs(network: nn.Module, found: Any, rows: int, classes: int) -> None:
    """Check that a network returned logits_NC.

    Raises:
        Refused: the outputs are something else; the message describes them.
    """
    import torch

    if isinstance(found, torch.Tensor):
        strange = found.is_complex() or found.layout is not torch.strided
        if not strange and tuple(found.shape) == (rows, classes):
            return
        text = f"{tuple(found.shape)}{f' of {found.dtype}, {found.layout}'.replace('torch.', '') if strange else ''}"
    else:
        text = _describe(found, (rows, classes))
    raise Refused(
        f"{type(network).__name__}: forward must return logits of shape ({rows} rows, {classes} classes), found {text}"
    )


def _describe(found: Any, shape: tuple[int, int]) -> str:
    """Return the outputs in words, with a hint if just one of their entries has the shape of logits."""
    kind = f"{type(found).__module__}.{type(found).__qualname__}".removeprefix("builtins.")
    entries = _entries(found)
    if not entries:
        return f"{kind}{_shape(found)}; a torch.Tensor is wanted"
    shown = [f"{place}{_shape(value)}" for place, value in entries[:MAX_ENTRIES]]
    more = f", and {len(entries) - MAX_ENTRIES} more" if len(entries) > MAX_ENTRIES else ""
    fitting = [place for place, value in entries if getattr(value, "shape", None) == shape]
    hint = f"return its {fitting[0]} alone" if len(fitting) == 1 else "a torch.Tensor is wanted"
    return f"{kind} with {', '.join(shown)}{more}; {hint}"


def _entries(found: Any) -> list[tuple[str, Any]]:
    """Return (place, value) of each entry of a mapping, a tuple, a list, or an object with attributes."""
    if isinstance(found, Mapping):
        return [(shorten_value(key), value) for key, value in found.items()]
    if isinstance(found, tuple | list):
        names = getattr(found, "_fields", range(len(found)))
        return [(f"entry {name}", value) for name, value in zip(names, found, strict=True)]
    values = getattr(found, "__dict__", {})
    return [(f".{name}", value) for name, value in values.items() if hasattr(value, "shape")]


def _shape(value: Any) -> str:
    return f" {tuple(value.shape)}" if hasattr(value, "shape") else ""


def are_probabilities(outputs_NC: Floats) -> bool:
    """Return True if several rows are all without negative numbers and sum to one: outputs of a softmax, not logits."""
    sums_N = outputs_NC.sum(axis=1)
    return bool(len(outputs_NC) > 1 and (outputs_NC >= 0).all() and (abs(sums_N - 1) < SUM_TOLERANCE).all())
