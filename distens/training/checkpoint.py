"""Checkpoints of a training as plain states: tensors become arrays, all else becomes JSON; there is no pickle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from distens.errors import Refused
from distens.records import State
from distens.storage.checkpoint import Checkpoint

TRAINING_PER_SAVING = 20
"""Between two checkpoints, training lasts at least this many times as long as saving the last one took."""


class CheckpointTimer:
    """A clock for checkpoints, such that saving costs little and short trainings never save."""

    def __init__(self, checkpoint: Checkpoint, seconds_before: float = 0.0) -> None:
        self._every = checkpoint.every_seconds
        self._started = time.perf_counter() - seconds_before
        self._next = time.perf_counter() + self._every
        self._checkpoint = checkpoint

    def seconds(self) -> float:
        """Return the training time so far, in seconds, with interrupted attempts and without the time of saving."""
        return time.perf_counter() - self._started

    def due(self) -> bool:
        """Return True if it is time to save."""
        return time.perf_counter() >= self._next

    def save(self, state: State) -> None:
        """Save a checkpoint, and set the time of the next one."""
        before = time.perf_counter()
        self._checkpoint.save(state)
        after = time.perf_counter()
        self._started += after - before
        self.postpone(after - before)

    def postpone(self, seconds: float) -> None:
        """Set the time of the next checkpoint: saving this one, and those saved together with it, took `seconds`."""
        pause = max(self._every, TRAINING_PER_SAVING * seconds) if self._every else 0.0
        self._next = time.perf_counter() + pause


def encode_tree(tree: Any, meta: Mapping[str, Any]) -> State:
    """Return a state that holds a tree of mappings, lists, tuples, tensors and plain values.

    Args:
        meta: further entries of the state's `meta`.

    Raises:
        Refused: the tree holds a value of another type.
    """
    arrays: dict[str, Any] = {}
    return State(arrays, {**meta, "tree": _encode(tree, arrays, "checkpoint")})


def decode_tree(state: State) -> Any:
    """Rebuild the tree from `encode_tree`'s state; its tensors lie on the CPU."""
    return _decode(state.meta["tree"], state.arrays)


def _encode(value: Any, arrays: dict[str, Any], where: str) -> Any:
    import torch

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor):
        name = f"t{len(arrays)}"
        dtype = str(value.dtype).removeprefix("torch.")
        tensor = value.detach().cpu()
        arrays[name] = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy().copy()
        return {"tensor": name, "shape": list(value.shape), "dtype": dtype}
    if isinstance(value, Mapping):  # as pairs: keys may be numbers
        items = [[_encode(k, arrays, where), _encode(v, arrays, f"{where}.{k}")] for k, v in value.items()]
        return {"mapping": items}
    if isinstance(value, list | tuple):
        items = [_encode(item, arrays, f"{where}.{i}") for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    raise Refused(
        f"{where}: cannot be saved in a checkpoint: found {type(value).__module__}.{type(value).__qualname__}, "
        "allowed are tensors, numbers, strings, lists, tuples and mappings of them"
    )


def _decode(value: Any, arrays: Mapping[str, Any]) -> Any:
    import torch

    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "tensor" in value:
        return torch.tensor(arrays[value["tensor"]], dtype=getattr(torch, value["dtype"])).reshape(value["shape"])
    if "tuple" in value:
        return tuple(_decode(item, arrays) for item in value["tuple"])
    return {_decode(key, arrays): _decode(inner, arrays) for key, inner in value["mapping"]}
