"""The outputs of a user's network: logits, alone or among other values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distens.errors import Refused, shorten_value
from distens.records import Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

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


def check_outputs(network: nn.Module, found: Any, rows: int, classes: int | None = None) -> Tensor:
    """Return the logits_NC that a network returned: its output itself, or the part of it that can only be them.

    That part is `.logits` of an object, "logits" of a mapping, or else the only tensor of that shape in a mapping, a
    tuple, a list or an object.

    Args:
        network: the network, for the message.
        found: what its `forward` returned.
        rows: N.
        classes: C; None: any number.

    Raises:
        Refused: there are no logits, or they are of another shape, or several tensors could be them; the message
            describes the outputs.
    """
    import torch

    logits = found if isinstance(found, torch.Tensor) else _pick(found, rows, classes)
    if logits is not None and not _strange(logits) and _fits(logits, rows, classes):
        return logits
    text = f"{tuple(found.shape)}{_strange(found)}" if isinstance(found, torch.Tensor) else _describe(found)
    shape = f"({rows} rows, {'any number of' if classes is None else classes} classes)"
    raise Refused(f"{type(network).__name__}: forward must return logits of shape {shape}, found {text}")


def _pick(found: Any, rows: int, classes: int | None) -> Tensor | None:
    import torch

    named = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", None)
    if isinstance(named, torch.Tensor):
        return named
    tensors = [value for _, value in _entries(found) if isinstance(value, torch.Tensor)]
    fitting = [value for value in tensors if _fits(value, rows, classes)]
    return fitting[0] if len(fitting) == 1 else None


def _strange(tensor: Tensor) -> str:
    """Return the tensor's type and layout in words if logits cannot have them; else nothing."""
    import torch

    if not tensor.is_complex() and tensor.layout is torch.strided:
        return ""
    return f" of {tensor.dtype}, {tensor.layout}".replace("torch.", "")


def _fits(value: Tensor, rows: int, classes: int | None) -> bool:
    return value.ndim == 2 and value.shape[0] == rows and classes in (None, value.shape[1])


def _describe(found: Any) -> str:
    """Return the outputs in words."""
    kind = f"{type(found).__module__}.{type(found).__qualname__}".removeprefix("builtins.")
    entries = _entries(found)
    if not entries:
        return f"{kind}{_shape(found)}; a torch.Tensor is wanted"
    shown = [f"{place}{_shape(value)}" for place, value in entries[:MAX_ENTRIES]]
    more = f", and {len(entries) - MAX_ENTRIES} more" if len(entries) > MAX_ENTRIES else ""
    return f"{kind} with {', '.join(shown)}{more}; a torch.Tensor is wanted"


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
