"""One root seed; every other seed is derived from it by name, so that none depends on the order of calls."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(root: int, *names: str | int) -> int:
    """Return a seed in [0, 2**31) that depends on the root seed and the names alone."""
    text = "/".join([str(root), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def generator(root: int, *names: str | int) -> np.random.Generator:
    """Return a fresh generator for the named purpose."""
    return np.random.default_rng(derive(root, *names))
