"""distens: train many models side by side on Ray and turn them into one thing worth deploying.

config = distens.load_config("configs/digits.yaml")
result = distens.run(config)
distens.load(result.path).predict_proba(rows)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from distens.config.config import Config, load_config
    from distens.coordinator import load_result, resume, run
    from distens.errors import (
        BundleError,
        ConfigError,
        DataError,
        DistensError,
        RunError,
        StorageError,
    )
    from distens.own_loop import ensemble, load_data, member
    from distens.serve.predictor import load

_HOME = {
    "Config": "config.config",
    "load_config": "config.config",
    "load_result": "coordinator",
    "run": "coordinator",
    "resume": "coordinator",
    "load": "serve.predictor",
    **dict.fromkeys(("ensemble", "load_data", "member"), "own_loop"),
    **dict.fromkeys(("BundleError", "ConfigError", "DataError", "DistensError", "RunError", "StorageError"), "errors"),
}

__all__ = [
    "BundleError",
    "Config",
    "ConfigError",
    "DataError",
    "DistensError",
    "RunError",
    "StorageError",
    "ensemble",
    "load",
    "load_config",
    "load_data",
    "load_result",
    "member",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: `import distens` alone imports neither torch nor ray nor mlflow.
    if name not in _HOME:
        raise AttributeError(f"module 'distens' has no attribute {name!r}")
    return getattr(importlib.import_module(f"distens.{_HOME[name]}"), name)
