"""Surroundings of a training by Lightning: its messages, torch's kernels, Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def silence_lightning() -> Iterator[None]:
    """Suppress Lightning's notes and tips in the body, as a run has many members."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
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
