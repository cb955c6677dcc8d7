"""Surroundings of a training by Lightning: its messages, torch's kernels, Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

TIPS = (
    "does not have many workers",
    "smaller than the logging interval",
    "exists and is not empty",
    "GPU available but not used",
    "`srun` command is available",
    "sync_dist=True",
    "The dirpath has changed",
)
"""Parts of Lightning's warnings that concern what distens decides, not the user's module."""

_SHOWN: set[tuple[str, str]] = set()


@contextmanager
def silence_lightning(name: str, folder: Path) -> Iterator[None]:
    """Suppress Lightning's notes and tips in the body, as a run has many members.

    Its warnings about the user's module are shown once in a process, with the module's name.

    Args:
        name: the name of the user's class.
        folder: the folder of Lightning's own code.
    """
    loggers = [logging.getLogger(logger) for logger in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            show = warnings.showwarning

            def show_once(message: Any, category: type[Warning], file: str, *rest: Any, **more: Any) -> None:
                if not Path(file).is_relative_to(folder):
                    show(message, category, file, *rest, **more)
                    return
                text = " ".join(str(message).split())
                if (name, text) not in _SHOWN and not any(tip in text for tip in TIPS):
                    _SHOWN.add((name, text))
                    warnings.warn(f"{name}: Lightning warns: {text}", stacklevel=1)

            warnings.showwarning = show_once
            warnings.filterwarnings("ignore", module=r"lightning\.")
            for category in (UserWarning, RuntimeWarning):
                warnings.filterwarnings("always", category=category, module=r"lightning\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def repeat_kernels(cuda: bool) -> Iterator[None]:
    """Make torch use repeatable GPU kernels in the body; if an operation has none, torch warns instead of failing."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if cuda:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def keep_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C in the body, where Lightning raises SystemExit and then ignores the signal."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGINT, handler)
