"""Why tasks of an ensemble are done."""

from __future__ import annotations

from enum import Enum


class Purpose(str, Enum):
    """A task's purpose, as a journal and tracking have it."""

    SEARCH = "search"
    STUDENT = "student"
    STUDENT_ON_LABELS = "student_on_labels"
    LARGER_SINGLE = "larger_single"
    SEED_ENSEMBLE = "seed_ensemble"

    __str__ = str.__str__
