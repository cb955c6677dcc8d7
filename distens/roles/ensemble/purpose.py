"""The purposes of an ensemble's tasks."""

from __future__ import annotations

from enum import Enum


class EnsemblePurpose(str, Enum):
    """The purpose of a task, by the name that journal and tracking use."""

    SEARCH = "search"
    STUDENT = "student"
    STUDENT_ON_LABELS = "student_on_labels"
    LARGER_SINGLE = "larger_single"
    SEED_ENSEMBLE = "seed_ensemble"
    REFIT = "refit"

    __str__ = str.__str__
