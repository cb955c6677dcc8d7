"""Watching a network's own code: what a pass leaves behind beside its outputs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distens.training.network import local_chance
from distens.training.stages import Unstackable

TORCHS_OWN = frozenset(vars(nn.Module()))
"""The names of the attributes that every module has."""


@contextmanager
def watched(network: nn.Module) -> Iterator[None]:
    """Raise Unstackable if the body draws random numbers, or changes an attribute or replaces a buffer of a module."""
    before = _attributes(network)
    python, numpys, drawn = random.getstate(), np.random.get_state(), _drawn_of_numpy()
    try:
        with local_chance("cpu"):
            chance = torch.get_rng_state()
            yield
            drew = not torch.equal(torch.get_rng_state(), chance)
        drew = drew or random.getstate() != python or _drawn_of_numpy() != drawn
    finally:
        random.setstate(python)
        np.random.set_state(numpys)
    if drew:
        raise Unstackable("forward draws random numbers of its own")
    after = _attributes(network)
    changed = [name for name in {**before, **after} if not _same(before.get(name), after.get(name))]
    if changed:
        raise Unstackable(f"forward changes {changed[0]}")


def _drawn_of_numpy() -> tuple[bytes, int, int]:
    state = np.random.get_state(legacy=False)
    return state["state"]["key"].tobytes(), state["state"]["pos"], state["has_gauss"]


def _attributes(network: nn.Module) -> dict[str, Any]:
    """Return name -> value of all attributes of all modules that are not torch's own, and of all buffers."""
    found: dict[str, Any] = {}
    for path, module in network.named_modules():
        given = {name: value for name, value in vars(module).items() if name not in TORCHS_OWN}
        found |= {f"{path}.{name}".lstrip("."): _shallow(value) for name, value in given.items()}
        found |= {f"{path}.{name}".lstrip("."): [value] for name, value in module._buffers.items()}
    return found


def _shallow(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [value, value._version]
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list | tuple | set | frozenset) else value


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(_same, before, after))
    plain = isinstance(before, bool | int | float | str) and type(before) is type(after)
    return before is after or (plain and before == after)
