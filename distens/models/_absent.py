"""Weights that a constructor reads from a file, where the file is gone: nothing is read, and nothing is loaded.

A network that starts from weights in a file is stored with all its weights, so its constructor need not read that file
again when it is restored. Meanwhile these functions are replaced, for the thread that restores: `torch.load` and the
readers of safetensors return an `Absent` where a file cannot be read, nothing is downloaded, and `load_state_dict`
ignores an `Absent`. Anything else that a constructor does with one fails, or leaves a network that the stored weights
do not fit, so that a wrong network is never restored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_LOCK = threading.RLock()


class Absent(dict[str, Any]):
    """The content of a file that could not be read: a mapping without entries, of which every entry is absent, too."""

    def __missing__(self, key: Any) -> Absent:
        return self

    def __getattr__(self, name: str) -> Absent:  # of a whole network, or of an open file
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *given: Any, **named: Any) -> Absent:
        return self

    def __enter__(self) -> Absent:
        return self

    def __exit__(self, *error: Any) -> None:
        return None

    def __delitem__(self, key: Any) -> None:
        return None

    def get(self, *given: Any) -> Absent:
        """Return an absent entry, and not the default, with which another network might be made."""
        return self

    pop = get


@contextmanager
def absent_weights() -> Iterator[None]:
    """Let this thread's constructors do without files of weights (see above); one thread does so at a time."""
    import safetensors.torch
    import torch

    owner, found = threading.get_ident(), list[OSError]()

    def reading(read: Callable[..., Any]) -> Callable[..., Any]:
        def reader(*given: Any, **named: Any) -> Any:
            try:
                return read(*given, **named)
            except OSError as error:
                if threading.get_ident() != owner:
                    raise
                found.append(error)
                return Absent()

        return reader

    def downloading(download: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: None if threading.get_ident() == owner else download(*given, **named)

    def loading(load: Callable[..., Any]) -> Callable[..., Any]:
        def loader(network: Any, state: Any, *given: Any, **named: Any) -> Any:
            try:
                if not isinstance(state, Absent):
                    return load(network, state, *given, **named)
            except RuntimeError:
                if threading.get_ident() != owner or not found:
                    raise
            return load(network, network.state_dict())

        return loader

    replaced: list[tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = [
        (torch, "load", reading),
        (safetensors.torch, "safe_open", reading),
        (torch.hub, "download_url_to_file", downloading),
        (torch.nn.Module, "load_state_dict", loading),
    ]
    with _LOCK:
        known = [getattr(place, name) for place, name, _ in replaced]
        try:
            for (place, name, instead), function in zip(replaced, known, strict=True):
                setattr(place, name, instead(function))
            yield
        finally:
            for (place, name, _), function in zip(replaced, known, strict=True):
                setattr(place, name, function)
