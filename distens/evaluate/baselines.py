"""Baselines that an ensemble must beat, at the same size or the same effort, as settings to train.

`larger_single` answers "would one network of the ensemble's size do as well?" (Abe et al. 2022, "Deep Ensembles Work,
But Are They Necessary?"), `seed_ensemble` "was diversity of settings worth the search?" (Lakshminarayanan et al. 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distens import registry
from distens.models.protocol import Model, Widens
from distens.records import Settings
from distens.training.network import count_parameters

KINDS = ("larger_single", "seed_ensemble")

LEARNING_RATE_FACTORS = (1 / 3, 1.0, 3.0)
"""A wider network may need another learning rate: these multiples of the narrower network's are tried."""

MAX_PARAMETERS = 20_000_000
"""The largest size to which a network is widened: large forests store more numbers than any network needs."""


def widen(model: Widens, wanted: int, input_shape: tuple[int, ...], classes: int) -> Model:
    """Return the model at the width whose number of parameters is nearest to `wanted`; never a narrower one.

    Parameters grow with the width, so the factor is found by bisection.
    """
    wanted = min(wanted, MAX_PARAMETERS)

    def size(factor: float) -> int:
        return count_parameters(model.widened(factor), input_shape, classes)

    low, high = 1.0, 2.0
    while size(low) < size(high) < wanted:  # a network without hidden layers does not grow
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        if size(middle) < wanted:
            low = middle
        else:
            high = middle
    return model.widened(min((low, high), key=lambda factor: abs(size(factor) - wanted)))


def larger_single(settings: Settings, wanted: int, input_shape: tuple[int, ...], classes: int) -> list[Settings]:
    """Return settings of one network of about `wanted` parameters, one for each learning rate to try; epochs stay.

    Args:
        settings: the settings of the best member that can be widened (see `can_widen`).
        wanted: the selection's total number of parameters.
    """
    member = registry.build_member(settings)
    model = widen(member.model, wanted, input_shape, classes)
    spec = registry.resolve_options(model)
    return [
        {**settings, "model": spec, "learning_rate": member.learning_rate * factor} for factor in LEARNING_RATE_FACTORS
    ]


def without_dropout(settings: Settings) -> Settings:
    """Return a network's settings with no dropout in its model.

    Dropout that suits labels is too strong for a student, because its teachers' probabilities are smooth already.
    (LeNet on 8,400 images of Fashion-MNIST, error on held-out training images: student 11.8% with the 0.42 that suited
    labels, 11.2% with none; labels 11.5%.)
    """
    model = registry.resolve_options(registry.build_member(settings).model)
    return {**settings, "model": {**model, "dropout": 0.0}} if "dropout" in model else settings


def is_network(settings: Mapping[str, Any]) -> bool:
    """Return True if a member of these settings is a network, which can learn from soft targets.

    It is one if it has an option `model` of the family `models`, and a `learning_rate`.
    """
    cls = registry.find_plugin("members", settings["kind"], "members")
    known = registry.options(cls)
    return "learning_rate" in known and "model" in known and registry.plugin_family(cls, "model") == "models"


def can_widen(settings: Settings) -> bool:
    """Return True if a member of these settings is a network whose model has a width."""
    return is_network(settings) and registry.has_capability(registry.build_member(settings).model, Widens)
