"""A rehearsal before anything starts: a member of each family with code of the user's own is tried with two rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from distens import registry
from distens.addresses import is_address
from distens.config.config import Config
from distens.data.dataset import Dataset, Examples
from distens.errors import ConfigError, DistensError
from distens.lifecycle.tasks import find_texts
from distens.members.protocol import Rehearses
from distens.records import Settings, settings_key
from distens.space.space import Space

SECONDS = 1.0
"""The time after which no second member of a family is tried."""

TRIED = ("kind", "model", "objective", "path", "options", "batch_size")
"""The settings for each of whose corners (see `Space.corners`) a member is tried."""

DEVICE_WORDS = ("cuda", "nvidia", "gpu", "device", "triton", "not implemented for")
"""Words in the error of code that works on a GPU alone."""


def rehearse(config: Config, dataset: Dataset, on_gpu: Callable[[Settings], bool]) -> Iterator[str]:
    """Try members, on the CPU, forward and backward; yield advice. Runs without a user's own networks take no time.

    Args:
        on_gpu: returns True if a member with given settings is trained on a GPU: there, an error that speaks of devices
            is advice.

    Raises:
        ConfigError: a member's code failed, or its results cannot be used; the message names the line.
    """
    started, seen = time.perf_counter(), set[str]()
    for settings, examples in _chosen(config, dataset):
        where = f"members.{settings['family']}" if "family" in settings else "distill.network"
        key = settings_key({"where": where, **{name: settings.get(name) for name in TRIED}})
        late = where in seen and time.perf_counter() - started > SECONDS
        if key in seen or late:
            continue
        seen |= {key, where}
        gpu = "family" in settings and on_gpu(settings)
        member = registry.build_member(settings)
        if not registry.has_capability(member, Rehearses) or (
            gpu and not registry.plugin_family(type(member), "model")
        ):
            continue  # a network that is only given to actors with GPUs may be too large for the driver
        try:
            yield from (f"{where}: {text}" for text in member.rehearse(examples))
        except DistensError as error:
            if not (gpu and any(word in str(error).lower() for word in DEVICE_WORDS)):
                raise ConfigError(f"{where}: {error}") from error
            yield f"{where}: tried with two rows on the driver's CPU, it failed: {error}"


def _chosen(config: Config, dataset: Dataset) -> Iterator[tuple[Settings, Examples]]:
    """Yield settings that name code of the user's own, and examples like those that such a member learns from."""
    for settings in Space(config.members).corners():
        if _names_own_code(settings):
            yield settings, _examples(dataset)
    network: Any = config.distill.get("network") if isinstance(config.distill, Mapping) else None
    if network is not None and _names_own_code(network):
        examples = _examples(dataset)
        soft_NC = np.full((len(examples.inputs), examples.classes), 1 / examples.classes, dtype=np.float32)
        yield network, replace(examples, targets=soft_NC)


def _names_own_code(settings: Settings) -> bool:
    return any(map(is_address, find_texts(settings)))


def _examples(dataset: Dataset) -> Examples:
    """Return the rows to learn from; rows of zeros where a federation's server has none."""
    if len(dataset.inputs["train"]):
        return dataset.examples()
    classes = len(dataset.target.column_names)
    inputs = np.zeros((2, *dataset.inputs["test"].shape[1:]), dtype=np.float32)
    return Examples(inputs, np.arange(2) % classes, classes)
