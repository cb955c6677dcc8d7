"""Inspections of a user's network: one that cannot be stored, or gives no logits, is refused before it is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distens.errors import DistensError, Refused
from distens.records import Floats
from distens.training.network import initialise, load_arrays, make_late_layers, raw_outputs, to_arrays

if TYPE_CHECKING:
    from torch import nn

INSPECTED_ROWS = 4

MAX_TEXT = 500
"""The most characters of another's message: torch names every weight that does not fit."""

BUILT_WITH = 1
"""The seed of a network that is inspected: not that of a network which is built to be loaded, 0."""


def inspect_untrained(build: Callable[[], nn.Module], inputs: Floats, classes: int, device: str) -> None:
    """Check that a network gives logits, and the same ones once it was stored and loaded, before it is trained.

    Args:
        build: a function that makes the untrained network.
        inputs: some rows; the first few are used.

    Raises:
        Refused: it does not, or cannot be stored, or its code fails.
    """
    late, network = "", initialise(build, BUILT_WITH)
    try:
        make_late_layers(network, BUILT_WITH)
    except Exception as error:  # it may need a trainer; that matters only if forward fails without it
        late = f" (and its hooks setup and configure_model failed without a trainer: {_words(error)})"
    network.to(device)
    for rows in (inputs[:1], inputs[:INSPECTED_ROWS]):
        try:
            raw_outputs(network, rows, classes)
        except (DistensError, MemoryError):
            raise
        except Exception as error:  # the user's own code may raise anything
            if "out of memory" in str(error):
                raise
            raise Refused(
                f"{type(network).__name__}: forward failed on inputs of shape {tuple(rows.shape)}, float32, before any "
                f"training: {_words(error)}{late}"
            ) from error
    inspect_restored(network, build, inputs, classes)


def inspect_restored(network: nn.Module, build: Callable[[], nn.Module], inputs: Floats, classes: int) -> None:
    """Check that a network which is built anew and loaded from this one's state gives the same logits, to the bit.

    Raises:
        Refused: it does not, or the state cannot be stored.
    """
    import torch

    name, rows = type(network).__name__, inputs[:INSPECTED_ROWS]
    arrays = _through_file(name, to_arrays(network))
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        restored = initialise(build, seed=0)
        load_arrays(restored, arrays)
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(f"{name}: it can be trained, but not be loaded from its state: {_words(error)}") from error
    models = (network, network, restored.to(device))
    before, again, after = (raw_outputs(model, rows, classes).tobytes() for model in models)
    if before == again != after:  # else it draws random numbers of its own, and there is nothing to compare
        forgotten = sorted(name for name, _ in network.named_buffers() if name not in arrays)
        hint = f"its buffers {', '.join(forgotten)} are not persistent" if forgotten else "is there a plain attribute?"
        raise Refused(
            f"{name}: loaded from its state, it predicts something else: forward uses values that are not in its "
            f"state_dict ({hint}); make them weights or persistent buffers"
        )


def _through_file(name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays as they come back from a file."""
    from safetensors.numpy import load, save

    try:
        return load(save(arrays))
    except Exception as error:  # of several libraries: a type of numbers that the format lacks
        kinds = ", ".join(sorted({str(array.dtype) for array in arrays.values()}))
        raise Refused(f"{name}: its state, with numbers of the types {kinds}, cannot be stored: {error}") from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:MAX_TEXT]}"
