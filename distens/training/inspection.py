"""Inspections of a user's network: one that cannot be stored, or gives no logits, is refused before it is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from distens.addresses import describe_failure, is_users_file
from distens.data.dataset import Examples
from distens.errors import DistensError, Refused
from distens.records import Floats
from distens.training import loop
from distens.training.network import (
    initialise,
    local_chance,
    make_late_layers,
    parameters,
    raw_outputs,
    seed_global,
    to_arrays,
)
from distens.training.outputs import PROBABILITIES_ADVICE, are_probabilities, check_outputs

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

Restore = Callable[[Mapping[str, Any]], "nn.Module"]
"""A function that makes a network from stored arrays."""

INSPECTED_ROWS = 4

BUILT_WITH = 1
"""The seed of a network that is inspected: not that of a network which is built to be loaded, 0."""


MAX_REHEARSED_PARAMETERS = 100_000_000
"""The largest network that is computed on the driver; a larger one is only built."""


def rehearse(
    build: Callable[[], nn.Module],
    restore: Restore,
    examples: Examples,
    loss: Callable[[Tensor, Tensor], Tensor],
    batch_size: int | None = None,
) -> Sequence[str]:
    """Try a user's network and loss with two rows, forward and backward; return advice.

    Args:
        build: a function that makes the untrained network.
        restore: a function that makes a network from stored arrays.
        examples: all rows of the training, of which a few are used.
        loss: (outputs_NK, targets) -> the mean loss, a scalar.
        batch_size: rows per step, of which the last one may have a single row; None: no step has.

    Raises:
        Refused: the code failed, or its results cannot be used; the message names the line.
    """
    network = _tried("its constructor failed", lambda: initialise(build, BUILT_WITH))
    if parameters(network) > MAX_REHEARSED_PARAMETERS:
        return []
    name, rows, some = type(network).__name__, len(examples.inputs), two_rows(examples)
    inputs, targets = loop.to_tensors(some)
    with local_chance("cpu"):
        seed_global(0)
        found = _tried(f"{name}: forward failed in training on {_shapes(inputs)}", lambda: network.train()(inputs))
        outputs = _find_outputs(network, found, 2, examples.classes)
        value = _tried(f"{name}: its loss failed on {_shapes(outputs, targets)}", lambda: loss(outputs, targets))
        _tried(f"{name}: its loss of {_shapes(outputs, targets)} has no gradient", value.backward)
        if batch_size is not None and (batch_size == 1 or rows % batch_size == 1):
            text = f"{name}: forward failed in training on one row, which {rows} rows in batches of {batch_size} leave"
            _tried(text, lambda: network(inputs[:1]), ". Take another batch_size")
    inspect_untrained(lambda: network, restore, some.inputs, examples.classes, "cpu")
    soft = are_probabilities(raw_outputs(network, examples.inputs[:INSPECTED_ROWS], examples.classes))
    return [PROBABILITIES_ADVICE] if soft and examples.classes > 1 else []


def two_rows(examples: Examples) -> Examples:
    """Return two rows of examples; a single one twice."""
    places = np.arange(2) % len(examples.inputs)
    return replace(examples, inputs=examples.inputs[places], targets=examples.targets[places])


def inspect_untrained(
    build: Callable[[], nn.Module], restore: Restore, inputs: Floats, classes: int, device: str
) -> None:
    """Check that a network gives logits, and the same ones once it was stored and loaded, before it is trained.

    Args:
        build: a function that makes the untrained network.
        restore: a function that makes a network from stored arrays.
        inputs: some rows; the first few are used.

    Raises:
        Refused: it does not, or cannot be stored, or its code fails.
    """
    late, network = "", initialise(build, BUILT_WITH)
    try:
        make_late_layers(network, BUILT_WITH)
    except Exception as error:  # it may need a trainer; that matters only if forward fails without it
        late = f" (and its hooks setup and configure_model failed without a trainer: {describe_failure(error)})"
    network.to(device)
    for rows in (inputs[:1], inputs[:INSPECTED_ROWS]):
        text = f"{type(network).__name__}: forward failed on {_shapes(rows)}, float32, before any training"
        _tried(text, lambda rows=rows: raw_outputs(network, rows, classes), late)
    inspect_restored(network, restore, inputs, classes)


def inspect_restored(network: nn.Module, restore: Restore, inputs: Floats, classes: int) -> None:
    """Check that a network which is built anew and loaded from this one's state gives the same logits, to the bit.

    Raises:
        Refused: it does not, or the state cannot be stored.
    """
    import torch

    name, rows = type(network).__name__, inputs[:INSPECTED_ROWS]
    arrays = _through_file(name, to_arrays(network))
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        restored = restore(arrays)
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(
            f"{name}: it can be trained, but not be loaded from its state: {describe_failure(error)}"
        ) from error
    others = {id(weight) for weight in restored.parameters()}
    learned = [(own, weight) for own, weight in network.named_parameters() if weight.requires_grad]
    if shared := [own for own, weight in learned if id(weight) in others]:
        raise Refused(
            f"{name}: all networks that are built share {', '.join(shared[:5])}, so that members would train each "
            "other's weights; make them anew in the constructor"
        )
    models = (network, network, restored.to(device))
    before, again, after = (raw_outputs(model, rows, classes).tobytes() for model in models)
    if before == again != after:  # else it draws random numbers of its own, and there is nothing to compare
        forgotten = sorted(name for name, _ in network.named_buffers() if name not in arrays)
        hint = f"its buffers {', '.join(forgotten)} are not persistent" if forgotten else "is there a plain attribute?"
        raise Refused(
            f"{name}: loaded from its state, it predicts something else: forward uses values that are not in its "
            f"state_dict ({hint}); make them weights or persistent buffers"
        )


def _tried(what: str, call: Callable[[], T], after: str = "") -> T:
    """Return the result of a user's code.

    Raises:
        Refused: it failed; the message says what was tried, and names the user's line.
    """
    try:
        return call()
    except (DistensError, MemoryError):
        raise
    except Exception as error:  # the user's own code may raise anything
        if "out of memory" in str(error):
            raise
        raise Refused(f"{what}: {describe_failure(error)}{after}") from error


def _find_outputs(network: nn.Module, found: Any, rows: int, classes: int) -> Tensor:
    """Return the outputs as `check_outputs` does; its message gets the line of forward, and the usual cause."""
    try:
        return check_outputs(network, found, rows, classes)
    except Refused as error:
        shape, hint = getattr(found, "shape", None), ""
        if classes == 2 and shape in ((rows,), (rows, 1)):
            hint = ". One output is for a sigmoid; two classes need two outputs: take `classes` in the constructor"
        elif classes == 1 and shape == (rows,):
            hint = ". Keep the last axis: one output for each row is of shape (N, 1)"
        raise Refused(f"{error}{_find_forward(network)}{hint}") from error


def _find_forward(network: nn.Module) -> str:
    """Return ` (FILE, line N)`, the place of a network's forward; "" if it is not a user's own."""
    code = inspect.unwrap(type(network).forward).__code__
    return f" ({code.co_filename}, line {code.co_firstlineno})" if is_users_file(code.co_filename) else ""


def _shapes(inputs: Any, targets: Any = None) -> str:
    """Return the shapes of inputs, or of outputs and targets, in words."""
    if targets is None:
        return f"inputs of shape {tuple(inputs.shape)}"
    return f"outputs of shape {tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}"


def _through_file(name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays as they come back from a file."""
    from safetensors.numpy import load, save

    try:
        return load(save(arrays))
    except Exception as error:  # of several libraries: a type of numbers that the format lacks
        kinds = ", ".join(sorted({str(array.dtype) for array in arrays.values()}))
        raise Refused(f"{name}: its state, with numbers of the types {kinds}, cannot be stored: {error}") from error
